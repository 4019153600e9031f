#ifndef LORAD_ENGINE_OPS_OPTIMIZER_H_
#define LORAD_ENGINE_OPS_OPTIMIZER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/core/tensor_view.h"

namespace lorad {

// One parameter tensor with what its update needs. All adapter dtype, equal shapes.
struct AdamWTensor {
  TensorView param;
  ConstTensorView grad;
  TensorView m;  // first moment, zero before step 1
  TensorView v;  // second moment, zero before step 1
};

// Decoupled weight decay, in PyTorch's order of operations (p *= 1 - lr * weight_decay first):
//   m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2,  g = grad * grad_scale
//   p -= lr * (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)
// Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization", 2019.
struct AdamWArgs {
  absl::Span<const AdamWTensor> tensors;
  double learning_rate = 0;  // >= 0
  double beta1 = 0.9;        // [0, 1)
  double beta2 = 0.999;      // [0, 1)
  double eps = 1e-8;         // > 0
  double weight_decay = 0;   // >= 0
  double grad_scale = 1;     // gradient clipping folded in
  int64_t step = 1;          // >= 1
};
absl::Status Validate(const AdamWArgs& args);

// out[0] = sum over all tensors of sum of squares; accumulated in fp64 in a fixed order, so the
// same from run to run. The gradient norm is its square root.
struct SumSquaresArgs {
  absl::Span<const ConstTensorView> tensors;  // adapter dtype
  TensorView out;                             // kF64 [1]
};
absl::Status Validate(const SumSquaresArgs& args);

}  // namespace lorad

#endif  // LORAD_ENGINE_OPS_OPTIMIZER_H_
