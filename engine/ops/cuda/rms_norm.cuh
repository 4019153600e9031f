// RMSNorm of packs of a row, for rms_norm.cu and for products that begin with it: the same bits.
#ifndef LORAD_ENGINE_OPS_CUDA_RMS_NORM_CUH_
#define LORAD_ENGINE_OPS_CUDA_RMS_NORM_CUH_

#include "engine/ops/cuda/vector_access.cuh"

namespace lorad::cuda {

// Rows of so many packs at most are spread over a block, a pack a thread, where there are few.
inline constexpr int kMaxNormPacks = 1024;

template <int kWidth>
__device__ __forceinline__ float SumSquares(const Pack<kWidth>& pack) {
  float values[kWidth], sum = 0.0f;
  Unpack(pack, values);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) sum += values[i] * values[i];
  return sum;
}

__device__ __forceinline__ float InvRmsOf(float sum_squares, int hidden, float eps) {
  const float mean = sum_squares / static_cast<float>(hidden);
  return 1.0f / sqrtf(mean + eps);
}

template <int kWidth>
__device__ __forceinline__ Pack<kWidth> NormedBy(const Pack<kWidth>& pack, float inv_rms,
                                                 const float (&gamma)[kWidth]) {
  float values[kWidth];
  Unpack(pack, values);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) values[i] = gamma[i] * (values[i] * inv_rms);
  return Rounded(values);
}
template <int kWidth>
__device__ __forceinline__ Pack<kWidth> Normed(const Pack<kWidth>& pack, float inv_rms,
                                               const float* gamma) {
  float weight[kWidth];
  LoadConstant(gamma, weight);
  return NormedBy(pack, inv_rms, weight);
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_RMS_NORM_CUH_
