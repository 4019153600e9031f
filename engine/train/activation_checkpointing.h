// How many layers' activations are kept for the backward pass.
#ifndef LORAD_ENGINE_TRAIN_ACTIVATION_CHECKPOINTING_H_
#define LORAD_ENGINE_TRAIN_ACTIVATION_CHECKPOINTING_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace lorad {

// The layers of a segment: the forward pass keeps the input of each segment, the backward pass
// computes a segment's activations again, those of the last one excepted, which are still there.
// "none" is one segment of all layers. Source: Chen et al., "Training Deep Nets with Sublinear
// Memory Cost", 2016; "sqrt" is its ceil(sqrt(num_layers)).
// Policies: none | every_layer | every_k:K with K >= 1 (more than all layers means all) | sqrt.
// kInvalidArgument otherwise.
absl::StatusOr<int64_t> LayersPerSegment(const std::string& policy, int64_t num_layers);

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_ACTIVATION_CHECKPOINTING_H_
