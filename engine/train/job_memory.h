// Whether a job fits into the device's memory, and how it is made to.
#ifndef LORAD_ENGINE_TRAIN_JOB_MEMORY_H_
#define LORAD_ENGINE_TRAIN_JOB_MEMORY_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/backend.h"
#include "engine/plan/activation_checkpointing.h"
#include "engine/plan/memory_plan.h"
#include "engine/train/job_setup.h"

namespace lorad {

// Bytes that the device may give to training at all: its limit if there is one, else what the other
// tags leave. Another job's memory does not count, for jobs run one after another.
int64_t TrainingRoom(Backend& backend);

// MeasureTrainingMemory of the job.
absl::StatusOr<TrainingMemoryNeeds> MeasureJob(const JobSetup& setup, Backend& backend,
                                               const ActivationCheckpointing& checkpointing);

// The policy "auto": everything kept if it fits; else the planner's BestSegments, over what the
// job's own layout measures a layer and an input at; offload where not even those fit.
absl::StatusOr<ActivationCheckpointing> FitCheckpointing(const JobSetup& setup, Backend& backend);

// What the planner is asked about the job: rows as long as its micro-batches are on average, each
// projection's largest rank, and as budget what the base model and TrainingRoom take.
MemoryRequest PlanRequestOf(const JobSetup& setup, Backend& backend);

// kResourceExhausted unless `needed_bytes` fit into TrainingRoom: gives both, and what the planner
// says would fit.
absl::Status CheckMemoryFits(int64_t needed_bytes, const JobSetup& setup, Backend& backend);

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_JOB_MEMORY_H_
