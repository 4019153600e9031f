// Sums of whole numbers over a block of 1024 threads.
#ifndef LORAD_ENGINE_OPS_CUDA_BLOCK_SUMS_CUH_
#define LORAD_ENGINE_OPS_CUDA_BLOCK_SUMS_CUH_

#include "engine/ops/cuda/vector_access.cuh"

namespace lorad::cuda {

inline constexpr int kBlockThreads = 1024;
inline constexpr int kBlockWarps = kBlockThreads / kWarpSize;
static_assert(kBlockWarps == kMaxWarps);
inline constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ int Lane() { return threadIdx.x % kWarpSize; }
__device__ __forceinline__ int Warp() { return threadIdx.x / kWarpSize; }

// The sum over the lanes up to this one.
template <typename T>
__device__ __forceinline__ T SumUpToLane(T value) {
#pragma unroll
  for (int step = 1; step < kWarpSize; step *= 2) {
    const T below = __shfl_up_sync(kAllLanes, value, step);
    if (Lane() >= step) value += below;
  }
  return value;
}
template <typename T>
__device__ __forceinline__ T SumOfLanes(T value) {
#pragma unroll
  for (int step = kWarpSize / 2; step > 0; step /= 2)
    value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

// Puts in place of each value the sum of those before it, and returns the sum of all. `partial`
// [kBlockWarps] in shared memory. Waits for the block.
template <typename T>
__device__ T SumsBefore(T* values, int count, T* partial) {
  const int each = (count + kBlockThreads - 1) / kBlockThreads;
  const int begin = min(static_cast<int>(threadIdx.x) * each, count);
  const int end = min(begin + each, count);
  T sum = 0;
  for (int i = begin; i < end; ++i) sum += values[i];
  const T upto = SumUpToLane(sum);
  if (Lane() == kWarpSize - 1) partial[Warp()] = upto;
  __syncthreads();
  const T warps = SumUpToLane(partial[Lane()]);
  const T all = __shfl_sync(kAllLanes, warps, kWarpSize - 1);
  const T warps_before = __shfl_sync(kAllLanes, warps, max(Warp() - 1, 0));
  T before = upto - sum + (Warp() > 0 ? warps_before : T{0});
  for (int i = begin; i < end; ++i) {
    const T value = values[i];
    values[i] = before;
    before += value;
  }
  __syncthreads();
  return all;
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_BLOCK_SUMS_CUH_
