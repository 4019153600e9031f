// Causal grouped-query attention over packed sequences, forward.
//
//   o[t, h, :] = sum over s <= t of p[t, s] v[s, h', :],  p = softmax over s of scale * q[t, h] .
//   k[s, h'] lse[t, h]  = log(sum over s of exp(scale * q[t, h] . k[s, h'])),  h' = h / (heads /
//   kv_heads)
//
// A block takes a tile of queries of one head and goes through the keys from the sequence's first
// to the diagonal, in tiles; a warp takes 16 or 32 of the queries, with their sums in registers.
// Scores are turned into weights in registers, where they already lie as the next product wants
// them. K and V tiles alternate in a ring of three buffers: while one is used, the next has arrived
// or is on its way, and the one after that is requested. Softmax is computed in base 2; the sums
// are rescaled only when a row's maximum has grown by more than 8 binary orders since the last
// time, which the final division by the denominator makes exact as before (weights up to 2^8, their
// relative rounding is the same).
//
// Bound by the tensor cores (4 * head_dim operations for each query and key that see each other)
// and, close behind, by shared memory's bandwidth. Blocks that share an SM cover each other's
// softmax and barriers. Neighbouring blocks take the heads of the same tile, whose keys L2 then
// serves.
//
// Dao, "FlashAttention-2", 2023, algorithm 1; the rescaling threshold as in FlashAttention-4.
#include <cmath>

#include "engine/ops/cuda/attention.h"
#include "engine/ops/cuda/attention_launch.cuh"
#include "engine/ops/cuda/attention_product.cuh"
#include "engine/ops/cuda/attention_schedule.cuh"
#include "engine/ops/cuda/attention_tile.cuh"

namespace lorad::cuda {
namespace {

constexpr float kMaxGrowth = 8.0f;  // binary orders by which weights may exceed 1

template <int kDimension, int kWarps, int kRowTilesPerWarp, int kKeysPerTile, int kBlocks>
struct ForwardShape {
  static constexpr int kDim = kDimension, kRowTiles = kRowTilesPerWarp, kKeys = kKeysPerTile;
  static constexpr int kBlocksPerSm = kBlocks;
  static constexpr int kThreads = 32 * kWarps, kWarpRows = 16 * kRowTiles;
  static constexpr int kQueries = kWarps * kWarpRows;
  static constexpr int kQueryBytes = kQueries * kDim * 2, kKeyBytes = kKeys * kDim * 2;
  static constexpr int kSharedBytes = kQueryBytes + 3 * kKeyBytes;
};
using Forward64 = ForwardShape<64, 4, 2, 64, 2>;         // 40 KiB
using Forward128 = ForwardShape<128, 4, 2, 64, 2>;       // 80 KiB
using Forward256 = ForwardShape<256, 8, 1, 64, 1>;       // 160 KiB
using Forward256Small = ForwardShape<256, 4, 1, 32, 1>;  // 80 KiB

// Of a lane's rows: the reference value that scores are taken against, close to the largest seen,
// and the lane's part of the denominator.
template <int kRowTiles>
struct RunningRows {
  float largest[kRowTiles][2], sum[kRowTiles][2];
};

// Scores become weights 2^(scale * (score - largest)); what was summed before is rescaled.
template <int kRowTiles, int kKeyTiles, int kColumnTiles>
__device__ __forceinline__ void OnlineSoftmax(float scale, float (&scores)[kRowTiles][kKeyTiles][4],
                                              RunningRows<kRowTiles>& running,
                                              float (&o)[kRowTiles][kColumnTiles][4]) {
  float shrink[kRowTiles][2];
  bool any_grew = false;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = scores[m][0][2 * half];
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
        largest = fmaxf(largest, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
      }
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
      const float before = running.largest[m][half];
      const bool grew = (largest - before) * scale > kMaxGrowth;
      shrink[m][half] = grew ? Exp2((before - largest) * scale) : 1.0f;
      if (grew) running.largest[m][half] = largest;
      any_grew |= grew;
    }
  }
  if (__any_sync(0xffffffffu, any_grew)) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) running.sum[m][half] *= shrink[m][half];
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) o[m][n][i] *= shrink[m][i / 2];
      }
    }
  }
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    const float shift[2] = {-running.largest[m][0] * scale, -running.largest[m][1] * scale};
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores[m][n][i] = Exp2(fmaf(scores[m][n][i], scale, shift[i / 2]));
        running.sum[m][i / 2] += scores[m][n][i];
      }
    }
  }
}

// Divides by the denominators and stores lse of the warp's rows below `rows`. lse: of the first row
// and this head, or null.
template <int kRowTiles, int kColumnTiles>
__device__ __forceinline__ void Normalize(float scale, RunningRows<kRowTiles>& running, float* lse,
                                          int64_t lse_stride, int rows,
                                          float (&o)[kRowTiles][kColumnTiles][4]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = running.sum[m][half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      const int row = 16 * m + 8 * half + lane / 4;
      if (lse != nullptr && lane % 4 == 0 && row < rows) {
        lse[row * lse_stride] = (running.largest[m][half] * scale + log2f(sum)) * kLn2;
      }
      const float inverse = 1.0f / sum;
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
        o[m][n][2 * half] *= inverse;
        o[m][n][2 * half + 1] *= inverse;
      }
    }
  }
}

// scale: p.scale in base 2.
template <typename S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocksPerSm)
    AttentionForwardKernel(const AttentionForwardParams p, const float scale, const bool aligned) {
  const unsigned heads = static_cast<unsigned>(p.num_heads), head = blockIdx.x % heads;
  const SequenceTile tile =
      FindTile<S::kQueries>(p.cu_seqlens, p.num_sequences, blockIdx.x / heads, true);
  if (tile.begin >= tile.length) return;
  const int head_dim = static_cast<int>(p.head_dim);
  const unsigned kv_head = head / static_cast<unsigned>(p.num_heads / p.num_kv_heads);
  const int first_query = tile.first_token + tile.begin, column = head * head_dim;
  const int kv_column = kv_head * head_dim;
  const auto load = [&](uint32_t to, const BFloat16* from, int64_t stride, int key) {
    if (key < tile.begin + S::kQueries && key < tile.length) {
      LoadTile<S::kThreads, S::kKeys, S::kDim>(to,
                                               from + (tile.first_token + key) * stride + kv_column,
                                               stride, tile.length - key, head_dim, aligned);
    }
    CommitCopies();
  };

  const uint32_t queries = DynamicSharedMemory();
  uint32_t now = queries + S::kQueryBytes, next = now + S::kKeyBytes, free = next + S::kKeyBytes;
  const auto rotate = [&] {
    const uint32_t used = now;
    now = next, next = free, free = used;
  };
  LoadTile<S::kThreads, S::kQueries, S::kDim>(queries, p.q + first_query * p.q_stride + column,
                                              p.q_stride, tile.length - tile.begin, head_dim,
                                              aligned);
  load(now, p.k, p.k_stride, 0);
  load(next, p.v, p.v_stride, 0);

  const int warp_row = threadIdx.x / 32 * S::kWarpRows, query = tile.begin + warp_row;
  const uint32_t own_queries = queries + warp_row * 2 * S::kDim;
  const int key_end = min(tile.begin + S::kQueries, tile.length);
  // A warp whose queries all lie behind the sequence only helps to load.
  const int warp_key_end = query < tile.length ? query + S::kWarpRows : 0;
  RunningRows<S::kRowTiles> running;
  float o[S::kRowTiles][S::kDim / 8][4] = {};
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m) {
    running.largest[m][0] = running.largest[m][1] = -INFINITY;
    running.sum[m][0] = running.sum[m][1] = 0.0f;
  }
  for (int key = 0; key < key_end; key += S::kKeys) {
    const bool active = key < warp_key_end;
    uint32_t weights[S::kRowTiles][S::kKeys / 16][4];
    WaitForCopies<1>();
    __syncthreads();  // this tile of K is there, and the last one of V is no longer used
    load(free, p.k, p.k_stride, key + S::kKeys);
    if (active) {
      float scores[S::kRowTiles][S::kKeys / 8][4];
      MultiplyTransposed<S::kDim, 0, 0>(own_queries + RowMajorLane<S::kDim>(),
                                        now + ColumnMajorLane<S::kDim>(), scores);
      if (key + S::kKeys - 1 > query) Mask<true>(query, key, -INFINITY, scores);
      OnlineSoftmax(scale, scores, running, o);
      RoundToOperand(scores, weights);
    }
    rotate();
    WaitForCopies<1>();
    __syncthreads();  // this tile of V is there, and the one of K is no longer used
    load(free, p.v, p.v_stride, key + S::kKeys);
    if (active) AddProduct<S::kDim, 0>(weights, now + RowMajorLane<S::kDim>(), 0, o);
    rotate();
  }
  if (warp_key_end == 0) return;
  const int row = first_query + warp_row;
  float* lse = p.lse == nullptr ? nullptr : p.lse + row * p.num_heads + head;
  Normalize(scale, running, lse, p.num_heads, tile.length - query, o);
  StoreRows<S::kDim>(o, own_queries, 0, p.o + row * p.o_stride + column, p.o_stride,
                     tile.length - query, head_dim, aligned);
}

template <typename S>
cudaError_t Launch(const AttentionForwardParams& p, bool aligned, cudaStream_t stream) {
  const int64_t tiles = MaxTiles(p.num_tokens, p.num_sequences, S::kQueries);
  return LaunchShape<S>(AttentionForwardKernel<S>, tiles * p.num_heads, stream, p, p.scale * kLog2E,
                        aligned);
}

}  // namespace

cudaError_t LaunchAttentionForward(const AttentionForwardParams& params, cudaStream_t stream) {
  const AttentionForwardParams& p = params;
  if (p.head_dim <= 0 || p.head_dim > 256 || p.head_dim % 2 != 0) return cudaErrorInvalidValue;
  if (p.num_kv_heads <= 0 || p.num_heads % p.num_kv_heads != 0) return cudaErrorInvalidValue;
  if (p.num_tokens == 0 || p.num_heads == 0) return cudaSuccess;
  const bool aligned = p.head_dim % 8 == 0 && HasAlignedRows(p.q, p.q_stride) &&
                       HasAlignedRows(p.k, p.k_stride) && HasAlignedRows(p.v, p.v_stride) &&
                       HasAlignedRows(p.o, p.o_stride);
  if (p.head_dim <= 64) return Launch<Forward64>(p, aligned, stream);
  if (p.head_dim <= 128) return Launch<Forward128>(p, aligned, stream);
  int shared_bytes = 0;
  if (const cudaError_t error = GetMaxSharedBytes(&shared_bytes); error != cudaSuccess) {
    return error;
  }
  if (shared_bytes < Forward256::kSharedBytes) return Launch<Forward256Small>(p, aligned, stream);
  return Launch<Forward256>(p, aligned, stream);
}

}  // namespace lorad::cuda
