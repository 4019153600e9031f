// Linear layers whose rows are independent of each other, bit for bit: LinearArgs::row_invariant.
#ifndef LORAD_ENGINE_OPS_CUDA_ROW_LINEAR_H_
#define LORAD_ENGINE_OPS_CUDA_ROW_LINEAR_H_

#include <cstdint>

#include "absl/status/status.h"
#include "engine/ops/cuda/matmul.h"
#include "engine/ops/linear.h"

namespace lorad::cuda {

// The op of engine/ops/linear.h for args that Validate() has passed and that are row_invariant. y
// is rounded to bf16 once after weights, bias, residual (or, with `accumulate`, the old y) and a
// bf16 adapter over tiled weights (TakesLoras of row_product.h) are summed, and once more where any
// other adapter adds to it; xa is rounded before B. So base rows never pass through anything but
// the first. Views may have strides; the fast layouts are those of
// row_product.h.
absl::Status RowInvariantLinear(const LinearArgs& args, const LinearScratch& scratch);

// args.swiglu of what y holds.
absl::Status SwiGluOfTerms(const LinearArgs& args, cudaStream_t stream);

// Only dropout needs scratch.
int64_t RowInvariantLinearWorkspaceBytes(const LinearArgs& args);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ROW_LINEAR_H_
