// SwiGLU of one element, for swiglu.cu and for products that end in it: the same bits in both.
#ifndef LORAD_ENGINE_OPS_CUDA_SWIGLU_CUH_
#define LORAD_ENGINE_OPS_CUDA_SWIGLU_CUH_

#include <cuda_runtime.h>

namespace lorad::cuda {

// Error below 8 roundoffs of fp32, but for results below 2^-126, which become 0: exp(-x) beyond
// 2^126 divides to 0.
__device__ __forceinline__ float Sigmoid(float x) {
  return __fdividef(1.0f, __fadd_rn(1.0f, expf(-x)));
}

// silu(gate) * up of numbers that bf16 holds, not rounded.
__device__ __forceinline__ float SwiGlu(float gate, float up) { return gate * Sigmoid(gate) * up; }

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_SWIGLU_CUH_
