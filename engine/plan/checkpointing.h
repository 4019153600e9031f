// Activation checkpointing: memory against computing again, and the best of it for a budget.
// Sources: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016 (segments, sqrt);
// Beaumont et al., "Optimal Checkpointing for Heterogeneous Chains", 2019 (the dynamic programme).
#ifndef LORAD_ENGINE_PLAN_CHECKPOINTING_H_
#define LORAD_ENGINE_PLAN_CHECKPOINTING_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/plan/activation_checkpointing.h"

namespace lorad {

// A chain of equal layers, forward and then backward. Bytes of what a pass holds at its peak:
//   fixed + (inputs held) * input + (layers whose activations are held at once) * layer
struct LayerChain {
  int64_t num_layers = 0;   // 1 to 2^14
  int64_t fixed_bytes = 0;  // >= 0: whatever is computed again
  int64_t input_bytes = 0;  // >= 0: of a layer's input that is kept to compute again from
  int64_t layer_bytes = 0;  // >= 1: of what a layer's backward pass needs, its output included
};
// kInvalidArgument names the field, the value and the bound; also where the sum of all would not
// fit 62 bits.
absl::Status Validate(const LayerChain& chain);

// What a policy takes.
struct CheckpointingCost {
  int64_t peak_bytes = 0;
  int64_t recomputed_layers = 0;  // forward passes over a layer beyond the first num_layers
};

// Of segments as the engine runs them: each of them but the last is computed again once.
CheckpointingCost SegmentsCost(const LayerChain& chain, const ActivationCheckpointing& segments);
// Nothing but the chain's input is kept: O(1) memory, and O(num_layers^2) forward passes, for each
// layer's activations are computed again from the start.
CheckpointingCost KeepNothingCost(const LayerChain& chain);

// The segments with the least to compute again that fit `budget_bytes`, and among those the least
// memory. kResourceExhausted gives the bytes that even the leanest take.
absl::StatusOr<ActivationCheckpointing> BestSegments(const LayerChain& chain, int64_t budget_bytes);
// What the policy "auto" does with a budget that does not hold everything: BestSegments, or single
// layers with their inputs on the host where not even those fit.
ActivationCheckpointing FitSegments(const LayerChain& chain, int64_t budget_bytes);

// One step of a schedule over nested segments.
struct CheckpointingStep {
  enum class Kind : uint8_t {
    kForward,   // layers [begin, end) without keeping; the input of `end` is kept
    kKeep,      // layer `begin` forward, its activations kept
    kBackward,  // layer `begin` backward
  };
  Kind kind;
  int64_t begin = 0, end = 0;
};
struct CheckpointingSchedule {
  CheckpointingCost cost;
  std::vector<CheckpointingStep> steps;
};
// The schedule with the fewest forward passes that fits `budget_bytes`, of all that keep inputs or
// whole layers, nested to any depth: C(1) = 1,
//   C(l, m) = min { 1 + C(l - 1, m - layer),  min over s of  s + C(l - s, m - input) + C(s, m) }
// by dynamic programming over lengths and what is held, exact in bytes. O(num_layers^2) states for
// each length, so kInvalidArgument above 192 layers. kResourceExhausted gives the bytes that
// keeping nothing takes.
absl::StatusOr<CheckpointingSchedule> OptimalSchedule(const LayerChain& chain,
                                                      int64_t budget_bytes);

// A policy by its name, and what it takes.
struct CheckpointingPoint {
  std::string policy;  // "none", "keep_nothing", "every_layer", "sqrt", "every_k:4", "auto",
                       // "optimal"
  CheckpointingCost cost;
};
struct CheckpointingCurve {
  std::vector<CheckpointingPoint> policies;  // none, keep_nothing, every_layer, sqrt, every_k
  std::vector<CheckpointingPoint> segments;  // BestSegments, by budget, ascending
  std::vector<CheckpointingPoint> optimal;   // OptimalSchedule, by budget, ascending
};
// `num_budgets` (2 to 64) of them from keeping nothing to keeping all, closer together below.
absl::StatusOr<CheckpointingCurve> DrawCheckpointingCurve(const LayerChain& chain,
                                                          int64_t num_budgets);

}  // namespace lorad

#endif  // LORAD_ENGINE_PLAN_CHECKPOINTING_H_
