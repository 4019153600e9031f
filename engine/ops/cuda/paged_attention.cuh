// What the kernels of paged attention share: how a context is cut, finding a row's sequence, the
// fold of splits, loads, the exchange between warps. Private to paged_attention.cu, which explains
// them, and decode_attention.cu.
#ifndef LORAD_ENGINE_OPS_CUDA_PAGED_ATTENTION_CUH_
#define LORAD_ENGINE_OPS_CUDA_PAGED_ATTENTION_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/ops/cuda/attention_mma.cuh"
#include "engine/ops/cuda/paged_attention.h"

namespace lorad::cuda {

inline constexpr int kPagedWarps = 4;  // of a block
inline constexpr int kPagedThreads = 32 * kPagedWarps;
inline constexpr int kWarpKeys = 64;  // of a split
inline constexpr int kSplitKeys = kPagedWarps * kWarpKeys;
inline constexpr int kPagedSlots = 16;    // rows of q that a product takes
inline constexpr int kLineElements = 64;  // of a cache line

struct PagedArgs {
  PagedAttentionParams p;
  int64_t group = 0;       // query heads of a kv head
  int64_t head_tiles = 0;  // tiles that these heads take: 1 unless group > 16
  int64_t tile_rows = 0;
  int64_t max_splits = 0;
  float log2_scale = 0;  // scale * log2(e)
  bool fetch = false;    // a block's first keys and values, ahead
};

// Rows of one sequence.
struct PagedTile {
  int32_t sequence;
  int32_t rows;      // 0: none
  int64_t first;     // row of q
  int64_t position;  // of that row
};

// Tiles of a sequence begin at number cu_seqlens[s] / tile_rows + s, which leaves room for all of
// them and a few that are empty, so that no one has to count; tiles of one row are rows.
__device__ __forceinline__ int64_t FirstTile(const PagedArgs& args, int64_t s) {
  const int64_t row = args.p.cu_seqlens[s];
  return args.tile_rows == 1 ? row : row / args.tile_rows + s;
}

// Finds tile `index`. Waits for the block. `found` is in shared memory.
__device__ __forceinline__ PagedTile FindTile(const PagedArgs& args, int64_t index,
                                              PagedTile* found) {
  if (threadIdx.x == 0) found->rows = 0;
  __syncthreads();
  for (int64_t s = threadIdx.x; s < args.p.num_sequences; s += blockDim.x) {
    const int64_t begin = FirstTile(args, s);
    if (index < begin || index >= FirstTile(args, s + 1)) continue;
    const int64_t end = args.p.cu_seqlens[s + 1];
    const int64_t first = args.p.cu_seqlens[s] + (index - begin) * args.tile_rows;
    if (first >= end) continue;
    found->sequence = static_cast<int32_t>(s);
    found->rows = static_cast<int32_t>(args.tile_rows < end - first ? args.tile_rows : end - first);
    found->first = first;
    found->position = args.p.context_lens[s] - (end - first);
  }
  __syncthreads();
  return *found;
}

// What the fold of one more split does to a slot: (m, l, o) = (m, l * keep + .., o * keep + ..).
struct Fold {
  float keep, add;
};
__device__ __forceinline__ Fold FoldOf(float m, float split_m, float* new_m) {
  *new_m = fmaxf(m, split_m);
  const float base = *new_m == -INFINITY ? 0.0f : *new_m;
  return {Exp2(m - base), Exp2(split_m - base)};
}
__device__ __forceinline__ float Folded(const Fold& fold, float sum, float split_sum) {
  return __fmaf_rn(sum, fold.keep, __fmul_rn(split_sum, fold.add));
}

// Eight numbers from `dim` on of a row of `dims`, zeros beyond it and where there is no row.
template <bool kAligned>
__device__ __forceinline__ uint4 LoadEight(const __nv_bfloat16* row, int dim, int dims) {
  uint4 values = make_uint4(0, 0, 0, 0);
  if (row == nullptr || dim >= dims) return values;
  if constexpr (kAligned) {
    values = __ldg(reinterpret_cast<const uint4*>(row + dim));
  } else {
    uint32_t words[4];
#pragma unroll
    for (int w = 0; w < 4; ++w) {  // dims is even
      const int i = dim + 2 * w;
      words[w] =
          i < dims ? __bfloat16_as_ushort(row[i]) | uint32_t{__bfloat16_as_ushort(row[i + 1])} << 16
                   : 0;
    }
    values = make_uint4(words[0], words[1], words[2], words[3]);
  }
  return values;
}

// Where a key and its value lie.
struct KeyRows {
  const __nv_bfloat16 *k, *v;  // null: beyond the tile's last key
};
__device__ __forceinline__ KeyRows FindKey(const PagedArgs& args, const PagedTile& tile,
                                           int64_t kv_head, int64_t key) {
  const PagedAttentionParams& p = args.p;
  if (key >= tile.position + tile.rows) return {nullptr, nullptr};
  const int64_t page = key / p.page_tokens;
  const int64_t place = ((key - page * p.page_tokens) * p.num_kv_heads + kv_head) * p.head_dim;
  const int64_t entry = p.page_table[tile.sequence * p.page_table_stride + page];
  return {reinterpret_cast<const __nv_bfloat16*>(p.k_cache) + entry * p.k_page_stride + place,
          reinterpret_cast<const __nv_bfloat16*>(p.v_cache) + entry * p.v_page_stride + place};
}

// Has a row fetched into the second-level cache.
__device__ __forceinline__ void Prefetch(const __nv_bfloat16* row, int dims) {
  if (row == nullptr) return;
  for (int dim = 0; dim < dims; dim += kLineElements)
    asm volatile("prefetch.global.L2 [%0];\n" ::"l"(row + dim));
}

inline constexpr int kPartialHead = 2;  // m and l before o

// Elements between partial results in the workspace: of row t, head h and split s at
// ((t * num_heads + h) * max_splits + s) times this.
__host__ __device__ __forceinline__ int64_t PartialElements(int64_t head_dim) {
  return head_dim + kPartialHead;
}
__device__ __forceinline__ float* Partial(const PagedArgs& args, int64_t row, int64_t head,
                                          int64_t split) {
  return static_cast<float*>(args.p.workspace) +
         ((row * args.p.num_heads + head) * args.max_splits + split) *
             PartialElements(args.p.head_dim);
}

__device__ __forceinline__ __nv_bfloat16* Output(const PagedArgs& args, int64_t row, int64_t head) {
  return reinterpret_cast<__nv_bfloat16*>(args.p.o) + row * args.p.o_stride +
         head * args.p.head_dim;
}

// What the warps of a block exchange about a split: warp_max and warp_sum of S are
// [kPagedWarps][8 kHalves slots]. scores[n] is the fragment of the warp's keys [8 n, 8 n + 8), of
// slots g and, if kHalves is 2, g + 8.

// m: the maximum of each slot's scores over the split. Waits for the block.
template <int kHalves, typename S>
__device__ __forceinline__ void SplitMax(const float (&scores)[8][4], S& shared, int warp, int g,
                                         int t, float (&m)[2]) {
#pragma unroll
  for (int h = 0; h < kHalves; ++h) {
    m[h] = -INFINITY;
#pragma unroll
    for (int n = 0; n < 8; ++n) m[h] = fmaxf(m[h], fmaxf(scores[n][2 * h], scores[n][2 * h + 1]));
    m[h] = fmaxf(m[h], __shfl_xor_sync(0xffffffffu, m[h], 1));
    m[h] = fmaxf(m[h], __shfl_xor_sync(0xffffffffu, m[h], 2));
    if (t == 0) shared.warp_max[warp][g + 8 * h] = m[h];
  }
  __syncthreads();
#pragma unroll
  for (int h = 0; h < kHalves; ++h) {
#pragma unroll
    for (int w = 0; w < kPagedWarps; ++w) m[h] = fmaxf(m[h], shared.warp_max[w][g + 8 * h]);
  }
}

// p = bf16(2^(scores - m)) as fragments, p[n][h] the words of slot g + 8 h, and their sums.
template <int kHalves, typename S>
__device__ __forceinline__ void SplitWeights(const float (&scores)[8][4], const float (&m)[2],
                                             S& shared, int warp, int g, int t,
                                             uint32_t (&p)[8][2]) {
#pragma unroll
  for (int h = 0; h < kHalves; ++h) {
    const float base = m[h] == -INFINITY ? 0.0f : m[h];
    float sum = 0;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const __nv_bfloat162 pair =
          __floats2bfloat162_rn(Exp2(scores[n][2 * h] - base), Exp2(scores[n][2 * h + 1] - base));
      sum += __low2float(pair);
      sum += __high2float(pair);
      memcpy(&p[n][h], &pair, sizeof(pair));
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if (t == 0) shared.warp_sum[warp][g + 8 * h] = sum;
  }
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_PAGED_ATTENTION_CUH_
