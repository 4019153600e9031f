#ifndef LORAD_PROTO_PLANNER_FLOPS_H_
#define LORAD_PROTO_PLANNER_FLOPS_H_

#include "absl/status/statusor.h"
#include "lorad/v1/planner_flops.pb.h"

namespace lorad::planner {

// PlannerService.CountFlops. kInvalidArgument and kNotFound name the field or what is not known,
// kOutOfRange a sum beyond 64 bits.
absl::StatusOr<v1::CountFlopsResponse> CountFlops(const v1::CountFlopsRequest& request);

}  // namespace lorad::planner

#endif  // LORAD_PROTO_PLANNER_FLOPS_H_
