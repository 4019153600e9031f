// PlannerService.PlanMemory and PlanCheckpointing.
#ifndef LORAD_PROTO_PLANNER_MEMORY_H_
#define LORAD_PROTO_PLANNER_MEMORY_H_

#include "absl/status/statusor.h"
#include "lorad/v1/planner_service.pb.h"

namespace lorad::planner {

// kInvalidArgument names the field, the value and the bound.
absl::StatusOr<v1::PlanMemoryResponse> PlanMemory(const v1::PlanMemoryRequest& request);
absl::StatusOr<v1::PlanCheckpointingResponse> PlanCheckpointing(
    const v1::PlanCheckpointingRequest& request);

}  // namespace lorad::planner

#endif  // LORAD_PROTO_PLANNER_MEMORY_H_
