#ifndef LORAD_ENGINE_OPS_CROSS_ENTROPY_H_
#define LORAD_ENGINE_OPS_CROSS_ENTROPY_H_

#include <cstdint>

#include "absl/status/status.h"
#include "engine/core/tensor_view.h"
#include "engine/ops/weight.h"

namespace lorad {

inline constexpr int32_t kIgnoreLabel = -100;

// Output head and loss in one op, over row chunks, so that logits [num_tokens, vocab] never exist:
//   loss[t] = logsumexp(head h[t]) - (head h[t])[labels[t]],  0 where labels[t] == kIgnoreLabel
//   dhidden[t, :] = grad_scale * (softmax(head h[t]) - onehot(labels[t])) head,  0 where ignored
// Ignored rows cost nothing on the CPU; a GPU multiplies them with the rest, for only the device
// knows which they are. No gradient for the frozen head.
// labels are already shifted: labels[t] is the token that row t predicts.
struct LinearCrossEntropyArgs {
  ConstTensorView hidden;  // activation dtype [num_tokens, hidden], after the last norm
  WeightView head;         // [vocab, hidden]
  ConstTensorView labels;  // kI32 [num_tokens], in [0, vocab) or kIgnoreLabel
  TensorView loss;         // kF32 (kF64 in double precision) [num_tokens], in nats
  TensorView dhidden;      // like hidden, may alias it; empty: loss alone
  float grad_scale = 1;    // 1 / target tokens of the whole optimiser step
  TensorView workspace;    // kU8 [>= LinearCrossEntropyWorkspaceBytes(args)]
};
absl::Status Validate(const LinearCrossEntropyArgs& args);

}  // namespace lorad

#endif  // LORAD_ENGINE_OPS_CROSS_ENTROPY_H_
