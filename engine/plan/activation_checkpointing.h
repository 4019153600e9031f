// Which layers' activations stay for the backward pass, and where.
#ifndef LORAD_ENGINE_PLAN_ACTIVATION_CHECKPOINTING_H_
#define LORAD_ENGINE_PLAN_ACTIVATION_CHECKPOINTING_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace lorad {

// Layers are divided into segments. The forward pass keeps the input of each segment; the backward
// pass computes a segment's activations again from it, those of the last segment excepted, which
// are still there. Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
struct ActivationCheckpointing {
  int64_t layers_per_segment = 1;  // >= 1
  int64_t kept_layers = 0;         // of the last segment; 0: what the others leave over
  // Of one segment of all layers, silu(gate) * up is kept too; otherwise that product is computed
  // again whenever it is needed.
  bool keeps_act = false;
  // The segments' inputs go to pinned host memory after use, and come back before they are needed.
  bool offload = false;
};

// The segments of `num_layers` layers, in order.
class LayerSegments {
 public:
  LayerSegments() = default;
  LayerSegments(int64_t num_layers, const ActivationCheckpointing& checkpointing);

  int64_t count() const;
  // Of the segment that `layer` is in.
  int64_t Index(int64_t layer) const;
  int64_t Begin(int64_t layer) const;
  int64_t End(int64_t layer) const;
  bool IsLast(int64_t layer) const { return End(layer) == num_layers_; }
  // Layers of the longest one.
  int64_t longest() const;

 private:
  int64_t num_layers_ = 0;
  int64_t length_ = 1;      // of each but the last
  int64_t last_begin_ = 0;  // a multiple of length_, unless length_ is 1
};

// A policy by name:
//   none         one segment of all layers, and silu(gate) * up kept
//   every_layer  segments of one layer
//   every_k:K    of K >= 1 layers (more than all layers means all)
//   sqrt         of ceil(sqrt(num_layers))
//   offload      every_layer with the inputs in host memory
//   auto         none if it fits in memory; else as many of the last layers kept as fit, and
//                every_layer for the rest; offload where not even that fits. Layers cost the same
//                to compute and to keep, so which ones are kept does not matter.
struct ActivationPolicy {
  ActivationCheckpointing checkpointing;
  bool fits_to_memory = false;  // auto: `checkpointing` is still to be chosen
};
// kInvalidArgument gives the value and the known ones.
absl::StatusOr<ActivationPolicy> ParseActivationPolicy(const std::string& policy,
                                                       int64_t num_layers);

// For people: "all 32 layers kept", "all 32 layers kept but silu(gate) * up", "11 of 32 layers
// kept, the rest computed again in segments of 1", with "; inputs in host memory".
std::string Describe(const ActivationCheckpointing& checkpointing, int64_t num_layers);

}  // namespace lorad

#endif  // LORAD_ENGINE_PLAN_ACTIVATION_CHECKPOINTING_H_
