// The hyperparameters of a job between the wire and the engine.
#ifndef LORAD_SERVER_JOBS_TRAINING_SPEC_H_
#define LORAD_SERVER_JOBS_TRAINING_SPEC_H_

#include "absl/status/status.h"
#include "engine/engine.h"
#include "lorad/v1/adapter_service.pb.h"
#include "lorad/v1/training_spec.pb.h"

namespace lorad::server {

// Sets every unset field to its default, which is that of the engine's TrainingSpec.
// `context_tokens`: of the model. `warm_start`: the adapter to start from, or nullptr; r,
// lora_alpha, use_rslora and target_modules default to its own.
void FillDefaults(v1::TrainingSpec& spec, int32_t context_tokens, const v1::Adapter* warm_start);

// Checks the range of every field, and agreement with `warm_start`. kInvalidArgument names the
// field as "spec.training.<name>", its value and its bound. REQUIRES: FillDefaults was called.
absl::Status CheckTrainingSpec(const v1::TrainingSpec& spec, bool has_eval_dataset,
                               int32_t context_tokens, const v1::Adapter* warm_start);

// Everything but the paths. REQUIRES: FillDefaults was called.
TrainingSpec ToEngine(const v1::TrainingSpec& spec);

}  // namespace lorad::server

#endif  // LORAD_SERVER_JOBS_TRAINING_SPEC_H_
