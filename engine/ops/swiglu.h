#ifndef LORAD_ENGINE_OPS_SWIGLU_H_
#define LORAD_ENGINE_OPS_SWIGLU_H_

#include "absl/status/status.h"
#include "engine/core/tensor_view.h"

namespace lorad {

// out = silu(gate) * up,  silu(x) = x / (1 + exp(-x)).
// Source: Shazeer, "GLU Variants Improve Transformer", 2020.
struct SwiGluArgs {
  ConstTensorView gate;  // activation dtype [num_tokens, intermediate]
  ConstTensorView up;    // like gate
  TensorView out;        // like gate; may alias gate or up
};
absl::Status Validate(const SwiGluArgs& args);

// With sg = sigmoid(gate):
//   dup = dout * gate * sg,   dgate = dout * up * sg * (1 + gate * (1 - sg))
struct SwiGluBackwardArgs {
  ConstTensorView dout;  // like gate
  ConstTensorView gate;
  ConstTensorView up;
  TensorView dgate;  // may alias dout, gate or up
  TensorView dup;    // may alias dout, gate or up; not dgate
};
absl::Status Validate(const SwiGluBackwardArgs& args);

}  // namespace lorad

#endif  // LORAD_ENGINE_OPS_SWIGLU_H_
