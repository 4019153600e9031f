#ifndef LORAD_ENGINE_OPS_CUDA_CUDA_OPS_H_
#define LORAD_ENGINE_OPS_CUDA_CUDA_OPS_H_

#include <memory>

#include "absl/status/statusor.h"
#include "engine/device/cuda/cuda_allocator.h"
#include "engine/ops/ops.h"

namespace lorad::cuda {

// Every op on GPU `device`, activations in bf16 with fp32 sums. Takes the matrix library's scratch
// for two streams, which then need no more memory, from `allocator`, which must outlive the ops.
// The environment, read here: LORAD_ATTENTION=own|cudnn chooses the attention kernels in training;
// unset, cuDNN where it is present and supports the shape.
absl::StatusOr<std::unique_ptr<Ops>> CreateCudaOps(int device, CudaAllocator& allocator);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_CUDA_OPS_H_
