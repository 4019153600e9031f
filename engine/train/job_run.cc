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
#include "engine/train/output.h"

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
                                                       TrainingSink& sink) {
  auto run = absl::WrapUnique(new JobRun(setup, backend, sink));
  RETURN_IF_ERROR(run->Allocate());
  RETURN_IF_ERROR(run->Restore());
  sink.OnStart(setup.plan, run->progress_.step);
  for (size_t i = 0; i < setup.checkpoint.damaged.size(); ++i)
    sink.OnWarning(absl::StrCat("the checkpoint ", setup.checkpoint.damaged[i],
                                " is damaged and was removed: ", setup.checkpoint.reasons[i]));
  return run;
}

absl::Status JobRun::Allocate() {
  const int64_t bytes = setup_.plan.peak_bytes;
  ASSIGN_OR_RETURN(stream_, backend_.CreateStream());
  ASSIGN_OR_RETURN(marks_, SliceMarks::Create(backend_));
  ASSIGN_OR_RETURN(block_, backend_.allocator().Allocate(bytes, MemoryTag::kTraining));
  arena_.emplace("training", block_.data(), bytes);
  ASSIGN_OR_RETURN(
      TrainingMemory memory,
      LayOutTrainingMemory(setup_.initial, backend_, setup_.tokens, *arena_, setup_.optimizer));
  memory_ = std::move(memory);
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
  best_ = snapshot->best;
  saved_step_ = progress_.step;
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

double JobRun::Seconds() const {
  return seconds_ + absl::ToDoubleSeconds(absl::Now() - slice_begin_);
}

absl::StatusOr<JobRun::Progress> JobRun::Advance() {
  slice_begin_ = absl::Now();
  RETURN_IF_ERROR(marks_->Begin(*stream_));
  ASSIGN_OR_RETURN(const Progress progress, Run());
  RETURN_IF_ERROR(marks_->End(*stream_));
  seconds_ = Seconds();
  return progress;
}

absl::StatusOr<absl::Duration> JobRun::AwaitSlice() {
  slice_begin_ = absl::Now();
  ASSIGN_OR_RETURN(const absl::Duration took, marks_->AwaitOldest());
  seconds_ = Seconds();
  return took;
}

absl::StatusOr<JobRun::Progress> JobRun::Run() {
  switch (phase_) {
    case Phase::kNext:
      return Next();
    case Phase::kStep:
      RETURN_IF_ERROR(AdvanceStep());
      break;
    case Phase::kEvaluation:
      RETURN_IF_ERROR(AdvanceEvaluation());
      break;
    case Phase::kSaving:
    case Phase::kFinishing:
      return AwaitFiles();
  }
  return Progress::kRunning;
}

Slice JobRun::next_slice() const {
  switch (phase_) {
    case Phase::kNext:
      return {SavesNext() || EndsNext() ? SliceKind::kSnapshot : SliceKind::kPrepare};
    case Phase::kStep:
      return step_->next_slice();
    case Phase::kEvaluation:
      break;
    case Phase::kSaving:
    case Phase::kFinishing:
      return {SliceKind::kWrite};
  }
  return stop_ ? Slice{SliceKind::kPrepare} : evaluation_->next_slice();
}

bool JobRun::SavesNext() const {
  const bool unsaved = !setup_.spec.checkpoint_dir.empty() && saved_step_ != progress_.step;
  return unsaved && (stop_ || (progress_.evaluated && (save_due_ || AllStepsDone())));
}

bool JobRun::EndsNext() const {
  return !stop_ && progress_.evaluated && !SavesNext() && AllStepsDone();
}

absl::StatusOr<JobRun::Progress> JobRun::Next() {
  seconds_ = 0;
  if (SavesNext())
    RETURN_IF_ERROR(BeginCheckpoint());
  else if (stop_)
    return Progress::kStopped;
  else if (EndsNext())
    RETURN_IF_ERROR(BeginFinish());
  else if (!progress_.evaluated)
    BeginEvaluation();
  else
    RETURN_IF_ERROR(BeginStep());
  return Progress::kRunning;
}

absl::Status JobRun::BeginStep() {
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
    best_ = setup_.initial;
    RETURN_IF_ERROR(memory_->adapter.GetWeights(*best_, *stream_));
  }
  report.tokens = setup_.eval->report.tokens;
  report.seconds = Seconds();
  sink_.OnEval(report);
  return absl::OkStatus();
}

absl::Status JobRun::BeginCheckpoint() {
  TrainableAdapter& adapter = memory_->adapter;
  TrainingSnapshot snapshot{
      .progress = progress_, .adapter = setup_.initial, .moments = {}, .best = best_};
  RETURN_IF_ERROR(adapter.GetWeights(snapshot.adapter, *stream_));
  ASSIGN_OR_RETURN(snapshot.moments, adapter.GetMoments(*stream_));
  phase_ = Phase::kSaving;
  files_.Start([this, snapshot = std::move(snapshot)]() -> absl::Status {
    ASSIGN_OR_RETURN(checkpoint_,
                     WriteCheckpoint(setup_.spec.checkpoint_dir, setup_.identity, snapshot));
    return absl::OkStatus();
  });
  return absl::OkStatus();
}

absl::Status JobRun::BeginFinish() {
  HostAdapter adapter = setup_.initial;
  if (best_) {
    adapter = *best_;
  } else {
    RETURN_IF_ERROR(memory_->adapter.GetWeights(adapter, *stream_));
    if (evaluation_) sink_.OnWarning("no eval loss was finite: the last adapter is returned");
  }
  result_.output_dir = setup_.spec.output_dir;
  result_.steps = progress_.step;
  result_.final_loss = progress_.last_loss;
  result_.best_eval_loss = progress_.best_eval_loss;
  result_.best_step = best_ ? progress_.best_step : progress_.step;
  result_.stopped_early = progress_.step < setup_.plan.steps;
  phase_ = Phase::kFinishing;
  files_.Start([this, adapter = std::move(adapter)]() -> absl::Status {
    RETURN_IF_ERROR(WriteOutput(adapter, setup_.model->config(), setup_.spec.output_dir));
    result_.adapter_id = AdapterDigest(adapter);
    return absl::OkStatus();
  });
  return absl::OkStatus();
}

absl::StatusOr<JobRun::Progress> JobRun::AwaitFiles() {
  const std::optional<absl::Status> done = files_.Await(absl::Milliseconds(1));
  if (!done) return Progress::kRunning;
  RETURN_IF_ERROR(*done);
  if (phase_ == Phase::kFinishing) return Progress::kFinished;
  phase_ = Phase::kNext;
  saved_step_ = progress_.step;
  sink_.OnCheckpoint(checkpoint_);
  return Progress::kRunning;
}

}  // namespace lorad
