// xa = x A^T in the first blocks of a row product's launch (row_product_lora.cuh). An item is up to
// 16 ranks of an adapter and up to 8 of its rows, for a team of 8 warps, of which each has the
// columns of one sum as in the product: 256 of 2048; the 8 sums are added in order. So the order
// depends on the columns alone. A comes through a ring of each warp in shared memory. Private to
// row_product*.cu.
#ifndef LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_SHRINK_CUH_
#define LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_SHRINK_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/ops/cuda/attention_mma.cuh"
#include "engine/ops/cuda/chained_launch.cuh"
#include "engine/ops/cuda/row_product_lora.cuh"
#include "engine/ops/cuda/row_product_tile.cuh"

namespace lorad::cuda {

inline constexpr int kShrinkWarps = 8, kShrinkThreads = 32 * kShrinkWarps;  // of a team
inline constexpr int kShrinkGroup = 256;                                    // columns
inline constexpr int kShrinkStages = 2, kShrinkColumns = kShrinkGroup / 2;  // of a stage

// A stage is 16 ranks. Neighbouring rows have the halves of each 128 bytes exchanged, so that 8
// lanes read two rows without meeting in a bank.
using ShrinkStage = uint4[kLoraRanks][kShrinkColumns / kChunk];
// Of a team.
union ShrinkShared {
  ShrinkStage a[kShrinkWarps][kShrinkStages];
  float sums[kShrinkWarps][kTileRows][kLoraRanks + 1];  // when all of A is done with
};

// One item: up to 16 ranks of an adapter times some of its rows.
struct ShrinkItem {
  int entry, rank, row;  // the first rank and row; rows count from the adapter's first one
};
template <typename Lora>
__device__ __forceinline__ ShrinkItem LocateItem(const Lora& lora, uint32_t item) {
  int low = 0, high = lora.count;  // the entry is in [low, high)
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (item >= lora.first_item[middle] ? low : high) = middle;
  }
  const int place = static_cast<int>(item) - lora.first_item[low];
  const int steps = (lora.entries[low].rank + lora.item_ranks - 1) / lora.item_ranks;
  return {low, place % steps * lora.item_ranks, place / steps * kTileRows};
}

template <int kTeams>
__device__ __forceinline__ void SyncShrinkTeam() {
  if constexpr (kTeams == 1) {
    __syncthreads();
  } else {
    const bool first = threadIdx.x < kShrinkThreads;
    asm volatile("bar.sync %0, %1;\n" ::"r"(first ? 1 : 2), "n"(kShrinkThreads) : "memory");
  }
}

// One item in the hands of a team.
template <int kTeams, typename Lora>
class Shrinker {
 public:
  __device__ __forceinline__ Shrinker(const RowProductArgs& args, const Lora& lora, uint32_t item,
                                      ShrinkShared& shared)
      : args_(args),
        lora_(lora),
        at_(LocateItem(lora, item)),
        columns_(static_cast<int>(args.entries[0].term.weight.columns)),
        shared_(shared) {}

  // Asks for A, which is there before any kernel of a step is launched: earlier kernels may still
  // run. All of it comes near, the first stages come in.
  __device__ __forceinline__ void Begin() {
    const __nv_bfloat16* a = A();
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x % 32 == 0) {
      const uint32_t bytes = ranks() * columns_ / kShrinkWarps * 2;
      asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;\n" ::"l"(
                       reinterpret_cast<const char*>(a) + warp() * static_cast<int64_t>(bytes)),
                   "r"(bytes)
                   : "memory");
    }
#endif
#pragma unroll
    for (int i = 0; i < kShrinkStages; ++i) Copy(a, i);
  }

  // Writes xa and counts the item. Earlier kernels have ended.
  __device__ __forceinline__ void Finish() {
    float sums[4] = {};
    Multiply(sums);
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, thread = threadIdx.x % kShrinkThreads;
    SyncShrinkTeam<kTeams>();  // A is done with
#pragma unroll
    for (int i = 0; i < 4; ++i) shared_.sums[warp()][2 * t + i % 2][g + i / 2 * 8] = sums[i];
    SyncShrinkTeam<kTeams>();
    const RowLoraEntry& entry = lora_.entries[at_.entry];
    const int r = thread / kLoraRanks, k = thread % kLoraRanks;
    if (r < kTileRows && entry.row_begin + at_.row + r < entry.row_end && k < ranks()) {
      float sum = shared_.sums[0][r][k];
#pragma unroll
      for (int s = 1; s < kShrinkWarps; ++s) sum += shared_.sums[s][r][k];
      entry.xa[(at_.row + r) * entry.rank + at_.rank + k] = __float2bfloat16_rn(sum);
    }
    SyncShrinkTeam<kTeams>();
    if (thread == 0) {
      __threadfence();
      CountXa(lora_);
    }
  }

 private:
  static __device__ __forceinline__ int warp() { return threadIdx.x / 32 % kShrinkWarps; }
  // Where stage i of the warp begins: halves of its groups.
  static __device__ __forceinline__ int Column(int i) {
    return (i / 2 * kShrinkWarps + warp()) * kShrinkGroup + i % 2 * kShrinkColumns;
  }
  __device__ __forceinline__ const __nv_bfloat16* A() const {
    return lora_.entries[at_.entry].a + static_cast<int64_t>(at_.rank) * columns_;
  }
  __device__ __forceinline__ int ranks() const {
    return min(lora_.entries[at_.entry].rank - at_.rank, lora_.item_ranks);
  }

  // Starts the copy of stage i, if there is one; zeros for ranks that are not.
  __device__ __forceinline__ void Copy(const __nv_bfloat16* a, int i) {
    const int column = Column(i), lane = threadIdx.x % 32, chunk = lane % 16;
    if (column < columns_) {
#pragma unroll
      for (int j = 0; j < kLoraRanks / 2; ++j) {
        const int row = 2 * j + lane / 16;
        uint4* to = &shared_.a[warp()][i % kShrinkStages][row][chunk ^ lane / 16 * 4];
        CopyAsync16(static_cast<uint32_t>(__cvta_generic_to_shared(to)),
                    a + row * static_cast<int64_t>(columns_) + column + chunk * kChunk,
                    row < ranks());
      }
    }
    CommitCopies();
  }

  __device__ __forceinline__ void Multiply(float (&sums)[4]) {
    constexpr int kSteps = kShrinkColumns / (4 * kChunk);
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const RowLoraEntry& entry = lora_.entries[at_.entry];
    const __nv_bfloat16* a = A();
    const int row = entry.row_begin + at_.row + g;
    const bool has_row = row < entry.row_end;
    const __nv_bfloat16* x = args_.x + (has_row ? row : 0) * args_.x_stride + t * kChunk;
    uint4 next[kSteps] = {};
    const auto load_x = [&](int column) {
      if (column >= columns_ || !has_row) return;
#pragma unroll
      for (int s = 0; s < kSteps; ++s)
        next[s] = *reinterpret_cast<const uint4*>(x + column + s * (4 * kChunk));
    };
    load_x(Column(0));
    for (int i = 0; Column(i) < columns_; ++i) {
      uint4 now[kSteps];
#pragma unroll
      for (int s = 0; s < kSteps; ++s) now[s] = next[s];
      load_x(Column(i + 1));
      WaitForCopies<kShrinkStages - 1>();
      __syncwarp();
      const ShrinkStage& stage = shared_.a[warp()][i % kShrinkStages];
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        const int chunk = (4 * s + t) ^ g % 2 * 4;
        const WeightFragments w = Fragments(stage[g][chunk], stage[g + 8][chunk]);
        MultiplyAdd(sums, w.first, now[s].x, now[s].y);
        MultiplyAdd(sums, w.second, now[s].z, now[s].w);
      }
      __syncwarp();  // all lanes have read the stage
      Copy(a, i + kShrinkStages);
    }
  }

  const RowProductArgs& args_;
  const Lora& lora_;
  const ShrinkItem at_;
  const int columns_;
  ShrinkShared& shared_;
};

// The part of one of the first blocks of the launch, which is one team or two. `shared` has a
// ShrinkShared for each. Waits for earlier kernels.
template <int kTeams, typename Lora>
__device__ __forceinline__ void Shrink(const RowProductArgs& args, const Lora& lora,
                                       ShrinkShared* shared) {
  const int team = threadIdx.x / kShrinkThreads;
  const uint32_t first = team * lora.shrink_blocks + blockIdx.x;  // a lone item has a block's path
  for (uint32_t item = first; item < lora.items; item += kTeams * lora.shrink_blocks) {
    Shrinker<kTeams, Lora> shrinker(args, lora, item, shared[team]);
    shrinker.Begin();
    if (item == first) WaitForEarlierKernels();
    shrinker.Finish();
  }
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_SHRINK_CUH_
