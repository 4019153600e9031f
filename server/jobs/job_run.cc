#include "server/jobs/job_run.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "server/base/log.h"
#include "server/base/proto_time.h"
#include "server/datasets/dataset_registry.h"
#include "server/jobs/job_forecast.h"
#include "server/store/keys.h"

namespace lorad::server {
namespace {

v1::JobStep StepToProto(const StepReport& report) {
  v1::JobStep step;
  step.set_step(report.step);
  step.set_steps(report.steps);
  step.set_epoch(report.epoch);
  step.set_loss(report.loss);
  step.set_grad_norm(report.grad_norm);
  step.set_learning_rate(report.learning_rate);
  step.set_tokens(report.tokens);
  step.set_target_tokens(report.target_tokens);
  step.set_tokens_per_second(report.tokens_per_second);
  step.set_step_seconds(report.seconds);
  return step;
}

v1::JobEval EvalToProto(const EvalReport& report) {
  v1::JobEval eval;
  eval.set_step(report.step);
  eval.set_loss(report.loss);
  eval.set_best(report.best);
  eval.set_tokens(report.tokens);
  eval.set_seconds(report.seconds);
  return eval;
}

}  // namespace

v1::TrainingPlan ToProto(const TrainingPlan& plan) {
  v1::TrainingPlan proto;
  *proto.mutable_train() = ToProto(plan.train);
  if (plan.eval.samples > 0) *proto.mutable_eval() = ToProto(plan.eval);
  proto.set_steps(plan.steps);
  proto.set_trainable_parameters(plan.trainable_parameters);
  proto.set_adapted_modules(plan.adapted_modules);
  proto.set_adapter_bytes(plan.adapter_bytes);
  proto.set_activation_bytes(plan.activation_bytes);
  proto.set_workspace_bytes(plan.workspace_bytes);
  proto.set_peak_bytes(plan.peak_bytes);
  proto.set_pinned_bytes(plan.pinned_bytes);
  proto.set_activation_checkpointing(plan.activation_checkpointing);
  return proto;
}

JobRun::JobRun(std::shared_ptr<JobRecord> record, std::string state_dir, AdapterRegistry* adapters,
               JobObserver* observer)
    : record_(std::move(record)),
      state_dir_(std::move(state_dir)),
      adapters_(adapters),
      observer_(observer),
      start_(absl::Now()) {}

void JobRun::ContinueCurve(std::vector<CurvePoint> evals) {
  absl::MutexLock lock(&mu_);
  evals_ = std::move(evals);
}

void JobRun::RequestStop(bool discard) {
  absl::MutexLock lock(&mu_);
  stop_ = true;
  discard_ |= discard;
}

bool JobRun::AwaitStopRequest() {
  while (true) {
    WithdrawReplaced();
    ForecastIfDue();
    absl::MutexLock lock(&mu_);
    const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
      return stop_ || ended_ || !replaced_.empty() || forecast_due_;
    };
    mu_.Await(absl::Condition(&ready));
    if (stop_ || ended_) return !ended_;
  }
}

void JobRun::WithdrawReplaced() {
  const std::string name = record_->Snapshot().spec().name();
  while (true) {
    std::string id;  // one at a time: those behind it may yet be published again
    {
      absl::MutexLock lock(&mu_);
      if (replaced_.empty()) return;
      id = std::move(replaced_.back());
      replaced_.pop_back();
    }
    adapters_->Withdraw(name, id);
  }
}

void JobRun::ForecastIfDue() {
  std::vector<CurvePoint> evals;
  int64_t steps;
  {
    absl::MutexLock lock(&mu_);
    if (!forecast_due_) return;
    forecast_due_ = false;
    evals = evals_;
    steps = steps_;
  }
  const std::optional<v1::JobForecast> forecast = ForecastJob(evals, steps);
  if (!forecast.has_value()) return;
  if (observer_ != nullptr) observer_->OnForecast(*forecast);
  Store([&](v1::Job& job, JobEvents& events) {
    *job.mutable_forecast() = *forecast;
    *events.emplace_back().mutable_forecast() = *forecast;
  });
}

bool JobRun::discard() const {
  absl::MutexLock lock(&mu_);
  return discard_;
}

JobOutcome JobRun::AwaitEnd() {
  {
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(&ended_));
  }
  WithdrawReplaced();
  absl::MutexLock lock(&mu_);
  if (!store_error_.ok()) return store_error_;
  return outcome_;
}

void JobRun::End(JobOutcome outcome) {
  absl::MutexLock lock(&mu_);
  outcome_ = std::move(outcome);
  ended_ = true;
}

void JobRun::Store(const JobRecord::Mutation& mutate, std::vector<Op> extra) {
  const absl::Status status = record_->Apply(mutate, std::move(extra));
  if (status.ok()) return;
  Log(LogLevel::kError, absl::StrCat("an event of ", record_->Snapshot().job_id(),
                                     " cannot be stored: ", status.ToString()));
  absl::MutexLock lock(&mu_);
  if (store_error_.ok()) {
    store_error_ = absl::Status(status.code(),
                                absl::StrCat("an event could not be stored: ", status.message()));
  }
  stop_ = true;
}

void JobRun::OnStart(const TrainingPlan& plan, int64_t resumed_from_step) {
  start_ = absl::Now();
  first_step_ = resumed_from_step;
  {
    absl::MutexLock lock(&mu_);
    steps_ = plan.steps;
  }
  Store([&](v1::Job& job, JobEvents& events) {
    *job.mutable_plan() = ToProto(plan);
    v1::JobStart* start = events.emplace_back().mutable_start();
    *start->mutable_plan() = job.plan();
    start->set_resumed_from_step(resumed_from_step);
  });
}

void JobRun::OnStep(const StepReport& report) {
  if (observer_ != nullptr) observer_->OnStep(report);
  // By the clock, not by the step's own time: serving takes its share in what is left, too.
  const double elapsed = absl::ToDoubleSeconds(absl::Now() - start_);
  const int64_t done = report.step - first_step_;
  Store([&](v1::Job& job, JobEvents& events) {
    *job.mutable_last_step() = StepToProto(report);
    if (done > 0) job.set_eta_seconds(elapsed / done * (report.steps - report.step));
    *events.emplace_back().mutable_step() = job.last_step();
  });
}

void JobRun::OnEval(const EvalReport& report) {
  if (observer_ != nullptr) observer_->OnEval(report);
  Store([&](v1::Job& job, JobEvents& events) {
    *job.mutable_last_eval() = EvalToProto(report);
    *events.emplace_back().mutable_eval() = job.last_eval();
  });
  absl::MutexLock lock(&mu_);
  evals_.push_back({report.step, report.loss});
  forecast_due_ = true;
}

void JobRun::OnCheckpoint(const CheckpointReport& report) {
  if (observer_ != nullptr) observer_->OnCheckpoint(report);
  v1::Checkpoint checkpoint;
  checkpoint.set_step(report.step);
  checkpoint.set_size_bytes(report.bytes);
  checkpoint.set_adapter_sha256(report.adapter_id);
  *checkpoint.mutable_create_time() = ToProto(absl::Now());
  checkpoint.set_write_seconds(report.seconds);
  checkpoint.set_path(
      std::string(absl::StripPrefix(absl::StripPrefix(report.dir, state_dir_), "/")));
  const std::string key = keys::Checkpoint(record_->Snapshot().job_id(), report.step);
  Store([&](v1::Job&,
            JobEvents& events) { *events.emplace_back().mutable_checkpoint() = checkpoint; },
        {Op::Put(key, checkpoint.SerializeAsString())});
}

void JobRun::OnPublication(const PublicationReport& report) {
  if (observer_ != nullptr) observer_->OnPublication(report);
  const std::string name = record_->Snapshot().spec().name();
  {
    absl::MutexLock lock(&mu_);
    std::erase(replaced_, report.adapter_id);  // the best adapter may be an earlier checkpoint's
  }
  const absl::Status status = adapters_->Provide(name, report.adapter_id);
  {
    absl::MutexLock lock(&mu_);
    if (!published_.empty() && published_ != report.adapter_id) replaced_.push_back(published_);
    published_ = report.adapter_id;
  }
  if (!status.ok()) {
    OnWarning(
        absl::StrCat("the adapter is not served before its files are written: ", status.message()));
  }
}

std::string JobRun::published() const {
  absl::MutexLock lock(&mu_);
  return published_;
}

void JobRun::OnWarning(const std::string& message) {
  Store([&](v1::Job&, JobEvents& events) {
    events.emplace_back().mutable_warning()->set_message(message);
  });
}

}  // namespace lorad::server
