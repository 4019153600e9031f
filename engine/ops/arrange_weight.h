#ifndef LORAD_ENGINE_OPS_ARRANGE_WEIGHT_H_
#define LORAD_ENGINE_OPS_ARRANGE_WEIGHT_H_

#include "absl/status/status.h"
#include "engine/core/tensor_view.h"
#include "engine/ops/weight.h"

namespace lorad {

// Puts a weight's codes and scales into the order that the backend's kernels stream, in place, and
// says so in weight->tiled; a weight for which InferenceOps::ArrangeScratchBytes is 0 is left
// alone. Once, before the weight is used: the bytes are the model's own, whatever views say.
struct ArrangeWeightArgs {
  WeightView* weight = nullptr;
  TensorView scratch;  // kU8 [>= ArrangeScratchBytes(*weight)]; in use until the stream is done
};
absl::Status Validate(const ArrangeWeightArgs& args);

}  // namespace lorad

#endif  // LORAD_ENGINE_OPS_ARRANGE_WEIGHT_H_
