// Output head, softmax and loss in one op on CUDA. Contract: engine/ops/cross_entropy.h.
#ifndef LORAD_ENGINE_OPS_CUDA_LINEAR_CROSS_ENTROPY_H_
#define LORAD_ENGINE_OPS_CUDA_LINEAR_CROSS_ENTROPY_H_

#include <cstdint>

#include "absl/status/status.h"
#include "engine/ops/cross_entropy.h"
#include "engine/ops/cuda/linear_group.h"
#include "engine/ops/cuda/matmul.h"

namespace lorad::cuda {

// REQUIRES: Validate(args) is OK, hidden is bf16, and the workspace, aligned to 256 bytes, holds
// LinearCrossEntropyWorkspaceBytes(args, limits). Logits and their gradient are rounded to bf16.
absl::Status LinearCrossEntropy(Matmul& matmul, const LinearCrossEntropyArgs& args,
                                const LinearScratch& scratch, const LinearLimits& limits = {});
int64_t LinearCrossEntropyWorkspaceBytes(const LinearCrossEntropyArgs& args,
                                         const LinearLimits& limits = {});

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_LINEAR_CROSS_ENTROPY_H_
