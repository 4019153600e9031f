// PlannerService.FitScalingLaw as a function; see planner.h.
#ifndef LORAD_PROTO_PLANNER_SCALING_H_
#define LORAD_PROTO_PLANNER_SCALING_H_

#include "absl/status/statusor.h"
#include "lorad/v1/planner_scaling.pb.h"

namespace lorad::planner {

// kInvalidArgument, naming the family, the point, the value and the bound, as the .proto has them.
// Takes what bootstrap_draws says there, on `threads` cores; 0: on all. Thread-safe.
absl::StatusOr<v1::FitScalingLawResponse> FitScalingLaw(const v1::FitScalingLawRequest& request,
                                                        int threads = 0);

}  // namespace lorad::planner

#endif  // LORAD_PROTO_PLANNER_SCALING_H_
