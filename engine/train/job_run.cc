#include "engine/train/job_run.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"

namespace lorad {
namespace {

OptimizerOptions MakeOptimizer(const TrainingSpec& spec) {
  return {.max_grad_norm = spec.max_grad_norm,
          .weight_decay = spec.weight_decay,
          .beta1 = spec.adam_beta1,
          .beta2 = spec.adam_beta2,
          .epsilon = spec.adam_epsilon};
}

}  // namespace

JobRun::JobRun(const JobSetup& setup, Backend& backend, TrainingSink& sink)
    : setup_(setup), backend_(backend), sink_(sink), data_(setup.train, setup.packing) {}

JobRun::~JobRun() {
  // Queued work may still use the block. Its errors were reported, or nobody waits for it.
  if (stream_ != nullptr) (void)stream_->Synchronize();
}

absl::StatusOr<std::unique_ptr<JobRun>> JobRun::Create(const JobSetup& setup, Backend& backend,
                                                       TrainingSink& sink, PublishAdapter publish) {
  auto run = absl::WrapUnique(new JobRun(setup, backend, sink));
  RETURN_IF_ERROR(run->Allocate(std::move(publish)));
  RETURN_IF_ERROR(run->Restore());
  run->todo_ = run->WhatToDo();
  sink.OnStart(setup.plan, run->progress_.step);
  for (size_t i = 0; i < setup.checkpoint.damaged.size(); ++i)
    sink.OnWarning(absl::StrCat("the checkpoint ", setup.checkpoint.damaged[i],
                                " is damaged and was removed: ", setup.checkpoint.reasons[i]));
  return run;
}

absl::Status JobRun::Allocate(PublishAdapter publish) {
  const int64_t bytes = setup_.plan.peak_bytes;
  ASSIGN_OR_RETURN(stream_, backend_.CreateStream());
  ASSIGN_OR_RETURN(marks_, SliceMarks::Create(backend_));
  ASSIGN_OR_RETURN(block_, backend_.allocator().Allocate(bytes, MemoryTag::kTraining));
  arena_.emplace("training", block_.data(), bytes);
  ASSIGN_OR_RETURN(
      TrainingMemory memory,
      LayOutTrainingMemory(setup_.initial, backend_, setup_.tokens, *arena_, setup_.optimizer));
  memory_ = std::move(memory);
  ASSIGN_OR_RETURN(keeper_,
                   JobKeeper::Create(setup_, memory_->adapter, backend_, std::move(publish)));
  PassOptions pass = setup_.pass;
  ASSIGN_OR_RETURN(offload_, CreateInputOffload(setup_.model->config(), backend_,
                                                pass.checkpointing, setup_.tokens.micro_batch));
  pass.offload = offload_.get();
  step_.emplace(*setup_.model, backend_, memory_->adapter, pass, MakeOptimizer(setup_.spec),
                memory_->loss, memory_->norm);
  if (setup_.eval)
    evaluation_.emplace(*setup_.model, backend_, memory_->adapter, *setup_.eval, setup_.packing,
                        memory_->loss);
  return absl::OkStatus();
}

absl::Status JobRun::Restore() {
  const std::string& dir = setup_.spec.checkpoint_dir;
  if (!dir.empty()) {
    RETURN_IF_ERROR(CreateDirectories(dir));
    RETURN_IF_ERROR(RemoveOrphanTemporaries(dir).status());
    for (const std::string& damaged : setup_.checkpoint.damaged)
      RETURN_IF_ERROR(RemoveDirectory(damaged));
  }
  TrainableAdapter& adapter = memory_->adapter;
  const std::optional<TrainingSnapshot>& snapshot = setup_.checkpoint.snapshot;
  if (!snapshot) return adapter.SetWeights(setup_.initial, *stream_);
  RETURN_IF_ERROR(adapter.SetWeights(snapshot->adapter, *stream_));
  RETURN_IF_ERROR(adapter.SetMoments(snapshot->moments, *stream_));
  progress_ = snapshot->progress;
  if (snapshot->best) keeper_->RestoreBest(*snapshot->best);
  saved_step_ = saving_step_ = progress_.step;
  data_.Seek(progress_.epoch, progress_.step_in_epoch);
  return absl::OkStatus();
}

bool JobRun::AllStepsDone() const {
  const int32_t patience = setup_.spec.early_stopping_patience;
  return progress_.step >= setup_.plan.steps ||
         (patience > 0 && progress_.evals_without_gain >= patience);
}

bool JobRun::EvaluationDue() const {
  if (!evaluation_) return false;
  if (progress_.step == setup_.plan.steps) return true;
  const int64_t every = setup_.spec.eval_steps;
  return every > 0 ? progress_.step % every == 0 : data_.at_epoch_start();
}

bool JobRun::CheckpointDue() const {
  const int64_t every = setup_.spec.save_steps;
  return every > 0 ? progress_.step % every == 0 : data_.at_epoch_start();
}

bool JobRun::Unsaved() const {
  return !setup_.spec.checkpoint_dir.empty() && saving_step_ != progress_.step;
}

double JobRun::Seconds() const {
  return seconds_ + absl::ToDoubleSeconds(absl::Now() - slice_begin_);
}

absl::StatusOr<JobRun::Progress> JobRun::Advance() {
  slice_begin_ = absl::Now();
  RETURN_IF_ERROR(Collect());
  if (waiting()) return Poll();
  if (phase_ == Phase::kNext && todo_ == Todo::kStop) return Progress::kStopped;
  RETURN_IF_ERROR(marks_->Begin(*stream_));
  RETURN_IF_ERROR(Run());
  RETURN_IF_ERROR(marks_->End(*stream_));
  seconds_ = Seconds();
  todo_ = WhatToDo();
  return Progress::kRunning;
}

absl::StatusOr<absl::Duration> JobRun::AwaitSlice() {
  slice_begin_ = absl::Now();
  ASSIGN_OR_RETURN(const absl::Duration took, marks_->AwaitOldest());
  seconds_ = Seconds();
  return took;
}

bool JobRun::waiting() const {
  if (phase_ == Phase::kSnapshot) return true;
  return phase_ == Phase::kNext && (todo_ == Todo::kWait || todo_ == Todo::kFinish);
}

absl::StatusOr<JobRun::Progress> JobRun::Poll() {
  if (phase_ == Phase::kSnapshot) {
    RETURN_IF_ERROR(AdvanceSnapshot());
  } else if (todo_ == Todo::kFinish) {
    ASSIGN_OR_RETURN(const Progress progress, Finish());
    if (progress != Progress::kRunning) return progress;
  }
  todo_ = WhatToDo();
  return Progress::kRunning;
}

absl::Status JobRun::Run() {
  switch (phase_) {
    case Phase::kNext:
      return Next();
    case Phase::kStep:
      return AdvanceStep();
    case Phase::kEvaluation:
      return AdvanceEvaluation();
    case Phase::kSnapshot:
      break;  // Poll
  }
  return absl::OkStatus();
}

Slice JobRun::next_slice() const {
  if (phase_ == Phase::kStep) return step_->next_slice();
  if (phase_ == Phase::kEvaluation && !stop_) return evaluation_->next_slice();
  if (phase_ == Phase::kNext) {
    const int64_t weights = memory_->adapter.params().num_elements();
    if (todo_ == Todo::kKeepBest || todo_ == Todo::kKeepResult)
      return {SliceKind::kSnapshot, weights};
    if (todo_ == Todo::kKeepCheckpoint) return {SliceKind::kSnapshot, 3 * weights};
  }
  return {SliceKind::kPrepare};
}

void JobRun::RequestStop() {
  stop_ = true;
  todo_ = WhatToDo();
}

JobRun::Todo JobRun::WhatToDo() const {
  using Purpose = JobKeeper::Purpose;
  const auto keep = [this](Purpose purpose, Todo todo) {
    return keeper_->CanBegin(purpose) ? todo : Todo::kWait;
  };
  if (writing_result_) return Todo::kFinish;  // it is too late to stop
  if (best_due_) return keep(Purpose::kBest, Todo::kKeepBest);
  if (stop_) {
    if (Unsaved()) return keep(Purpose::kCheckpoint, Todo::kKeepCheckpoint);
    return keeper_->busy() ? Todo::kWait : Todo::kStop;
  }
  if (!progress_.evaluated) return Todo::kEvaluation;
  const bool ends = AllStepsDone();
  if (ends && !result_kept_) {
    if (!keeper_->has_best()) return keep(Purpose::kResult, Todo::kKeepResult);
    return keeper_->publishing() ? Todo::kWait : Todo::kPublish;  // that of a checkpoint
  }
  if (Unsaved() && (save_due_ || ends)) return keep(Purpose::kCheckpoint, Todo::kKeepCheckpoint);
  return ends ? Todo::kFinish : Todo::kStep;
}

absl::Status JobRun::Next() {
  switch (todo_) {
    case Todo::kStep:
      return BeginStep();
    case Todo::kEvaluation:
      BeginEvaluation();
      break;
    case Todo::kKeepBest:
      return BeginSnapshot(JobKeeper::Purpose::kBest);
    case Todo::kKeepCheckpoint:
      return BeginSnapshot(JobKeeper::Purpose::kCheckpoint);
    case Todo::kKeepResult:
      return BeginSnapshot(JobKeeper::Purpose::kResult);
    case Todo::kPublish:
      BeginPublication();
      break;
    case Todo::kFinish:
    case Todo::kStop:
    case Todo::kWait:
      break;  // nothing to queue: Advance
  }
  return absl::OkStatus();
}

absl::Status JobRun::BeginStep() {
  seconds_ = 0;
  learning_rate_ = setup_.schedule.Rate(progress_.step);
  StepInput input;
  input.micro_batches = data_.Next();
  input.learning_rate = learning_rate_;
  input.update = progress_.updates + 1;
  input.dropout.probability = static_cast<float>(setup_.spec.lora.lora_dropout);
  input.dropout.seed = setup_.spec.seed;
  input.dropout.step = static_cast<uint32_t>(progress_.step);
  phase_ = Phase::kStep;
  return step_->Begin(std::move(input), *arena_, *stream_);
}

absl::Status JobRun::AdvanceStep() {
  ASSIGN_OR_RETURN(const bool more, step_->Advance(*stream_));
  return more ? absl::OkStatus() : OnStepDone();
}

absl::Status JobRun::OnStepDone() {
  phase_ = Phase::kNext;
  progress_.step += 1;
  progress_.epoch = data_.epoch();
  progress_.step_in_epoch = data_.step();
  progress_.evaluated = !EvaluationDue();
  save_due_ = CheckpointDue();
  const StepOutcome& outcome = step_->outcome();
  if (!outcome.updated) return OnSkippedStep(outcome);
  progress_.updates += 1;
  progress_.skipped_in_row = 0;
  progress_.last_loss = outcome.loss;
  const bool last = progress_.step == setup_.plan.steps;
  if (last || progress_.step % setup_.spec.logging_steps == 0) ReportStep(outcome);
  return absl::OkStatus();
}

absl::Status JobRun::OnSkippedStep(const StepOutcome& outcome) {
  progress_.skipped_in_row += 1;
  const std::string what =
      absl::StrCat("step ", progress_.step, " of ", setup_.plan.steps, ": loss ", outcome.loss,
                   ", gradient norm ", outcome.grad_norm, " at learning rate ", learning_rate_);
  if (progress_.skipped_in_row >= kMaxSkippedInRow)
    return absl::FailedPreconditionError(
        absl::StrCat(what, ": not finite for ", progress_.skipped_in_row,
                     " steps in a row; lower learning_rate or max_grad_norm, or add a warm-up, "
                     "and submit the job again"));
  sink_.OnWarning(absl::StrCat(what, ": not finite, so the step changed nothing"));
  return absl::OkStatus();
}

void JobRun::ReportStep(const StepOutcome& outcome) {
  StepReport report;
  report.step = progress_.step;
  report.steps = setup_.plan.steps;
  report.epoch = data_.epochs_done();
  report.loss = outcome.loss;
  report.grad_norm = outcome.grad_norm;
  report.learning_rate = learning_rate_;
  report.tokens = outcome.tokens;
  report.target_tokens = outcome.target_tokens;
  report.seconds = Seconds();
  report.tokens_per_second = static_cast<double>(outcome.tokens) / std::max(report.seconds, 1e-9);
  sink_.OnStep(report);
}

void JobRun::BeginEvaluation() {
  seconds_ = 0;
  phase_ = Phase::kEvaluation;
  evaluation_->Begin(*arena_);
}

absl::Status JobRun::AdvanceEvaluation() {
  if (stop_) {  // done again after the resume: the checkpoint says that it is due
    phase_ = Phase::kNext;
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const bool more, evaluation_->Advance(*stream_));
  return more ? absl::OkStatus() : OnEvaluationDone();
}

absl::Status JobRun::OnEvaluationDone() {
  phase_ = Phase::kNext;
  progress_.evaluated = true;
  EvalReport report;
  report.step = progress_.step;
  report.loss = evaluation_->loss();
  // A loss that is not finite is never the best; the first finite one always is.
  report.best = report.loss < progress_.best_eval_loss ||
                (std::isnan(progress_.best_eval_loss) && std::isfinite(report.loss));
  progress_.evals_without_gain = report.best ? 0 : progress_.evals_without_gain + 1;
  if (report.best) {
    progress_.best_eval_loss = report.loss;
    progress_.best_step = progress_.step;
    best_due_ = true;
  }
  report.tokens = setup_.eval->report.tokens;
  report.seconds = Seconds();
  sink_.OnEval(report);
  return absl::OkStatus();
}

absl::Status JobRun::BeginSnapshot(JobKeeper::Purpose purpose) {
  RETURN_IF_ERROR(keeper_->Begin(purpose, progress_, *stream_));
  if (purpose == JobKeeper::Purpose::kBest) best_due_ = false;
  if (purpose == JobKeeper::Purpose::kCheckpoint) saving_step_ = progress_.step;
  if (purpose == JobKeeper::Purpose::kResult) {
    result_kept_ = true;
    if (evaluation_) sink_.OnWarning("no eval loss was finite: the last adapter is returned");
  }
  phase_ = Phase::kSnapshot;
  return AdvanceSnapshot();
}

absl::Status JobRun::AdvanceSnapshot() {
  ASSIGN_OR_RETURN(const bool done, keeper_->SnapshotDone());
  if (done) phase_ = Phase::kNext;
  return absl::OkStatus();
}

absl::Status JobRun::Collect() {
  if (const auto published = keeper_->TakePublication()) {
    if (published->ok()) {
      sink_.OnPublication(**published);
    } else {
      sink_.OnWarning(absl::StrCat("the adapter is not served before its files are written: ",
                                   published->status().message()));
    }
  }
  const auto checkpoint = keeper_->TakeCheckpoint();
  if (!checkpoint) return absl::OkStatus();
  RETURN_IF_ERROR(checkpoint->status());
  saved_step_ = (*checkpoint)->step;
  sink_.OnCheckpoint(**checkpoint);
  return absl::OkStatus();
}

void JobRun::Settle() {
  (void)Collect();  // the run has a reason to end already
  keeper_->DiscardEnded();
}

void JobRun::BeginPublication() {
  result_kept_ = true;
  keeper_->PublishBest(progress_.best_step);
}

// The output after the checkpoint: who finds an output must find the job that may have written it.
absl::StatusOr<JobRun::Progress> JobRun::Finish() {
  if (keeper_->writing() || keeper_->publishing()) return Progress::kRunning;
  if (!writing_result_) {
    writing_result_ = true;
    keeper_->WriteResult();
  }
  const std::optional<absl::StatusOr<std::string>> id = keeper_->TakeResult();
  if (!id) return Progress::kRunning;
  RETURN_IF_ERROR(id->status());
  result_.adapter_id = **id;
  result_.output_dir = setup_.spec.output_dir;
  result_.steps = progress_.step;
  result_.final_loss = progress_.last_loss;
  result_.best_eval_loss = progress_.best_eval_loss;
  result_.best_step = keeper_->has_best() ? progress_.best_step : progress_.step;
  result_.stopped_early = progress_.step < setup_.plan.steps;
  return Progress::kFinished;
}

}  // namespace lorad
