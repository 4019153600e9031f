// Attention of new tokens over a paged KV cache: for row t of a sequence, at position p,
//   o[t, h, :] = sum over keys s <= p of softmax_s(scale * q[t, h] . k[s, h']) v[s, h'].
//
//   q, o [tokens, heads, d]    k, v [pages, page_tokens, kv_heads, d]    d even, <= 256
//
// A context is cut at multiples of 256 positions. Over one split, with m = max of its scores in
// base 2: l = sum of p_s and o = sum of p_s v_s, p_s = bf16(2^(score_s - m)). Splits are folded in
// the order of positions, by the online softmax (Milakov and Gimelshein, 2018; Dao,
// "FlashAttention-2", 2023; splits of a context: Dao et al., "Flash-Decoding", 2023). So cuts lie
// at absolute positions, and neither the chunk that a row came in nor what shares the step shows.
//
// A block of 4 warps takes a tile of 16 slots, the heads that share a kv head times as many
// neighbouring rows of one sequence as fit; warp w the keys [64 w, 64 w + 64) of a split. Products
// are the tensor cores' (16 slots x 16 times 16 x 8), straight from the cache to registers:
//   scores  the dimensions of a product may come in any order that q follows: lane (g, t) loads
//           dimensions [8 t, 8 t + 8) of 32 of key g, four for one product and four for the next;
//   values  so may the outputs: lane (g, t) loads dimensions [8 g, 8 g + 8) of 64 of keys 2t, 2t+1,
//           2t+8, 2t+9, and pairs words of two keys into eight fragments.
// A slot that a key is masked for gets p = 0, which adds nothing: a tile's other rows do not enter.
//
// Where there are few blocks each has its keys and values fetched into the second-level cache
// before the kernel that computes q has ended: the page table and the lengths are there since
// before the pass began, and a cache line that is fetched too early is brought up to date by
// whoever writes to it. Where blocks fill the device, to fetch ahead is slower: 64 rows over 1,024
// keys took 1.15 times as long with the values fetched during the scores, 1.3 times with a whole
// split ahead.
//
// With many tiles a block folds all splits of its tile. With few, a block takes one row and one
// split and leaves (m, l, o) in the workspace; a second kernel folds them: the same operations.
// Bound by memory, 4 d bytes a key and kv head, when decoding; by the second-level cache in
// prefill.
#include <cuda_bf16.h>

#include "engine/core/checked_math.h"
#include "engine/ops/cuda/attention_mma.cuh"
#include "engine/ops/cuda/chained_launch.cuh"
#include "engine/ops/cuda/paged_attention.cuh"
#include "engine/ops/cuda/paged_attention.h"

namespace lorad::cuda {
namespace {

constexpr int kWarps = kPagedWarps;
constexpr int kThreads = kPagedThreads;
constexpr int kSlots = kPagedSlots;
constexpr int kMaxHeadDim = kMaxPagedHeadDim;
constexpr int kKeyDims = 32;                    // of two score products
constexpr int kValueDims = 64;                  // of eight value products
constexpr int kQueryStride = kMaxHeadDim + 32;  // 64 bytes off a multiple of 128: no conflicts
constexpr int kSumStride = kValueDims + 4;
constexpr int kEnoughBlocks = 2048;  // fewer leave multiprocessors idle, or idle at the end
constexpr int kFewBlocks = 256;      // that leave most of the device's memory path idle

struct Shared {
  __nv_bfloat16 q[kSlots][kQueryStride];
  float sums[kWarps][kSlots][kSumStride];
  const __nv_bfloat16* k_rows[kSplitKeys];  // of the keys; null: beyond the tile's last
  const __nv_bfloat16* v_rows[kSplitKeys];
  float warp_max[kWarps][kSlots];
  float warp_sum[kWarps][kSlots];
  int64_t last_key[kSlots];  // that the slot sees; -1: no slot
  float m[kSlots], l[kSlots];
  Fold folds[kSlots];
  PagedTile tile;
};

// The heads of a block: `count` from `first` on, all of one kv head.
struct Heads {
  int64_t kv, first;
  int count;
};

template <bool kAligned>
__device__ __forceinline__ void LoadQueries(const PagedArgs& args, const PagedTile& tile,
                                            const Heads& heads, Shared& shared) {
  const int dims = static_cast<int>(args.p.head_dim);
  const int packs = (dims + kKeyDims - 1) / kKeyDims * (kKeyDims / 8);
  for (int i = threadIdx.x; i < kSlots * packs; i += kThreads) {
    const int slot = i / packs, dim = i % packs * 8, row = slot / heads.count;
    const __nv_bfloat16* q = reinterpret_cast<const __nv_bfloat16*>(args.p.q) +
                             (tile.first + row) * args.p.q_stride +
                             (heads.first + slot % heads.count) * dims;
    const uint4 values = LoadEight<kAligned>(row < tile.rows ? q : nullptr, dim, dims);
    *reinterpret_cast<uint4*>(&shared.q[slot][dim]) = values;
  }
  if (threadIdx.x < kSlots) {
    const int row = threadIdx.x / heads.count;
    shared.last_key[threadIdx.x] = row < tile.rows ? tile.position + row : -1;
    shared.m[threadIdx.x] = -INFINITY;
    shared.l[threadIdx.x] = 0;
  }
}

// Where the keys of a split lie; has them and their values fetched if asked.
__device__ __forceinline__ void FindKeys(const PagedArgs& args, const PagedTile& tile,
                                         int64_t kv_head, int64_t split, bool fetch,
                                         Shared& shared) {
  const int dims = static_cast<int>(args.p.head_dim);
  for (int i = threadIdx.x; i < kSplitKeys; i += kThreads) {
    const KeyRows rows = FindKey(args, tile, kv_head, split * kSplitKeys + i);
    shared.k_rows[i] = rows.k;
    shared.v_rows[i] = rows.v;
    if (!fetch) continue;
    Prefetch(rows.k, dims);
    Prefetch(rows.v, dims);
  }
}

// scores[n] is the fragment of the warp's keys [8 n, 8 n + 8): log2_scale * q . k, -inf if masked.
template <bool kAligned>
__device__ __forceinline__ void Scores(const PagedArgs& args, const Shared& shared, int64_t split,
                                       int warp, int g, int t, float (&scores)[8][4]) {
  const int dims = static_cast<int>(args.p.head_dim);
  const __nv_bfloat16* rows[8];
#pragma unroll
  for (int n = 0; n < 8; ++n) rows[n] = shared.k_rows[warp * kWarpKeys + 8 * n + g];
  for (int first = 0; first < dims; first += kKeyDims) {
    const int dim = first + 8 * t;
    const uint4 q0 = *reinterpret_cast<const uint4*>(&shared.q[g][dim]);
    const uint4 q1 = *reinterpret_cast<const uint4*>(&shared.q[g + 8][dim]);
    const uint32_t low[4] = {q0.x, q1.x, q0.y, q1.y}, high[4] = {q0.z, q1.z, q0.w, q1.w};
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const uint4 k = LoadEight<kAligned>(rows[n], dim, dims);
      MultiplyAdd(scores[n], low, k.x, k.y);
      MultiplyAdd(scores[n], high, k.z, k.w);
    }
  }
  const int64_t last[2] = {shared.last_key[g], shared.last_key[g + 8]};
  const int64_t base = split * kSplitKeys + warp * kWarpKeys + 2 * t;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool seen = base + 8 * n + i % 2 <= last[i / 2];
      scores[n][i] = seen ? __fmul_rn(scores[n][i], args.log2_scale) : -INFINITY;
    }
  }
}

// shared.sums[warp] = p v over the warp's keys, for dimensions [first, first + kValueDims).
template <bool kAligned>
__device__ __forceinline__ void Values(const uint32_t (&p)[8][2], int dims, int first,
                                       Shared& shared, int warp, int g, int t) {
  float sums[8][4] = {};
#pragma unroll
  for (int part = 0; part < kWarpKeys / 16; ++part) {
    const __nv_bfloat16* const* rows = shared.v_rows + warp * kWarpKeys + 16 * part + 2 * t;
    uint4 v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[i] = LoadEight<kAligned>(rows[i % 2 + i / 2 * 8], first + 8 * g, dims);
    }
    const uint32_t weights[4] = {p[2 * part][0], p[2 * part][1], p[2 * part + 1][0],
                                 p[2 * part + 1][1]};
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      uint32_t w[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        w[i] = word == 0 ? v[i].x : word == 1 ? v[i].y : word == 2 ? v[i].z : v[i].w;
      }
      MultiplyAdd(sums[2 * word], weights, __byte_perm(w[0], w[1], 0x5410),
                  __byte_perm(w[2], w[3], 0x5410));
      MultiplyAdd(sums[2 * word + 1], weights, __byte_perm(w[0], w[1], 0x7632),
                  __byte_perm(w[2], w[3], 0x7632));
    }
  }
  // Fragment j has dimensions 8 n + j in its column n.
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float* to = &shared.sums[warp][g + i / 2 * 8][16 * t + i % 2 * 8];
#pragma unroll
    for (int j = 0; j < 8; j += 4) {
      *reinterpret_cast<float4*>(to + j) =
          make_float4(sums[j][i], sums[j + 1][i], sums[j + 2][i], sums[j + 3][i]);
    }
  }
}

__device__ __forceinline__ float SumOverWarps(const Shared& shared, int slot, int dim) {
  float sum = shared.sums[0][slot][dim];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) sum += shared.sums[w][slot][dim];
  return sum;
}

// The slot's m and l of this split; with `kSplit` they go to the workspace, else into the fold.
template <bool kSplit>
__device__ __forceinline__ void FoldStatistics(Shared& shared, int slot, int64_t split,
                                               float* partial) {
  float m = shared.warp_max[0][slot], l = shared.warp_sum[0][slot];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) {
    m = fmaxf(m, shared.warp_max[w][slot]);
    l += shared.warp_sum[w][slot];
  }
  if constexpr (kSplit) {
    partial[0] = m;
    partial[1] = l;
  } else if (split * kSplitKeys <= shared.last_key[slot]) {
    shared.folds[slot] = FoldOf(shared.m[slot], m, &shared.m[slot]);
    shared.l[slot] = Folded(shared.folds[slot], shared.l[slot], l);
  }
}

template <bool kAligned, bool kSplit>
__global__ void __launch_bounds__(kThreads, 3) PagedKernel(const __grid_constant__ PagedArgs args) {
  __shared__ __align__(16) Shared shared;
  __shared__ float o[kSplit ? 1 : kSlots][kSplit ? 1 : kMaxHeadDim];
  LetNextKernelBegin();
  const PagedTile tile = FindTile(args, blockIdx.x, &shared.tile);
  if (tile.rows == 0) return;
  const int64_t splits = (tile.position + tile.rows + kSplitKeys - 1) / kSplitKeys;
  const int64_t begin = kSplit ? blockIdx.z : 0, end = kSplit ? begin + 1 : splits;
  if (begin >= splits) return;
  const int64_t kv = blockIdx.y / args.head_tiles, offset = blockIdx.y % args.head_tiles * kSlots;
  const Heads heads = {
      kv, kv * args.group + offset,
      static_cast<int>(args.group - offset < kSlots ? args.group - offset : kSlots)};
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int dims = static_cast<int>(args.p.head_dim), slots = tile.rows * heads.count;
  FindKeys(args, tile, kv, begin, args.fetch, shared);
  WaitForEarlierKernels();  // q, and the newest keys and values
  LoadQueries<kAligned>(args, tile, heads, shared);

  for (int64_t split = begin; split < end; ++split) {
    if (split > begin) FindKeys(args, tile, kv, split, /*fetch=*/false, shared);
    __syncthreads();
    float scores[8][4] = {};
    Scores<kAligned>(args, shared, split, warp, g, t, scores);
    float m[2];
    SplitMax<2>(scores, shared, warp, g, t, m);
    uint32_t p[8][2];
    SplitWeights<2>(scores, m, shared, warp, g, t, p);
    __syncthreads();
    if (threadIdx.x < slots) {
      const int slot = threadIdx.x;
      float* partial = nullptr;
      if constexpr (kSplit) partial = Partial(args, tile.first, heads.first + slot, split);
      FoldStatistics<kSplit>(shared, slot, split, partial);
    }
    for (int first = 0; first < dims; first += kValueDims) {
      Values<kAligned>(p, dims, first, shared, warp, g, t);
      __syncthreads();
      for (int i = threadIdx.x; i < slots * kValueDims; i += kThreads) {
        const int slot = i / kValueDims, dim = first + i % kValueDims;
        if (dim >= dims) continue;
        const float sum = SumOverWarps(shared, slot, i % kValueDims);
        if constexpr (kSplit) {
          Partial(args, tile.first, heads.first + slot, split)[kPartialHead + dim] = sum;
        } else if (split * kSplitKeys <= shared.last_key[slot]) {
          o[slot][dim] = Folded(shared.folds[slot], split == 0 ? 0.0f : o[slot][dim], sum);
        }
      }
      __syncthreads();
    }
  }
  if constexpr (!kSplit) {
    for (int i = threadIdx.x; i < slots * dims; i += kThreads) {
      const int slot = i / dims, dim = i % dims, row = slot / heads.count;
      Output(args, tile.first + row, heads.first + slot % heads.count)[dim] =
          __float2bfloat16_rn(__fdiv_rn(o[slot][dim], shared.l[slot]));
    }
  }
}

// One row and head a block; a thread folds dimensions, one after the other, over all splits.
__global__ void __launch_bounds__(kThreads) FoldKernel(const __grid_constant__ PagedArgs args) {
  __shared__ PagedTile found;
  LetNextKernelBegin();
  const PagedTile tile = FindTile(args, blockIdx.x, &found);
  if (tile.rows == 0) return;
  WaitForEarlierKernels();
  const int64_t splits = tile.position / kSplitKeys + 1;
  for (int dim = threadIdx.x; dim < args.p.head_dim; dim += kThreads) {
    float m = -INFINITY, l = 0, o = 0;
    for (int64_t split = 0; split < splits; ++split) {
      const float* partial = Partial(args, tile.first, blockIdx.y, split);
      const Fold fold = FoldOf(m, partial[0], &m);
      l = Folded(fold, l, partial[1]);
      o = Folded(fold, o, partial[kPartialHead + dim]);
    }
    Output(args, tile.first, blockIdx.y)[dim] = __float2bfloat16_rn(__fdiv_rn(o, l));
  }
}

bool AreAligned(const void* const* pointers, int count, int64_t strides) {
  uintptr_t bits = 0;
  for (int i = 0; i < count; ++i) bits |= reinterpret_cast<uintptr_t>(pointers[i]);
  return bits % 16 == 0 && strides % 8 == 0;
}

}  // namespace

int64_t PagedAttentionWorkspaceBytes(int64_t num_tokens, int64_t num_heads, int64_t num_kv_heads,
                                     int64_t head_dim, int64_t max_keys) {
  if (num_kv_heads == 0 || num_tokens * num_kv_heads >= kEnoughBlocks || max_keys <= kSplitKeys) {
    return 0;
  }
  return num_tokens * num_heads * CeilDiv(max_keys, kSplitKeys) * PartialElements(head_dim) *
         static_cast<int64_t>(sizeof(float));
}

cudaError_t LaunchPagedAttention(const PagedAttentionParams& params, cudaStream_t stream) {
  const PagedAttentionParams& p = params;
  if (p.num_tokens == 0 || p.num_heads == 0) return cudaSuccess;
  if (p.head_dim <= 0 || p.head_dim % 2 != 0 || p.head_dim > kMaxHeadDim || p.num_kv_heads <= 0 ||
      p.num_heads % p.num_kv_heads != 0 || p.page_tokens <= 0) {
    return cudaErrorInvalidValue;
  }
  PagedArgs args;
  args.p = p;
  args.group = p.num_heads / p.num_kv_heads;
  args.head_tiles = CeilDiv(args.group, kSlots);
  args.max_splits = CeilDiv(p.max_pages * p.page_tokens, kSplitKeys);
  args.log2_scale = p.scale * 1.44269504088896340736f;
  const int64_t wanted = PagedAttentionWorkspaceBytes(p.num_tokens, p.num_heads, p.num_kv_heads,
                                                      p.head_dim, p.max_pages * p.page_tokens);
  const bool split = wanted > 0 && p.workspace != nullptr && p.workspace_bytes >= wanted;
  args.tile_rows = split || args.group >= kSlots ? 1 : kSlots / args.group;
  const int64_t tiles =
      args.tile_rows == 1 ? p.num_tokens : p.num_tokens / args.tile_rows + p.num_sequences;
  const int64_t head_blocks = p.num_kv_heads * args.head_tiles;
  if (tiles > INT32_MAX || p.num_heads > UINT16_MAX || (split && args.max_splits > UINT16_MAX)) {
    return cudaErrorInvalidValue;
  }
  args.fetch = split && tiles * head_blocks * args.max_splits <= kFewBlocks;
  const void* const pointers[] = {p.q, p.k_cache, p.v_cache};
  const bool aligned =
      AreAligned(pointers, 3, p.q_stride | p.k_page_stride | p.v_page_stride | p.head_dim);
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(head_blocks),
                  split ? static_cast<unsigned>(args.max_splits) : 1);
  const auto kernel = aligned ? (split ? PagedKernel<true, true> : PagedKernel<true, false>)
                              : (split ? PagedKernel<false, true> : PagedKernel<false, false>);
  const cudaError_t error = LaunchChained(kernel, grid, kThreads, 0, args, stream);
  if (error != cudaSuccess || !split) return error;
  const dim3 rows(static_cast<unsigned>(p.num_tokens), static_cast<unsigned>(p.num_heads));
  return LaunchChained(FoldKernel, rows, kThreads, 0, args, stream);
}

}  // namespace lorad::cuda
