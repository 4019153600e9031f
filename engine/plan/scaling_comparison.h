// Two families of models by their scaling laws: which falls faster, where they cross, who is ahead.
#ifndef LORAD_ENGINE_PLAN_SCALING_COMPARISON_H_
#define LORAD_ENGINE_PLAN_SCALING_COMPARISON_H_

#include <array>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/plan/compute_optimal.h"
#include "engine/plan/scaling_law.h"

namespace lorad {

// Families are 0 and 1 in the order they were given.
struct Crossing {
  Estimate at;           // where the losses are equal
  double loss = 0;       // there
  int ahead_beyond = 0;  // the family of less loss above it
  double share = 0;      // of the draws that have this crossing, in [0, 1]
};

struct Standing {
  double at = 0;
  int ahead = 0;     // the family of less loss
  double share = 0;  // of the draws that agree, in [0, 1]
};

struct ScalingComparison {
  ScalingVariable variable;        // that they are compared along
  std::array<Estimate, 2> slopes;  // exponent of the reducible loss: larger is steeper
  Estimate slope_difference;       // of family 0 less that of family 1
  // Unset where the interval of the difference holds 0: the points do not tell.
  std::optional<int> steeper;
  // By position, two at most. A crossing that more than 1 - confidence of the draws lack has an
  // interval from 0 to infinity.
  std::vector<Crossing> crossings;
  Standing long_run;                // at the end of the range of `variable`, 1e38
  std::vector<Standing> standings;  // at what was asked for
  std::vector<ScalingWarning> warnings;
};

// Along compute, each family at its own best N and D, or along the one variable of both. `at`:
// where to say who is ahead, each in [1, 1e38]. The families' noise is taken as independent.
// kInvalidArgument where the laws share no variable.
absl::StatusOr<ScalingComparison> CompareScaling(const ScalingLaw& first, const ScalingLaw& second,
                                                 absl::Span<const double> at);

}  // namespace lorad

#endif  // LORAD_ENGINE_PLAN_SCALING_COMPARISON_H_
