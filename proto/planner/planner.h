// PlannerService as plain functions: the daemon's handlers call them, and so does loractl, which
// plans without a daemon.
#ifndef LORAD_PROTO_PLANNER_PLANNER_H_
#define LORAD_PROTO_PLANNER_PLANNER_H_

#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "lorad/v1/planner_model.pb.h"

namespace lorad::planner {

// The config that `model` names, checked by CheckPlannable. kInvalidArgument where no source is
// set: there is no model to fall back on here.
absl::StatusOr<ModelConfig> ConfigOf(const v1::PlanModel& model);

}  // namespace lorad::planner

#endif  // LORAD_PROTO_PLANNER_PLANNER_H_
