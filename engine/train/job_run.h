// A job while it runs: what it holds on the device, and what it does next.
#ifndef LORAD_ENGINE_TRAIN_JOB_RUN_H_
#define LORAD_ENGINE_TRAIN_JOB_RUN_H_

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/core/arena.h"
#include "engine/device/backend.h"
#include "engine/train/background_task.h"
#include "engine/train/checkpoint.h"
#include "engine/train/data_stream.h"
#include "engine/train/evaluation.h"
#include "engine/train/job_setup.h"
#include "engine/train/slice.h"
#include "engine/train/slice_marks.h"
#include "engine/train/spec.h"
#include "engine/train/step.h"
#include "engine/train/training_memory.h"

namespace lorad {

// After each optimiser step come, where due, an evaluation and then a checkpoint; so a checkpoint
// holds what an evaluation found. One that is written on request may lie before the evaluation, and
// says so. Thread-compatible.
class JobRun {
 public:
  // Skipped steps in a row after which the job fails.
  static constexpr int32_t kMaxSkippedInRow = 3;

  enum class Progress : uint8_t { kRunning, kFinished, kStopped };

  // Takes the memory, restores the checkpoint of `setup` if it has one, calls OnStart. Nothing is
  // owned.
  static absl::StatusOr<std::unique_ptr<JobRun>> Create(const JobSetup& setup, Backend& backend,
                                                        TrainingSink& sink);
  ~JobRun();
  JobRun(const JobRun&) = delete;
  JobRun& operator=(const JobRun&) = delete;

  // One slice.
  absl::StatusOr<Progress> Advance();
  // See SlicedJob.
  Slice next_slice() const;
  absl::StatusOr<absl::Duration> AwaitSlice();
  // Stops, with a checkpoint, before the next optimiser step or evaluation.
  void RequestStop() { stop_ = true; }

  const TrainingResult& result() const { return result_; }  // once kFinished
  int64_t saved_step() const { return saved_step_; }        // of the newest checkpoint; -1: none

 private:
  enum class Phase : uint8_t { kNext, kStep, kEvaluation, kSaving, kFinishing };

  JobRun(const JobSetup& setup, Backend& backend, TrainingSink& sink);
  absl::Status Allocate();
  absl::Status Restore();

  absl::StatusOr<Progress> Run();  // a slice, by phase
  absl::StatusOr<Progress> Next();
  absl::Status BeginStep();
  absl::Status AdvanceStep();
  absl::Status OnStepDone();
  absl::Status OnSkippedStep(const StepOutcome& outcome);
  void ReportStep(const StepOutcome& outcome);
  void BeginEvaluation();
  absl::Status AdvanceEvaluation();
  absl::Status OnEvaluationDone();
  absl::Status BeginCheckpoint();
  absl::Status BeginFinish();
  absl::StatusOr<Progress> AwaitFiles();

  double Seconds() const;  // of the running step or evaluation: queueing and waiting for slices
  bool SavesNext() const;  // in kNext: a checkpoint is what comes
  bool EndsNext() const;   // in kNext: the result is what comes
  bool AllStepsDone() const;
  bool EvaluationDue() const;
  bool CheckpointDue() const;

  const JobSetup& setup_;
  Backend& backend_;
  TrainingSink& sink_;

  std::unique_ptr<Stream> stream_;
  std::optional<SliceMarks> marks_;  // in the stream
  DeviceBuffer block_;
  std::unique_ptr<InputOffload> offload_;  // its copies use the block
  std::optional<Arena> arena_;
  std::optional<TrainingMemory> memory_;
  std::optional<TrainStep> step_;
  std::optional<Evaluation> evaluation_;
  DataStream data_;

  TrainingProgress progress_;
  std::optional<HostAdapter> best_;
  Phase phase_ = Phase::kNext;
  bool stop_ = false;
  bool save_due_ = false;
  int64_t saved_step_ = -1;
  absl::Time slice_begin_;
  double seconds_ = 0;  // of the running step or evaluation, the running call left out
  double learning_rate_ = 0;
  CheckpointReport checkpoint_;  // the files' thread writes these two
  TrainingResult result_;
  BackgroundTask files_;  // of kSaving and kFinishing; uses what stands above
};

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_JOB_RUN_H_
