// dk and dv of attention: dv = p^T dout, dk = scale * ds^T q, ds = p * (dout v^T - delta),
// p = exp(scale * q k^T - lse), summed over the query heads that share a key head.
//
// A block takes a tile of keys of one key head, k and v in shared memory, and goes through those
// heads in order, and through the queries of each from the diagonal to the sequence's end. A warp
// takes 16 or 32 of the keys, with their dk and dv in registers, and computes the transposes
// p^T and ds^T: keys are rows, so that both are left operands of their products as they come out of
// the ones before. For head_dim above 128 the sums of 16 keys exceed a warp's registers; two warps
// then compute the same p and ds and sum half of the columns each. Tiles of q and dout and the
// queries' statistics are double buffered. Tiles at a sequence's start take longest and start
// first.
//
// Bound by shared memory's bandwidth, which feeds the 8 * head_dim operations for each query and
// key that see each other, and by the tensor cores. Few long sequences with few key heads do not
// fill the GPU: there are num_tokens / 128 * num_kv_heads blocks.
#include <cmath>

#include "engine/ops/cuda/attention_backward.cuh"
#include "engine/ops/cuda/attention_launch.cuh"
#include "engine/ops/cuda/attention_product.cuh"
#include "engine/ops/cuda/attention_schedule.cuh"
#include "engine/ops/cuda/attention_tile.cuh"

namespace lorad::cuda {
namespace {

template <int kDimension, int kWarps, int kWarpsPerRow, int kRowTilesPerWarp, int kQueriesPerTile,
          int kBlocks>
struct KeyGradientShape {
  static constexpr int kDim = kDimension, kRowTiles = kRowTilesPerWarp, kQueries = kQueriesPerTile;
  static constexpr int kBlocksPerSm = kBlocks;
  static constexpr int kThreads = 32 * kWarps, kWarpRows = 16 * kRowTiles;
  static constexpr int kColumnWarps = kWarpsPerRow;  // that share rows
  static constexpr int kWarpColumns = kDim / kColumnWarps;
  static constexpr int kKeys = kWarps / kColumnWarps * kWarpRows;
  static constexpr int kQueryBytes = kQueries * kDim * 2, kKeyBytes = kKeys * kDim * 2;
  static constexpr int kStageBytes = 2 * kQueryBytes + 1024;  // q, dout, statistics
  static constexpr int kSharedBytes = 2 * kKeyBytes + 2 * kStageBytes;
  static_assert(kQueries * sizeof(QueryStatistics) <= 1024 && kQueries <= kThreads);
};
using KeyGradient64 = KeyGradientShape<64, 4, 1, 2, 32, 2>;         // 50 KiB
using KeyGradient128 = KeyGradientShape<128, 8, 1, 1, 64, 1>;       // 130 KiB
using KeyGradient128Small = KeyGradientShape<128, 4, 1, 1, 64, 1>;  // 98 KiB
using KeyGradient256 = KeyGradientShape<256, 8, 2, 1, 32, 1>;       // 130 KiB
using KeyGradient256Small = KeyGradientShape<256, 4, 2, 1, 32, 1>;  // 98 KiB

template <typename S>
using WarpSums = float[S::kRowTiles][S::kWarpColumns / 8][4];

// dv += p^T dout and dk += ds^T q for a warp's keys and one tile of queries. k: the warp's rows,
// which those of v follow a tile behind; q: the tile of queries, which those of dout and the
// statistics follow.
template <typename S>
__device__ __forceinline__ void AddKeyGradients(uint32_t k, uint32_t q, int key, int query,
                                                int first_column, float scale, WarpSums<S>& dk,
                                                WarpSums<S>& dv) {
  constexpr int kQueryTiles = S::kQueries / 8;
  const uint32_t lane_statistics =
      q + 2 * S::kQueryBytes + threadIdx.x % 4 * 2 * sizeof(QueryStatistics);
  float p[S::kRowTiles][kQueryTiles][4], ds[S::kRowTiles][kQueryTiles][4];
  MultiplyTransposed<S::kDim, 0, 0>(k + RowMajorLane<S::kDim>(), q + ColumnMajorLane<S::kDim>(), p);
  MultiplyTransposed<S::kDim, S::kKeyBytes, S::kQueryBytes>(k + RowMajorLane<S::kDim>(),
                                                            q + ColumnMajorLane<S::kDim>(), ds);
  // Where the key is hidden, p and ds become 0.
  if (key + S::kWarpRows - 1 > query) Mask<false>(key, query, -INFINITY, p);
#pragma unroll
  for (int n = 0; n < kQueryTiles; ++n) {
    // Two neighbouring queries: lse, delta, lse, delta.
    const uint4 pair = LoadShared16(lane_statistics + n * 8 * sizeof(QueryStatistics));
    const float lse[2] = {__uint_as_float(pair.x), __uint_as_float(pair.z)};
    const float delta[2] = {__uint_as_float(pair.y), __uint_as_float(pair.w)};
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        p[m][n][i] = Exp2(fmaf(p[m][n][i], scale, -lse[i % 2]));
        ds[m][n][i] = p[m][n][i] * (ds[m][n][i] - delta[i % 2]);
      }
    }
  }
  uint32_t operand[S::kRowTiles][kQueryTiles / 2][4];
  RoundToOperand(p, operand);
  AddProduct<S::kDim, S::kQueryBytes>(operand, q + RowMajorLane<S::kDim>(), first_column, dv);
  RoundToOperand(ds, operand);
  AddProduct<S::kDim, 0>(operand, q + RowMajorLane<S::kDim>(), first_column, dk);
}

// Starts loading the queries from `query` on of one head. Behind the sequence's end q, dout and
// statistics are zeros, so that what they add is zero.
template <typename S>
__device__ __forceinline__ void LoadQueries(const AttentionBackwardParams& p,
                                            const QueryStatistics* statistics, uint32_t stage,
                                            const SequenceTile& tile, int head, int query,
                                            bool aligned) {
  const int head_dim = static_cast<int>(p.head_dim), rows = tile.length - query;
  const int token = tile.first_token + query, column = head * head_dim;
  LoadTile<S::kThreads, S::kQueries, S::kDim>(stage, p.q + token * p.q_stride + column, p.q_stride,
                                              rows, head_dim, aligned);
  LoadTile<S::kThreads, S::kQueries, S::kDim>(stage + S::kQueryBytes,
                                              p.dout + token * p.dout_stride + column,
                                              p.dout_stride, rows, head_dim, aligned);
  const int row = threadIdx.x;
  if (row < S::kQueries) {
    CopyAsync8(stage + 2 * S::kQueryBytes + row * sizeof(QueryStatistics),
               statistics + head * p.num_tokens + token + row, row < rows);
  }
}

// scale: p.scale in base 2.
template <typename S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocksPerSm)
    KeyGradientKernel(const AttentionBackwardParams p, const QueryStatistics* statistics,
                      const float scale, const bool aligned) {
  const unsigned kv_heads = static_cast<unsigned>(p.num_kv_heads), kv_head = blockIdx.x % kv_heads;
  const SequenceTile tile =
      FindTile<S::kKeys>(p.cu_seqlens, p.num_sequences, blockIdx.x / kv_heads, false);
  if (tile.begin >= tile.length) return;
  const int head_dim = static_cast<int>(p.head_dim), rows = tile.length - tile.begin;
  const int first_key = tile.first_token + tile.begin, column = kv_head * head_dim;
  const int group = static_cast<int>(p.num_heads / p.num_kv_heads);

  const uint32_t k_tile = DynamicSharedMemory(), v_tile = k_tile + S::kKeyBytes;
  uint32_t now = v_tile + S::kKeyBytes, next = now + S::kStageBytes;
  LoadTile<S::kThreads, S::kKeys, S::kDim>(k_tile, p.k + first_key * p.k_stride + column,
                                           p.k_stride, rows, head_dim, aligned);
  LoadTile<S::kThreads, S::kKeys, S::kDim>(v_tile, p.v + first_key * p.v_stride + column,
                                           p.v_stride, rows, head_dim, aligned);
  int head = static_cast<int>(kv_head) * group;
  const int head_end = head + group;
  int query = tile.begin;
  LoadQueries<S>(p, statistics, now, tile, head, query, aligned);
  CommitCopies();

  const int warp = threadIdx.x / 32, warp_row = warp / S::kColumnWarps * S::kWarpRows;
  const int key = tile.begin + warp_row;
  const int first_column = warp % S::kColumnWarps * S::kWarpColumns;
  const uint32_t own_k = k_tile + warp_row * 2 * S::kDim, own_v = own_k + S::kKeyBytes;
  WarpSums<S> dk = {}, dv = {};
  while (head < head_end) {
    int next_head = head;
    int next_query = query + S::kQueries;
    if (next_query >= tile.length) next_query = tile.begin, ++next_head;
    WaitForCopies<0>();
    __syncthreads();  // these queries are there, and the last ones are no longer used
    if (next_head < head_end) {
      LoadQueries<S>(p, statistics, next, tile, next_head, next_query, aligned);
    }
    CommitCopies();
    // Some query of the tile sees the warp's first key, and that key exists.
    if (query + S::kQueries > key && warp_row < rows) {
      AddKeyGradients<S>(own_k, now, key, query, first_column, scale, dk, dv);
    }
    const uint32_t used = now;
    now = next, next = used;
    head = next_head, query = next_query;
  }
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < S::kWarpColumns / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) dk[m][n][i] *= p.scale;
    }
  }
  __syncthreads();  // k and v are no longer used
  StoreRows<S::kDim>(dk, own_k, first_column, p.dk + (first_key + warp_row) * p.dk_stride + column,
                     p.dk_stride, rows - warp_row, head_dim, aligned);
  StoreRows<S::kDim>(dv, own_v, first_column, p.dv + (first_key + warp_row) * p.dv_stride + column,
                     p.dv_stride, rows - warp_row, head_dim, aligned);
}

template <typename S>
cudaError_t Launch(const AttentionBackwardParams& p, const QueryStatistics* statistics,
                   bool aligned, cudaStream_t stream) {
  const int64_t tiles = MaxTiles(p.num_tokens, p.num_sequences, S::kKeys);
  return LaunchShape<S>(KeyGradientKernel<S>, tiles * p.num_kv_heads, stream, p, statistics,
                        p.scale * kLog2E, aligned);
}

}  // namespace

cudaError_t LaunchKeyGradients(const AttentionBackwardParams& params,
                               const QueryStatistics* statistics, bool aligned,
                               cudaStream_t stream) {
  if (params.head_dim <= 64) return Launch<KeyGradient64>(params, statistics, aligned, stream);
  int shared_bytes = 0;
  if (const cudaError_t error = GetMaxSharedBytes(&shared_bytes); error != cudaSuccess) {
    return error;
  }
  if (params.head_dim <= 128) {
    if (shared_bytes < KeyGradient128::kSharedBytes) {
      return Launch<KeyGradient128Small>(params, statistics, aligned, stream);
    }
    return Launch<KeyGradient128>(params, statistics, aligned, stream);
  }
  if (shared_bytes < KeyGradient256::kSharedBytes) {
    return Launch<KeyGradient256Small>(params, statistics, aligned, stream);
  }
  return Launch<KeyGradient256>(params, statistics, aligned, stream);
}

}  // namespace lorad::cuda
