// Values of engine/plan's scaling laws as messages.
#ifndef LORAD_PROTO_PLANNER_SCALING_MESSAGES_H_
#define LORAD_PROTO_PLANNER_SCALING_MESSAGES_H_

#include <optional>

#include "engine/plan/compute_optimal.h"
#include "engine/plan/scaling_comparison.h"
#include "engine/plan/scaling_law.h"
#include "lorad/v1/planner_scaling.pb.h"

namespace lorad::planner {

ScalingPoint FromProto(const v1::ScalingPoint& point);
// Unset for UNSPECIFIED and for values of a later version.
std::optional<ScalingForm> FromProto(v1::ScalingForm form);
std::optional<ScalingVariable> FromProto(v1::ScalingVariable variable);

v1::ScalingPoint ToProto(const ScalingPoint& point);
// The law alone: without optima and predictions.
v1::ScalingLawFit ToProto(const ScalingLaw& law);
v1::ComputeOptimum ToProto(const ComputeOptimum& optimum);
v1::LossPrediction ToProto(const LossPrediction& prediction);
v1::ScalingComparison ToProto(const ScalingComparison& comparison);

}  // namespace lorad::planner

#endif  // LORAD_PROTO_PLANNER_SCALING_MESSAGES_H_
