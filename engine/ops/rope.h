#ifndef LORAD_ENGINE_OPS_ROPE_H_
#define LORAD_ENGINE_OPS_ROPE_H_

#include "absl/status/status.h"
#include "engine/core/tensor_view.h"

namespace lorad {

// Rotary position embedding in the Hugging Face layout (first half against second half), in place:
//   (x[i], x[i + D/2]) <- rotation by angle positions[t] * inv_freq[i],  i in [0, D/2)
// Source: Su et al., "RoFormer", 2021. The backward pass is the inverse rotation.
struct RopeArgs {
  TensorView x;               // activation dtype [num_tokens, num_heads, head_dim], head_dim even
  ConstTensorView positions;  // kI32 [num_tokens], >= 0
  ConstTensorView inv_freq;   // kF32 [head_dim / 2], with the model's rope scaling applied
  bool inverse = false;       // rotate by the negative angle
};
absl::Status Validate(const RopeArgs& args);

}  // namespace lorad

#endif  // LORAD_ENGINE_OPS_ROPE_H_
