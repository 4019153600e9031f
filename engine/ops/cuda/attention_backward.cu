// Causal grouped-query attention over packed sequences, backward. With p = exp(scale * q k^T - lse)
// and delta = rowsum(dout * o):
//
//   dv = p^T dout,  ds = p * (dout v^T - delta),  dq = scale * ds k,  dk = scale * ds^T q
//
// Three kernels: delta here; dk and dv by tiles of keys (attention_backward_dkv.cu); dq by tiles of
// queries (attention_backward_dq.cu). The last two each compute the scores and dout v^T, 7 products
// in place of 5: what that costs, sums of fixed order without atomics or fp32 sums in memory repay.
//
// Dao, "FlashAttention-2", 2023, algorithm 2.
#include "engine/ops/cuda/attention_backward.cuh"
#include "engine/ops/cuda/attention_launch.cuh"
#include "engine/ops/cuda/attention_tile.cuh"

namespace lorad::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWidth = 8;  // elements that a lane takes

__device__ __forceinline__ float ValueOf(uint32_t bits) { return __uint_as_float(bits << 16); }

// statistics[h, t] = (lse[t, h] in base 2, sum over d of dout[t, h, d] * o[t, h, d]).
// kLanes lanes take a query, each 8 neighbouring elements. Bound by memory: 4 * head_dim bytes for
// each query.
template <int kLanes>
__global__ void __launch_bounds__(kThreads)
    QueryStatisticsKernel(const AttentionBackwardParams p, QueryStatistics* statistics,
                          const bool aligned) {
  const int64_t query = (blockIdx.x * int64_t{kThreads} + threadIdx.x) / kLanes;
  const bool exists = query < p.num_tokens * p.num_heads;
  const int64_t token = exists ? query / p.num_heads : 0, head = exists ? query % p.num_heads : 0;
  const int column = threadIdx.x % kLanes * kWidth;
  const BFloat16* dout = p.dout + token * p.dout_stride + head * p.head_dim + column;
  const BFloat16* o = p.o + token * p.o_stride + head * p.head_dim + column;
  float sum = 0.0f;
  if (aligned && column < p.head_dim) {
    const uint4 a = *reinterpret_cast<const uint4*>(dout), b = *reinterpret_cast<const uint4*>(o);
    const uint32_t left[4] = {a.x, a.y, a.z, a.w}, right[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sum += ValueOf(left[i] & 0xffffu) * ValueOf(right[i] & 0xffffu);
      sum += ValueOf(left[i] >> 16) * ValueOf(right[i] >> 16);
    }
  } else {
    for (int i = 0; i < kWidth && column + i < p.head_dim; ++i) {
      sum += ValueOf(dout[i].bits) * ValueOf(o[i].bits);
    }
  }
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (!exists || column != 0) return;
  statistics[head * p.num_tokens + token] = {p.lse[query] * kLog2E, sum};
}

template <int kLanes>
cudaError_t LaunchQueryStatistics(const AttentionBackwardParams& p, QueryStatistics* statistics,
                                  bool aligned, cudaStream_t stream) {
  constexpr int64_t kQueries = kThreads / kLanes;
  const int64_t blocks = (p.num_tokens * p.num_heads + kQueries - 1) / kQueries;
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  QueryStatisticsKernel<kLanes>
      <<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(p, statistics, aligned);
  return cudaGetLastError();
}

bool IsAligned(const AttentionBackwardParams& p) {
  return p.head_dim % 8 == 0 && HasAlignedRows(p.dout, p.dout_stride) &&
         HasAlignedRows(p.q, p.q_stride) && HasAlignedRows(p.k, p.k_stride) &&
         HasAlignedRows(p.v, p.v_stride) && HasAlignedRows(p.o, p.o_stride) &&
         HasAlignedRows(p.dq, p.dq_stride) && HasAlignedRows(p.dk, p.dk_stride) &&
         HasAlignedRows(p.dv, p.dv_stride);
}

}  // namespace

int64_t AttentionBackwardWorkspaceBytes(int64_t num_tokens, int64_t num_heads) {
  return num_tokens * num_heads * static_cast<int64_t>(sizeof(QueryStatistics));
}

cudaError_t LaunchAttentionBackward(const AttentionBackwardParams& params, cudaStream_t stream) {
  const AttentionBackwardParams& p = params;
  if (p.head_dim <= 0 || p.head_dim > 256 || p.head_dim % 2 != 0) return cudaErrorInvalidValue;
  if (p.num_kv_heads <= 0 || p.num_heads % p.num_kv_heads != 0) return cudaErrorInvalidValue;
  if (p.num_tokens == 0 || p.num_heads == 0) return cudaSuccess;
  const bool aligned = IsAligned(p);
  QueryStatistics* statistics = static_cast<QueryStatistics*>(p.workspace);
  cudaError_t error;
  if (p.head_dim <= 64) {
    error = LaunchQueryStatistics<8>(p, statistics, aligned, stream);
  } else if (p.head_dim <= 128) {
    error = LaunchQueryStatistics<16>(p, statistics, aligned, stream);
  } else {
    error = LaunchQueryStatistics<32>(p, statistics, aligned, stream);
  }
  if (error != cudaSuccess) return error;
  error = LaunchKeyGradients(p, statistics, aligned, stream);
  if (error != cudaSuccess) return error;
  return LaunchQueryGradients(p, statistics, aligned, stream);
}

}  // namespace lorad::cuda
