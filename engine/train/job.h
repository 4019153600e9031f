// One fine-tuning job, as a machine that the scheduler advances slice by slice.
#ifndef LORAD_ENGINE_TRAIN_JOB_H_
#define LORAD_ENGINE_TRAIN_JOB_H_

#include <memory>

#include "absl/status/statusor.h"
#include "engine/device/backend.h"
#include "engine/io/tokenizer.h"
#include "engine/model/weights.h"
#include "engine/train/sliced_job.h"
#include "engine/train/spec.h"

namespace lorad {

// From creation to the PEFT directory at the end: optimiser steps, evaluation, checkpoints, early
// stopping. The adapter that comes out is the one with the lowest eval loss if there is an eval
// set, the last one otherwise. The same spec, data, base model and seed give the same
// adapter id, across any number of stops, crashes and resumes.
//
// Create() may run on any thread, beside serving: it touches host memory alone. After that the
// object is thread-compatible and belongs to the thread that owns the backend.
class TrainingJob final : public SlicedJob {
 public:
  // Checks everything that can be checked before a step runs: each hyperparameter, target modules,
  // ranks, the warm start, both datasets (read and tokenised here), directories, a checkpoint to
  // resume, device memory. Allocates nothing on the device. kInvalidArgument: names the field or
  // file and line, the value and the bound. kNotFound: a file. kFailedPrecondition: a checkpoint
  // of another spec or other data, with what differs; an output directory in use.
  // kResourceExhausted: the needed and the free bytes.
  // `tokenizer` may be null: then only pre-tokenised datasets. It and `backend` are not owned and
  // must outlive the job.
  static absl::StatusOr<std::unique_ptr<TrainingJob>> Create(const TrainingSpec& spec,
                                                             std::shared_ptr<const Model> model,
                                                             const Tokenizer* tokenizer,
                                                             Backend& backend);
  ~TrainingJob() override;
  TrainingJob(const TrainingJob&) = delete;
  TrainingJob& operator=(const TrainingJob&) = delete;

  const TrainingPlan& plan() const;

  // See SlicedJob.
  absl::Status Start(std::shared_ptr<TrainingSink> sink, PublishAdapter publish) override;
  TrainingState Advance() override;
  bool waiting() const override;
  Slice next_slice() const override;
  absl::Duration AwaitSlice() override;
  TrainingState state() const override;
  void RequestStop(bool checkpoint) override;

 private:
  class Impl;
  explicit TrainingJob(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Reads and tokenises a dataset as a job would. Errors as for TrainingJob::Create; max_seq_length
// in [2, the model's context]. Thread-safe.
absl::StatusOr<DatasetReport> ValidateDatasetFile(const std::string& path, int32_t max_seq_length,
                                                  const ModelConfig& config,
                                                  const Tokenizer* tokenizer);

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_JOB_H_
