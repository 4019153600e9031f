// PlanSpec to what engine/plan takes.
#ifndef LORAD_PROTO_PLANNER_SPEC_H_
#define LORAD_PROTO_PLANNER_SPEC_H_

#include <string>

#include "absl/status/statusor.h"
#include "engine/plan/memory_plan.h"
#include "lorad/v1/planner_service.pb.h"

namespace lorad::planner {

// With every default of planner_service.proto filled in. kInvalidArgument names the field, its
// value and what is known.
absl::StatusOr<MemoryRequest> RequestOf(const v1::PlanSpec& spec);

// `spec` with the defaults that RequestOf took, without its model.
v1::PlanSpec Filled(const v1::PlanSpec& spec, const MemoryRequest& request);

// PlanSpec.precision of weights that are held so.
std::string PrecisionName(QuantFormat format);

}  // namespace lorad::planner

#endif  // LORAD_PROTO_PLANNER_SPEC_H_
