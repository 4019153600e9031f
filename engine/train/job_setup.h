// Everything about a job that is worked out before it starts.
#ifndef LORAD_ENGINE_TRAIN_JOB_SETUP_H_
#define LORAD_ENGINE_TRAIN_JOB_SETUP_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/device/backend.h"
#include "engine/io/tokenizer.h"
#include "engine/lora/adapter.h"
#include "engine/model/weights.h"
#include "engine/plan/optimizer_kind.h"
#include "engine/train/checkpoint.h"
#include "engine/train/dataset.h"
#include "engine/train/packing.h"
#include "engine/train/schedule.h"
#include "engine/train/spec.h"
#include "engine/train/training_memory.h"

namespace lorad {

struct JobSetup {
  TrainingSpec spec;
  std::shared_ptr<const Model> model;
  TokenDataset train;
  std::optional<TokenDataset> eval;
  PackingOptions packing;
  HostAdapter initial;  // of a fresh start
  PassOptions pass;     // over the training set
  OptimizerKind optimizer = OptimizerKind::kAdamW;
  LearningRateSchedule schedule;
  TokenCounts tokens;
  TrainingPlan plan;
  JobIdentity identity;
  NewestCheckpoint checkpoint;
};

// TrainingJob::Create's checks, in the order of their cost. Reads files; allocates nothing on the
// device and writes nothing.
absl::StatusOr<std::unique_ptr<JobSetup>> PrepareJob(const TrainingSpec& spec,
                                                     std::shared_ptr<const Model> model,
                                                     const Tokenizer* tokenizer, Backend& backend);

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_JOB_SETUP_H_
