#include "engine/plan/checkpointing.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"

namespace lorad {
namespace {

constexpr int64_t kMostLayers = 1 << 14;

absl::Status DoesNotFit(int64_t needed, int64_t budget) {
  return absl::ResourceExhaustedError(
      absl::StrCat("activations: at least ", needed, " bytes are needed, ", budget,
                   " are there; use a smaller micro-batch or shorter sequences"));
}

CheckpointingPoint Named(std::string policy, const CheckpointingCost& cost) {
  return {std::move(policy), cost};
}

}  // namespace

absl::Status Validate(const LayerChain& chain) {
  if (chain.num_layers < 1 || chain.num_layers > kMostLayers)
    return absl::InvalidArgumentError(
        absl::StrCat("num_layers is ", chain.num_layers, "; it must be in [1, ", kMostLayers, "]"));
  constexpr int64_t kMostBytes = int64_t{1} << 46;  // times 2 * kMostLayers: 2^61
  const struct {
    const char* name;
    int64_t value, least;
  } sizes[] = {{"fixed_bytes", chain.fixed_bytes, 0},
               {"input_bytes", chain.input_bytes, 0},
               {"layer_bytes", chain.layer_bytes, 1}};
  for (const auto& [name, value, least] : sizes)
    if (value < least || value > kMostBytes)
      return absl::InvalidArgumentError(
          absl::StrCat(name, " is ", value, "; it must be in [", least, ", ", kMostBytes, "]"));
  return absl::OkStatus();
}

CheckpointingCost SegmentsCost(const LayerChain& chain, const ActivationCheckpointing& segments) {
  const LayerSegments parts(chain.num_layers, segments);
  return {.peak_bytes = chain.fixed_bytes + parts.count() * chain.input_bytes +
                        parts.longest() * chain.layer_bytes,
          .recomputed_layers = parts.Begin(chain.num_layers - 1)};
}

CheckpointingCost KeepNothingCost(const LayerChain& chain) {
  // The chain's input, and that of the layer at hand.
  const int64_t inputs = std::min<int64_t>(2, chain.num_layers);
  return {.peak_bytes = chain.fixed_bytes + inputs * chain.input_bytes + chain.layer_bytes,
          .recomputed_layers = chain.num_layers * (chain.num_layers - 1) / 2};
}

absl::StatusOr<ActivationCheckpointing> BestSegments(const LayerChain& chain,
                                                     int64_t budget_bytes) {
  RETURN_IF_ERROR(Validate(chain));
  int64_t leanest = std::numeric_limits<int64_t>::max();
  for (int64_t kept = chain.num_layers; kept >= 1; --kept) {
    ActivationCheckpointing best;
    int64_t best_bytes = std::numeric_limits<int64_t>::max();
    for (int64_t length = 1; length <= std::max<int64_t>(1, chain.num_layers - kept); ++length) {
      const ActivationCheckpointing segments = {.layers_per_segment = length, .kept_layers = kept};
      const int64_t bytes = SegmentsCost(chain, segments).peak_bytes;
      if (bytes < best_bytes) best = segments, best_bytes = bytes;
    }
    if (best_bytes <= budget_bytes) return best;
    leanest = std::min(leanest, best_bytes);
  }
  return DoesNotFit(leanest, budget_bytes);
}

ActivationCheckpointing FitSegments(const LayerChain& chain, int64_t budget_bytes) {
  const auto best = BestSegments(chain, budget_bytes);
  return best.ok() ? *best : ActivationCheckpointing{.layers_per_segment = 1, .offload = true};
}

absl::StatusOr<CheckpointingCurve> DrawCheckpointingCurve(const LayerChain& chain,
                                                          int64_t num_budgets) {
  RETURN_IF_ERROR(Validate(chain));
  if (num_budgets < 2 || num_budgets > 64)
    return absl::InvalidArgumentError(
        absl::StrCat("num_budgets is ", num_budgets, "; it must be in [2, 64]"));
  CheckpointingCurve curve;
  const auto add = [&](const std::string& policy) -> absl::Status {
    ASSIGN_OR_RETURN(const ActivationPolicy parsed,
                     ParseActivationPolicy(policy, chain.num_layers));
    curve.policies.push_back(Named(policy, SegmentsCost(chain, parsed.checkpointing)));
    return absl::OkStatus();
  };
  for (const char* policy : {"none", "every_layer", "sqrt"}) RETURN_IF_ERROR(add(policy));
  for (int64_t k = 2; k < chain.num_layers; k *= 2)
    RETURN_IF_ERROR(add(absl::StrCat("every_k:", k)));
  curve.policies.push_back(Named("keep_nothing", KeepNothingCost(chain)));
  const int64_t least = KeepNothingCost(chain).peak_bytes;
  const int64_t most = curve.policies.front().cost.peak_bytes;
  for (int64_t i = 0; i < num_budgets; ++i) {
    // Closer together where little memory costs much computing.
    const double part = static_cast<double>(i) / static_cast<double>(num_budgets - 1);
    const int64_t budget =
        i + 1 == num_budgets
            ? most
            : least + static_cast<int64_t>(static_cast<double>(most - least) * part * part);
    ASSIGN_OR_RETURN(const CheckpointingSchedule schedule, OptimalSchedule(chain, budget));
    curve.optimal.push_back(Named("optimal", schedule.cost));
    const auto segments = BestSegments(chain, budget);
    if (!segments.ok()) continue;  // below the leanest segments
    curve.segments.push_back(Named("auto", SegmentsCost(chain, *segments)));
  }
  return curve;
}

}  // namespace lorad
