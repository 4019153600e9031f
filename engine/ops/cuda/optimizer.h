// Launchers of the optimiser's kernels, over all tensors in one launch. Formulas, and what is exact
// about them: engine/ops/optimizer.h.
//
// Tensors are dense. Float pointers aligned to 16 bytes and code pointers aligned to 4 take wide
// accesses; anything else is correct, and slower. Moments and scales may lie in pinned host memory.
// The arrays of tensors are read before the call returns; one launch takes kTensorsPerLaunch, more
// take several. Nothing is launched for zero elements. The same inputs give the same bits on every
// device.
#ifndef LORAD_ENGINE_OPS_CUDA_OPTIMIZER_H_
#define LORAD_ENGINE_OPS_CUDA_OPTIMIZER_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/core/dtype.h"
#include "engine/ops/adamw_scalars.h"

namespace lorad::cuda {

inline constexpr int kTensorsPerLaunch = 48;  // kernel arguments end at 4 KiB

struct AdamWBuffers {
  float* param = nullptr;
  const float* grad = nullptr;
  void* m = nullptr;          // float, or uint8_t codes
  void* v = nullptr;          // like m
  float* m_scales = nullptr;  // of each 256 codes
  float* v_scales = nullptr;
  int64_t num_elements = 0;
};

// Moments in fp32; scales are not read.
cudaError_t LaunchAdamW(const AdamWBuffers* tensors, int64_t count,
                        const AdamWScalars<float>& scalars, cudaStream_t stream);
// Moments in 8 bits. m_code, v_code [256]: in device memory, ascending.
cudaError_t LaunchAdamW8Bit(const AdamWBuffers* tensors, int64_t count,
                            const AdamWScalars<float>& scalars, const float* m_code,
                            const float* v_code, cudaStream_t stream);

struct SumSquaresInput {
  const float* values = nullptr;
  int64_t num_elements = 0;
};

// Partial sums of a launch, a double each: the scratch that LaunchSumSquares needs.
inline constexpr int kSumSquaresPartials = 1024;

// out[0] = the sum of all squares, in fp64. `partials` [kSumSquaresPartials], device memory.
cudaError_t LaunchSumSquares(const SumSquaresInput* tensors, int64_t count, double* partials,
                             double* out, cudaStream_t stream);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_OPTIMIZER_H_
