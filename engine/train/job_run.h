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
#include "engine/train/checkpoint.h"
#include "engine/train/data_stream.h"
#include "engine/train/evaluation.h"
#include "engine/train/job_keeper.h"
#include "engine/train/job_setup.h"
#include "engine/train/slice.h"
#include "engine/train/slice_marks.h"
#include "engine/train/spec.h"
#include "engine/train/step.h"
#include "engine/train/training_memory.h"

namespace lorad {

// After each optimiser step come, where due, an evaluation and then a checkpoint; so a checkpoint
// holds what an evaluation found. One that is written on request may lie before the evaluation, and
// says so. Steps go on while a checkpoint is written; the next one waits for it. At the end the
// adapter goes into service first, then the last checkpoint is written, then the output.
// Thread-compatible.
class JobRun {
 public:
  // Skipped steps in a row after which the job fails.
  static constexpr int32_t kMaxSkippedInRow = 3;

  enum class Progress : uint8_t { kRunning, kFinished, kStopped };

  // Takes the memory, restores the checkpoint of `setup` if it has one, calls OnStart. Nothing is
  // owned.
  static absl::StatusOr<std::unique_ptr<JobRun>> Create(const JobSetup& setup, Backend& backend,
                                                        TrainingSink& sink, PublishAdapter publish);
  ~JobRun();
  JobRun(const JobRun&) = delete;
  JobRun& operator=(const JobRun&) = delete;

  // One slice. Blocks for the device's work, never for a disk.
  absl::StatusOr<Progress> Advance();
  // Nothing can be queued before copies, or work in the background, have ended: Advance() looks
  // whether they have.
  bool waiting() const;
  // See SlicedJob.
  Slice next_slice() const;
  absl::StatusOr<absl::Duration> AwaitSlice();
  // Something is written or put into service in the background; destroying the run waits for it.
  bool busy() const { return keeper_->busy(); }
  // Of a run that is given up: reports what has ended there, as far as it is good, so that the sink
  // knows of every checkpoint and every adapter in service.
  void Settle();
  // Stops, with a checkpoint, before the next optimiser step or evaluation.
  void RequestStop();

  const TrainingResult& result() const { return result_; }  // once kFinished
  int64_t saved_step() const { return saved_step_; }        // of the newest checkpoint; -1: none

 private:
  enum class Phase : uint8_t { kNext, kStep, kEvaluation, kSnapshot };
  // In kNext.
  enum class Todo : uint8_t {
    kStep,
    kEvaluation,
    kKeepBest,
    kKeepCheckpoint,
    kKeepResult,
    kPublish,
    kFinish,  // waits for the files of the result
    kStop,
    kWait,
  };

  JobRun(const JobSetup& setup, Backend& backend, TrainingSink& sink);
  absl::Status Allocate(PublishAdapter publish);
  absl::Status Restore();

  absl::Status Run();               // a slice, by phase
  absl::StatusOr<Progress> Poll();  // while waiting()
  absl::Status Next();
  Todo WhatToDo() const;
  absl::Status BeginStep();
  absl::Status AdvanceStep();
  absl::Status OnStepDone();
  absl::Status OnSkippedStep(const StepOutcome& outcome);
  void ReportStep(const StepOutcome& outcome);
  void BeginEvaluation();
  absl::Status AdvanceEvaluation();
  absl::Status OnEvaluationDone();
  absl::Status BeginSnapshot(JobKeeper::Purpose purpose);
  absl::Status AdvanceSnapshot();
  // Reports what has ended in the background.
  absl::Status Collect();
  void BeginPublication();
  absl::StatusOr<Progress> Finish();

  double Seconds() const;  // of the running step or evaluation: queueing and waiting for slices
  bool AllStepsDone() const;
  bool EvaluationDue() const;
  bool CheckpointDue() const;
  // There is no checkpoint of this step, nor is one being written.
  bool Unsaved() const;

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
  std::unique_ptr<JobKeeper> keeper_;  // reads memory_
  Phase phase_ = Phase::kNext;
  Todo todo_ = Todo::kStep;  // what the next Advance() does in kNext
  bool stop_ = false;
  bool best_due_ = false;  // the evaluation was the best: its adapter has to be kept
  bool save_due_ = false;
  bool result_kept_ = false;  // the result is in the keeper's hands
  bool writing_result_ = false;
  int64_t saved_step_ = -1;
  int64_t saving_step_ = -1;  // of the checkpoint that was begun last
  absl::Time slice_begin_;
  double seconds_ = 0;  // of the running step or evaluation, the running call left out
  double learning_rate_ = 0;
  TrainingResult result_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_JOB_RUN_H_
