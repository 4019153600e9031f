// The engine's own layout of a job (engine/train/training_memory.h), from shapes alone.
#ifndef LORAD_ENGINE_PLAN_ENGINE_MEMORY_H_
#define LORAD_ENGINE_PLAN_ENGINE_MEMORY_H_

#include "absl/status/statusor.h"
#include "engine/plan/memory_plan.h"

namespace lorad {

// Of kLora and kQlora, all but the totals. REQUIRES: Validate(request).
absl::StatusOr<MemoryPlan> PlanEngineTraining(const MemoryRequest& request);

}  // namespace lorad

#endif  // LORAD_ENGINE_PLAN_ENGINE_MEMORY_H_
