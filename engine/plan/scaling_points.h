// The points of a scaling study, checked and completed, and which law they can carry.
#ifndef LORAD_ENGINE_PLAN_SCALING_POINTS_H_
#define LORAD_ENGINE_PLAN_SCALING_POINTS_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/plan/power_law.h"
#include "engine/plan/scaling_law.h"

namespace lorad {

// FLOPs of training a parameter on a token, forward and backward: Kaplan et al., equation 2.2.
inline constexpr double kFlopsPerParameterToken = 6;

// The value of `variable`, 0 if it is not known.
double ValueOf(const ScalingPoint& point, ScalingVariable variable);

// Checks every point and fills in what follows from C = 6 N D.
absl::Status CompletePoints(std::vector<ScalingPoint>& points);

ScalingRange RangeOf(const std::vector<ScalingPoint>& points, ScalingVariable variable);

// The form and its variables, chosen where `options` do not say.
struct ScalingShape {
  ScalingForm form;
  std::vector<ScalingVariable> variables;
  PowerLawForm power_law() const;
};
// kInvalidArgument where the points cannot carry it. REQUIRES: CompletePoints(points).
absl::StatusOr<ScalingShape> ChooseShape(const std::vector<ScalingPoint>& points,
                                         const ScalingLawOptions& options);

PowerLawData DataOf(const std::vector<ScalingPoint>& points, const ScalingShape& shape);

}  // namespace lorad

#endif  // LORAD_ENGINE_PLAN_SCALING_POINTS_H_
