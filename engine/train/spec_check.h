// The ranges of a job's hyperparameters.
#ifndef LORAD_ENGINE_TRAIN_SPEC_CHECK_H_
#define LORAD_ENGINE_TRAIN_SPEC_CHECK_H_

#include "absl/status/status.h"
#include "engine/train/spec.h"

namespace lorad {

// What TrainingSpec's comments say of each field that stands by itself or against another field;
// those that need the model, a file or the number of steps are checked where these are known.
// kInvalidArgument names the field, its value and the bound.
absl::Status CheckTrainingSpec(const TrainingSpec& spec);

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_SPEC_CHECK_H_
