// y += scaling * xa B^T in the epilogue of a row product (row_product_lora.cuh). A fragment of the
// weights' own product, 16 outputs x 8 rows, is one mma for each adapter among the rows and 16 of
// its ranks, from zero, of which a row takes its own adapter's: no other number reaches it, not
// even a NaN, and rows without an adapter are not touched. Private to row_product*.cu.
#ifndef LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_EXPAND_CUH_
#define LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_EXPAND_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/ops/cuda/attention_mma.cuh"
#include "engine/ops/cuda/row_product_lora.cuh"
#include "engine/ops/cuda/row_product_tile.cuh"

namespace lorad::cuda {

// Of rows [first_row, first_row + 8), a multiple of 8, that of this group of four lanes: its
// adapter, or kNoAdapter.
template <typename Lora>
__device__ __forceinline__ int AdapterOfRow(const Lora& lora, int term, int first_row) {
  const int g = threadIdx.x % 32 / 4;
  const uint2 entries = *reinterpret_cast<const uint2*>(&lora.entry_of_row[term][first_row]);
  return (g < 4 ? entries.x : entries.y) >> g % 4 * 8 & 255;
}
// Of ranks [rank, rank + 16) of a row's xa, when it is there, the part of lane position t.
template <typename Lora>
__device__ __forceinline__ uint2 LoadXa(const Lora& lora, int adapter, int row, int rank, int t) {
  if (adapter == kNoAdapter) return make_uint2(0, 0);
  const RowLoraEntry& entry = lora.entries[adapter];
  rank += 4 * t;
  if (rank >= entry.rank) return make_uint2(0, 0);
  return __ldcg(
      reinterpret_cast<const uint2*>(entry.xa + ((row - entry.row_begin) * entry.rank + rank)));
}

// Ranks [rank, rank + 16) of B for 16 outputs as a fragment.
__device__ __forceinline__ void LoadB(const RowLoraEntry& entry, int64_t out, int rank,
                                      uint32_t (&b)[4]) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  b[0] = b[1] = b[2] = b[3] = 0;
  rank += 4 * t;
  if (rank >= entry.rank) return;
  const __nv_bfloat16* row = entry.b + ((out + g) * entry.rank + rank);
  const uint2 low = __ldg(reinterpret_cast<const uint2*>(row));
  const uint2 high = __ldg(reinterpret_cast<const uint2*>(row + 8 * entry.rank));
  b[0] = low.x, b[1] = high.x, b[2] = low.y, b[3] = high.y;
}

// The first ranks of B of some of the adapters of 8 rows, for 16 outputs, which are always the same
// ones: what is held and wanted again, of other rows, is not loaded again.
template <int kCount>
struct HeldB {
  int adapters[kCount];
  uint32_t b[kCount][4];
  uint32_t left = 0;  // lanes of the rows whose adapters are not held, nor were

  __device__ __forceinline__ HeldB() {
#pragma unroll
    for (int j = 0; j < kCount; ++j) adapters[j] = kNoAdapter;
  }
  // Of the rows of the lanes; `adapter` is that of this lane's row.
  template <typename Lora>
  __device__ __forceinline__ void TakeFirst(const Lora& lora, int adapter, int64_t out) {
    left = __ballot_sync(0xffffffffu, adapter != kNoAdapter);
    TakeNext(lora, adapter, out);
  }
  template <typename Lora>
  __device__ __forceinline__ void TakeNext(const Lora& lora, int adapter, int64_t out) {
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      if (left == 0) {
        adapters[j] = kNoAdapter;
        continue;
      }
      const int next = __shfl_sync(0xffffffffu, adapter, __ffs(left) - 1);
      left &= ~__ballot_sync(0xffffffffu, adapter == next);
      if (adapters[j] != next) LoadB(lora.entries[next], out, 0, b[j]);
      adapters[j] = next;
    }
  }
};

// values += what the adapters of rows [first_row, first_row + 8) add to outputs [out, out + 16),
// which all exist; values[i] is of output out + g + i / 2 * 8 and row 2 t + i % 2. `adapter` and
// `xa` are of this lane's row, `held` has taken the first adapters of these rows. By all lanes of a
// warp.
template <int kCount, typename Lora>
__device__ __forceinline__ void AddLora(const Lora& lora, int adapter, const uint2& xa,
                                        int first_row, int64_t out, HeldB<kCount>& held,
                                        float (&values)[4]) {
  constexpr unsigned kAll = 0xffffffffu;
  if (held.adapters[0] == kNoAdapter) return;
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const float scaling = adapter != kNoAdapter ? lora.entries[adapter].scaling : 0;
  int of_row[2];
  float scalings[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    of_row[i] = __shfl_sync(kAll, adapter, (2 * t + i) * 4);
    scalings[i] = __shfl_sync(kAll, scaling, (2 * t + i) * 4);
  }
  while (true) {
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const int now = held.adapters[j];
      if (now == kNoAdapter) continue;
      float sums[4] = {};
      MultiplyAdd(sums, held.b[j], xa.x, xa.y);
      const int rank = lora.entries[now].rank;
      for (int k = kLoraRanks; k < rank; k += kLoraRanks) {
        uint32_t b[4];
        LoadB(lora.entries[now], out, k, b);
        const uint2 more = LoadXa(lora, adapter == now ? now : kNoAdapter, first_row + g, k, t);
        MultiplyAdd(sums, b, more.x, more.y);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (of_row[i % 2] == now) values[i] = __fmaf_rn(scalings[i % 2], sums[i], values[i]);
      }
    }
    if (held.left == 0) break;
    held.TakeNext(lora, adapter, out);
  }
}

// Asks for B of the adapter of a row and `outs` outputs, so that it is near when it is wanted. By
// one thread a row; nothing for rows that share the adapter of one before, within 8 if `apart`.
template <typename Lora>
__device__ __forceinline__ void FetchB(const Lora& lora, int term, int64_t out, int outs, int row,
                                       bool apart) {
#if __CUDA_ARCH__ >= 900
  const int index = lora.entry_of_row[term][row];
  if (index == kNoAdapter) return;
  const RowLoraEntry& entry = lora.entries[index];
  if (row != entry.row_begin && !(apart && row % kTileRows == 0)) return;
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;\n" ::"l"(entry.b + out * entry.rank),
               "r"(outs * entry.rank * 2)
               : "memory");
#endif
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_EXPAND_CUH_
