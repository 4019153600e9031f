// The rotation of rope.cu, for kernels that rotate on their way: the same bits.
#ifndef LORAD_ENGINE_OPS_CUDA_ROPE_CUH_
#define LORAD_ENGINE_OPS_CUDA_ROPE_CUH_

#include <cuda_runtime.h>

#include <cstdint>

namespace lorad::cuda {

struct Angle {
  float cosine, sine;
};
__device__ __forceinline__ Angle AngleAt(float position, float inv_freq) {
  Angle angle;
  // Rounded on its own: fused into the reduction of sincosf it would be another angle.
  sincosf(__fmul_rn(position, inv_freq), &angle.sine, &angle.cosine);
  return angle;
}

// Which products are fused is said here, not left to the compiler.
__device__ __forceinline__ void Rotate(float cosine, float sine, float& low, float& high) {
  const float rotated = __fmaf_rn(low, cosine, -__fmul_rn(high, sine));
  high = __fmaf_rn(high, cosine, __fmul_rn(low, sine));
  low = rotated;
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ROPE_CUH_
