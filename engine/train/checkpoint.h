// What a job needs to go on where it was, on disk.
#ifndef LORAD_ENGINE_TRAIN_CHECKPOINT_H_
#define LORAD_ENGINE_TRAIN_CHECKPOINT_H_

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/lora/adapter.h"
#include "engine/model/config.h"
#include "engine/train/spec.h"
#include "engine/train/trainable_adapter.h"

namespace lorad {

// Progress of a job between two optimiser steps. Random numbers are functions of the seed and these
// counters, so there is no generator to save.
struct TrainingProgress {
  int64_t step = 0;            // optimiser steps done, skipped ones included
  int64_t updates = 0;         // steps that changed the weights: AdamW's count
  int64_t epoch = 0;           // of the next step
  int64_t step_in_epoch = 0;   // of the next step, in its epoch
  int32_t skipped_in_row = 0;  // steps without an update, up to now
  bool evaluated = true;       // false: an evaluation due after `step` has not been done
  double last_loss = std::numeric_limits<double>::quiet_NaN();
  double best_eval_loss = std::numeric_limits<double>::quiet_NaN();
  int64_t best_step = 0;
  int32_t evals_without_gain = 0;
};

struct TrainingSnapshot {
  TrainingProgress progress;
  HostAdapter adapter;
  HostMoments moments;
  std::optional<HostAdapter> best;  // of best_step
};

// What a job is: everything that changes its result, as text by name. Two jobs with equal identity
// and step have equal snapshots.
using JobIdentity = std::map<std::string, std::string>;

// Writes `dir`/step-<12 digits> as a whole or not at all; `dir` is made if missing. Files:
//   adapter/, best/          PEFT directories, for any use
//   moments.safetensors      "m", "v": F32 [elements], as in TrainableAdapter; or with moments in 8
//                            bits U8 [elements], beside "m_scales", "v_scales": F32 [blocks]
//   state.json               progress and identity
//   SHA256SUMS               of the files above, as sha256sum prints it
// Then removes all but the newest two. A checkpoint of that step that is already there is kept.
// Blocks until all is durable: not for the engine thread.
absl::StatusOr<CheckpointReport> WriteCheckpoint(const std::string& dir,
                                                 const JobIdentity& identity,
                                                 const TrainingSnapshot& snapshot);

struct NewestCheckpoint {
  std::optional<TrainingSnapshot> snapshot;  // none: there is no good checkpoint
  // Newer ones that are damaged: their directories, and what is wrong with each.
  std::vector<std::string> damaged, reasons;
};

// The newest checkpoint in `dir` whose files are all there and have their checksums. Changes
// nothing on the disk. kFailedPrecondition when it belongs to another job: names each entry of the
// identity that differs, with both values.
absl::StatusOr<NewestCheckpoint> ReadNewestCheckpoint(const std::string& dir,
                                                      const JobIdentity& identity,
                                                      const ModelConfig& config);

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_CHECKPOINT_H_
