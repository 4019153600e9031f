#ifndef LORAD_ENGINE_OPS_RMS_NORM_H_
#define LORAD_ENGINE_OPS_RMS_NORM_H_

#include "absl/status/status.h"
#include "engine/core/tensor_view.h"

namespace lorad {

// y[t, :] = x[t, :] * inv_rms[t] * gamma,  inv_rms[t] = 1 / sqrt(mean(x[t, :]^2) + eps)
// Sums in fp32 or wider. Source: Zhang & Sennrich, "Root Mean Square Layer Normalization", 2019.
struct RmsNormArgs {
  ConstTensorView x;      // activation dtype [num_tokens, hidden]
  ConstTensorView gamma;  // kF32 [hidden]
  TensorView y;           // like x; may alias x
  TensorView inv_rms;     // kF32 (kF64 in double precision) [num_tokens]; empty: not wanted
  float eps = 0;          // > 0
};
absl::Status Validate(const RmsNormArgs& args);

// With g = dy * gamma and n = x * inv_rms:
//   dx[t, :] (+)= inv_rms[t] * (g - n * mean(g * n))
// No gradient for gamma: the base model is frozen.
struct RmsNormBackwardArgs {
  ConstTensorView dy;       // activation dtype [num_tokens, hidden]
  ConstTensorView x;        // what the forward pass read
  ConstTensorView gamma;    // kF32 [hidden]
  ConstTensorView inv_rms;  // what the forward pass wrote
  TensorView dx;            // like x; may alias dy when accumulate is false
  bool accumulate = false;  // add to dx: the residual path's gradient is already there
};
absl::Status Validate(const RmsNormBackwardArgs& args);

}  // namespace lorad

#endif  // LORAD_ENGINE_OPS_RMS_NORM_H_
