// What a reader of a scaling law should know before believing it.
#ifndef LORAD_ENGINE_PLAN_SCALING_WARNINGS_H_
#define LORAD_ENGINE_PLAN_SCALING_WARNINGS_H_

#include <optional>
#include <string_view>
#include <vector>

#include "engine/plan/scaling_law.h"

namespace lorad {

// Few points for the parameters, parameters that the points do not determine, outliers,
// under-trained runs.
std::vector<ScalingWarning> WarningsOf(const ScalingLaw& law);

// A warning if `value` of `variable` is more than a decade above or below all points; `what` names
// it, such as "the budget".
std::optional<ScalingWarning> ExtrapolationWarning(const ScalingLaw& law, ScalingVariable variable,
                                                   double value, std::string_view what);

}  // namespace lorad

#endif  // LORAD_ENGINE_PLAN_SCALING_WARNINGS_H_
