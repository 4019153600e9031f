// dq of attention: dq = scale * ds k, ds = p * (dout v^T - delta), p = exp(scale * q k^T - lse).
//
// A block takes a tile of queries of one head, q and dout in shared memory, and goes through the
// keys from the sequence's first to the diagonal; a warp takes 16 or 32 of the queries, with their
// dq in registers. ds is the left operand of its product as it comes out of the ones before. K and
// V tiles are double buffered. Tiles near a sequence's end take longest and start first.
//
// Bound by shared memory's bandwidth, which feeds the 6 * head_dim operations for each query and
// key that see each other, and by the tensor cores.
#include <cmath>

#include "engine/ops/cuda/attention_backward.cuh"
#include "engine/ops/cuda/attention_launch.cuh"
#include "engine/ops/cuda/attention_product.cuh"
#include "engine/ops/cuda/attention_schedule.cuh"
#include "engine/ops/cuda/attention_tile.cuh"

namespace lorad::cuda {
namespace {

template <int kDimension, int kWarps, int kRowTilesPerWarp, int kKeysPerTile, int kBlocks>
struct QueryGradientShape {
  static constexpr int kDim = kDimension, kRowTiles = kRowTilesPerWarp, kKeys = kKeysPerTile;
  static constexpr int kBlocksPerSm = kBlocks;
  static constexpr int kThreads = 32 * kWarps, kWarpRows = 16 * kRowTiles;
  static constexpr int kQueries = kWarps * kWarpRows;
  static constexpr int kQueryBytes = kQueries * kDim * 2, kKeyBytes = kKeys * kDim * 2;
  static constexpr int kSharedBytes = 2 * kQueryBytes + 2 * 2 * kKeyBytes;
};
using QueryGradient64 = QueryGradientShape<64, 4, 2, 64, 2>;         // 64 KiB
using QueryGradient128 = QueryGradientShape<128, 4, 2, 32, 2>;       // 96 KiB
using QueryGradient256 = QueryGradientShape<256, 8, 1, 32, 1>;       // 192 KiB
using QueryGradient256Small = QueryGradientShape<256, 4, 1, 16, 1>;  // 96 KiB

// Of a lane's queries.
template <int kRowTiles>
struct LaneStatistics {
  QueryStatistics of[kRowTiles][2];
};

// dq += ds k for a warp's queries and one tile of keys. q: the warp's rows, which dout's follow a
// tile behind; k: the tile of keys, which that of values follows.
template <typename S>
__device__ __forceinline__ void AddQueryGradients(uint32_t q, uint32_t k, int query, int key,
                                                  float scale,
                                                  const LaneStatistics<S::kRowTiles>& statistics,
                                                  float (&dq)[S::kRowTiles][S::kDim / 8][4]) {
  constexpr int kKeyTiles = S::kKeys / 8;
  float p[S::kRowTiles][kKeyTiles][4], ds[S::kRowTiles][kKeyTiles][4];
  MultiplyTransposed<S::kDim, 0, 0>(q + RowMajorLane<S::kDim>(), k + ColumnMajorLane<S::kDim>(), p);
  MultiplyTransposed<S::kDim, S::kQueryBytes, S::kKeyBytes>(q + RowMajorLane<S::kDim>(),
                                                            k + ColumnMajorLane<S::kDim>(), ds);
  // Where the key is hidden, p and ds become 0.
  if (key + S::kKeys - 1 > query) Mask<true>(query, key, -INFINITY, p);
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const QueryStatistics& row = statistics.of[m][i / 2];
        ds[m][n][i] = Exp2(fmaf(p[m][n][i], scale, -row.lse)) * (ds[m][n][i] - row.delta);
      }
    }
  }
  uint32_t operand[S::kRowTiles][kKeyTiles / 2][4];
  RoundToOperand(ds, operand);
  AddProduct<S::kDim, 0>(operand, k + RowMajorLane<S::kDim>(), 0, dq);
}

// scale: p.scale in base 2.
template <typename S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocksPerSm)
    QueryGradientKernel(const AttentionBackwardParams p, const QueryStatistics* statistics,
                        const float scale, const bool aligned) {
  const unsigned heads = static_cast<unsigned>(p.num_heads), head = blockIdx.x % heads;
  const SequenceTile tile =
      FindTile<S::kQueries>(p.cu_seqlens, p.num_sequences, blockIdx.x / heads, true);
  if (tile.begin >= tile.length) return;
  const int head_dim = static_cast<int>(p.head_dim), rows = tile.length - tile.begin;
  const unsigned kv_head = head / static_cast<unsigned>(p.num_heads / p.num_kv_heads);
  const int first_query = tile.first_token + tile.begin;
  const int column = head * head_dim, kv_column = kv_head * head_dim;

  const uint32_t q_tile = DynamicSharedMemory(), dout_tile = q_tile + S::kQueryBytes;
  uint32_t now = dout_tile + S::kQueryBytes, next = now + 2 * S::kKeyBytes;  // K, then V
  const auto load_keys = [&](uint32_t to, int key) {
    LoadTile<S::kThreads, S::kKeys, S::kDim>(
        to, p.k + (tile.first_token + key) * p.k_stride + kv_column, p.k_stride, tile.length - key,
        head_dim, aligned);
    LoadTile<S::kThreads, S::kKeys, S::kDim>(
        to + S::kKeyBytes, p.v + (tile.first_token + key) * p.v_stride + kv_column, p.v_stride,
        tile.length - key, head_dim, aligned);
  };
  LoadTile<S::kThreads, S::kQueries, S::kDim>(q_tile, p.q + first_query * p.q_stride + column,
                                              p.q_stride, rows, head_dim, aligned);
  LoadTile<S::kThreads, S::kQueries, S::kDim>(dout_tile,
                                              p.dout + first_query * p.dout_stride + column,
                                              p.dout_stride, rows, head_dim, aligned);
  load_keys(now, 0);
  CommitCopies();

  const int warp_row = threadIdx.x / 32 * S::kWarpRows, query = tile.begin + warp_row;
  const uint32_t own = warp_row * 2 * S::kDim;
  const int key_end = min(tile.begin + S::kQueries, tile.length);
  // A warp whose queries all lie behind the sequence only helps to load.
  const int warp_key_end = query < tile.length ? query + S::kWarpRows : 0;
  LaneStatistics<S::kRowTiles> own_statistics;
#pragma unroll
  for (int i = 0; i < 2 * S::kRowTiles; ++i) {
    const int row = warp_row + 8 * i + threadIdx.x % 32 / 4;
    own_statistics.of[i / 2][i % 2] = {0.0f, 0.0f};  // with zeros for q and dout: ds is zero
    if (row < rows) {
      own_statistics.of[i / 2][i % 2] = statistics[head * p.num_tokens + first_query + row];
    }
  }
  float dq[S::kRowTiles][S::kDim / 8][4] = {};
  for (int key = 0; key < key_end; key += S::kKeys) {
    WaitForCopies<0>();
    __syncthreads();  // these keys are there, and the last ones are no longer used
    if (key + S::kKeys < key_end) load_keys(next, key + S::kKeys);
    CommitCopies();
    if (key < warp_key_end) {
      AddQueryGradients<S>(q_tile + own, now, query, key, scale, own_statistics, dq);
    }
    const uint32_t used = now;
    now = next, next = used;
  }
  if (warp_key_end == 0) return;
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < S::kDim / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) dq[m][n][i] *= p.scale;
    }
  }
  StoreRows<S::kDim>(dq, q_tile + own, 0, p.dq + (first_query + warp_row) * p.dq_stride + column,
                     p.dq_stride, rows - warp_row, head_dim, aligned);
}

template <typename S>
cudaError_t Launch(const AttentionBackwardParams& p, const QueryStatistics* statistics,
                   bool aligned, cudaStream_t stream) {
  const int64_t tiles = MaxTiles(p.num_tokens, p.num_sequences, S::kQueries);
  return LaunchShape<S>(QueryGradientKernel<S>, tiles * p.num_heads, stream, p, statistics,
                        p.scale * kLog2E, aligned);
}

}  // namespace

cudaError_t LaunchQueryGradients(const AttentionBackwardParams& params,
                                 const QueryStatistics* statistics, bool aligned,
                                 cudaStream_t stream) {
  if (params.head_dim <= 64) return Launch<QueryGradient64>(params, statistics, aligned, stream);
  if (params.head_dim <= 128) return Launch<QueryGradient128>(params, statistics, aligned, stream);
  int shared_bytes = 0;
  if (const cudaError_t error = GetMaxSharedBytes(&shared_bytes); error != cudaSuccess) {
    return error;
  }
  if (shared_bytes < QueryGradient256::kSharedBytes) {
    return Launch<QueryGradient256Small>(params, statistics, aligned, stream);
  }
  return Launch<QueryGradient256>(params, statistics, aligned, stream);
}

}  // namespace lorad::cuda
