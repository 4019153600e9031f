// Linear layers with LoRA on CUDA: packed weights are decoded to bf16 once a call and multiplied by
// cuBLASLt, LoRA inside the same product where the operands lie as kLinearLayout asks. Contracts:
// engine/ops/linear.h.
#ifndef LORAD_ENGINE_OPS_CUDA_LINEAR_H_
#define LORAD_ENGINE_OPS_CUDA_LINEAR_H_

#include <cstdint>

#include "absl/status/status.h"
#include "engine/ops/cuda/linear_group.h"
#include "engine/ops/cuda/matmul.h"
#include "engine/ops/linear.h"

namespace lorad::cuda {

// Spare columns end where the row's slice begins in the next row: an x or dy (the last term's) with
// a stride above its columns has that many behind it.
inline constexpr LinearLayout kLinearLayout = {
    .side_by_side = true, .spare_column_align = kRankAlign, .reuses_workspace = true};

// REQUIRES: Validate(args) is OK, activations are bf16, and the workspace, aligned to 256 bytes,
// holds LinearWorkspaceBytes(args, limits). A and B are rounded to bf16, and so are x A^T and dy B;
// sums are fp32.
absl::Status Linear(Matmul& matmul, const LinearArgs& args, const LinearScratch& scratch,
                    const LinearLimits& limits = {});
int64_t LinearWorkspaceBytes(const LinearArgs& args, const LinearLimits& limits = {});

// The same, with LinearBackwardWorkspaceBytes(args, limits).
absl::Status LinearBackward(Matmul& matmul, const LinearBackwardArgs& args,
                            const LinearScratch& scratch, const LinearLimits& limits = {});
int64_t LinearBackwardWorkspaceBytes(const LinearBackwardArgs& args,
                                     const LinearLimits& limits = {});

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_LINEAR_H_
