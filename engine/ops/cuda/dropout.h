// The dropout mask that engine/ops/linear.h defines, on the device.
#ifndef LORAD_ENGINE_OPS_CUDA_DROPOUT_H_
#define LORAD_ENGINE_OPS_CUDA_DROPOUT_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/core/dtype.h"

namespace lorad::cuda {

// Which elements are kept: a function of these and of the column alone.
struct DropoutMask {
  float probability = 0;  // [0, 1)
  uint64_t seed = 0;
  uint32_t step = 0;
  uint32_t module = 0;
  const uint64_t* token_keys = nullptr;  // device memory, [rows]
};

// out[t, i] = kept ? x[t, i] / (1 - probability) : 0. Both [rows, columns] with their strides; out
// may be x.
cudaError_t LaunchDropout(const DropoutMask& mask, const BFloat16* x, int64_t x_stride,
                          int64_t rows, int64_t columns, BFloat16* out, int64_t out_stride,
                          cudaStream_t stream);
// out += the same.
cudaError_t LaunchDropoutAdd(const DropoutMask& mask, const BFloat16* x, int64_t x_stride,
                             int64_t rows, int64_t columns, BFloat16* out, int64_t out_stride,
                             cudaStream_t stream);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_DROPOUT_H_
