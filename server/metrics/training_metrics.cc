#include "server/metrics/training_metrics.h"

#include <cmath>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/base/proto_time.h"

namespace lorad::server {
namespace {

std::string StateLabel(v1::JobState state) {
  absl::string_view name = v1::JobState_Name(state);
  absl::ConsumePrefix(&name, "JOB_STATE_");
  return absl::AsciiStrToLower(name);
}

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

double UnixNow() { return absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()); }

}  // namespace

TrainingMetrics::TrainingMetrics(prometheus::Registry& registry) {
  MakeJobs(registry);
  MakeGauges(registry);
  MakeSlices(registry);
  steps_ = &NewCounter(registry, "lorad_training_steps_total", "Optimiser steps done.");
  tokens_ = &NewCounter(registry, "lorad_training_tokens_total", "Tokens trained on.");
  target_tokens_ = &NewCounter(registry, "lorad_training_target_tokens_total",
                               "Of the tokens trained on, those in the loss.");
  nonfinite_steps_ = &NewCounter(registry, "lorad_training_nonfinite_steps_total",
                                 "Steps whose loss or gradient norm was not finite. Must be 0.");
  seconds_ = &NewCounter(registry, "lorad_training_device_seconds_total",
                         "Time of optimiser steps, without what was given to serving.");
  evals_ = &NewCounter(registry, "lorad_training_evals_total", "Evaluations done.");
  step_seconds_ = &NewHistogram(registry, "lorad_training_step_seconds",
                                "Time of one optimiser step, without what was given to serving.",
                                kTokenSeconds);
  checkpoint_seconds_ = &NewHistogram(registry, "lorad_checkpoint_write_seconds",
                                      "Time to write one checkpoint durably.", kTokenSeconds);
  checkpoint_bytes_ = &NewGauge(registry, "lorad_checkpoint_bytes", "Size of the last checkpoint.");
  publication_seconds_ = &NewHistogram(registry, "lorad_adapter_publication_seconds",
                                       "From a checkpoint's or a finished job's weights until the "
                                       "adapter can be served, from memory.",
                                       kTokenSeconds);
  last_checkpoint_ = &NewGauge(registry, "lorad_checkpoint_last_success_timestamp_seconds",
                               "Unix time of the last checkpoint written; 0: none yet.");
}

void TrainingMetrics::MakeJobs(prometheus::Registry& registry) {
  auto& jobs = GaugeFamily(registry, "lorad_jobs", "Stored jobs by state.");
  auto& finished =
      CounterFamily(registry, "lorad_jobs_finished_total", "Jobs that reached a final state.");
  auto& duration = HistogramFamily(registry, "lorad_job_duration_seconds",
                                   "From a job's first start to its final state.");
  for (int state = v1::JobState_MIN + 1; state <= v1::JobState_MAX; ++state) {
    if (!v1::JobState_IsValid(state)) continue;
    const auto value = static_cast<v1::JobState>(state);
    jobs_[value] = &jobs.Add({{"state", StateLabel(value)}});
  }
  const std::pair<const char*, const char*> ends[] = {
      {"succeeded", "none"}, {"failed", "user"}, {"failed", "system"}, {"cancelled", "none"}};
  for (const auto& [result, reason] : ends) {
    finished_[{result, reason}] = &finished.Add({{"result", result}, {"reason", reason}});
    if (!duration_.contains(result)) {
      duration_[result] = &duration.Add({{"result", result}}, kJobSeconds);
    }
  }
  auto& recovered = CounterFamily(registry, "lorad_restarts_recovered_jobs_total",
                                  "Jobs found running at start, by what became of them.");
  recovered_ = {&recovered.Add({{"outcome", "resumed"}}), &recovered.Add({{"outcome", "failed"}})};
  queue_seconds_ = &NewHistogram(registry, "lorad_job_queue_seconds",
                                 "From a job's submission to its start.", kJobSeconds);
}

void TrainingMetrics::MakeSlices(prometheus::Registry& registry) {
  auto& seconds = HistogramFamily(
      registry, "lorad_training_slice_seconds",
      "Time on the device of one slice of training, between which requests are served.");
  for (int phase = 0; phase < kNumSlicePhases; ++phase)
    slice_seconds_[phase] = &seconds.Add({{"phase", kSlicePhaseNames[phase]}}, kSliceSeconds);
  share_ = &NewGauge(registry, "lorad_training_share",
                     "What training took of the device's time in the last 5 seconds; 0 to 1.");
  itl_exceeded_ = &NewCounter(registry, "lorad_itl_budget_exceeded_total",
                              "Decoding passes whose tokens came later than --itl_target_ms.");
}

void TrainingMetrics::MakeGauges(prometheus::Registry& registry) {
  loss_ = &NewGauge(registry, "lorad_training_loss",
                    "Of the last step: mean over its target tokens, nats. NaN before the first.");
  eval_loss_ = &NewGauge(registry, "lorad_training_eval_loss",
                         "Of the last evaluation, nats per token. NaN before the first.");
  auto& forecast = GaugeFamily(
      registry, "lorad_job_forecast_eval_loss",
      "Of the running or last job: eval loss after its last step, as its evaluations so far tell; "
      "lower and upper hold it with 95 % probability. NaN before the first forecast.");
  forecast_ = {&forecast.Add({{"bound", "expected"}}), &forecast.Add({{"bound", "lower"}}),
               &forecast.Add({{"bound", "upper"}})};
  SetForecast(kNan, kNan, kNan);
  learning_rate_ = &NewGauge(registry, "lorad_training_learning_rate", "Of the last step.");
  gradient_norm_ =
      &NewGauge(registry, "lorad_training_gradient_norm", "Of the last step, before clipping.");
  tokens_per_second_ = &NewGauge(registry, "lorad_training_tokens_per_second", "Of the last step.");
  progress_ = &NewGauge(registry, "lorad_training_progress_ratio",
                        "Steps done over all, of the running or last job; 0 to 1.");
  last_step_ = &NewGauge(registry, "lorad_training_last_step_timestamp_seconds",
                         "Unix time of the last step, or of the start of the running job.");
  loss_->Set(kNan);
  eval_loss_->Set(kNan);
}

void TrainingMetrics::OnJobState(v1::JobState from, v1::JobState to) {
  if (const auto it = jobs_.find(from); it != jobs_.end()) it->second->Decrement();
  if (const auto it = jobs_.find(to); it != jobs_.end()) it->second->Increment();
  if (to != v1::JOB_STATE_RUNNING) return;
  progress_->Set(0);
  SetForecast(kNan, kNan, kNan);
  last_step_->Set(UnixNow());
}

void TrainingMetrics::OnJobFinished(const v1::Job& job) {
  const std::string result = StateLabel(job.state());
  std::string reason = "none";
  if (job.state() == v1::JOB_STATE_FAILED) {
    reason = job.error().fault() == v1::JOB_FAULT_USER ? "user" : "system";
  }
  if (const auto it = finished_.find({result, reason}); it != finished_.end()) {
    it->second->Increment();
  }
  const auto it = duration_.find(result);
  if (it == duration_.end() || !job.has_start_time()) return;
  it->second->Observe(
      absl::ToDoubleSeconds(FromProto(job.end_time()) - FromProto(job.start_time())));
}

void TrainingMetrics::OnStep(const StepReport& report) {
  steps_->Increment();
  tokens_->Increment(static_cast<double>(report.tokens));
  target_tokens_->Increment(static_cast<double>(report.target_tokens));
  seconds_->Increment(report.seconds);
  step_seconds_->Observe(report.seconds);
  if (!std::isfinite(report.loss) || !std::isfinite(report.grad_norm)) {
    nonfinite_steps_->Increment();
  }
  loss_->Set(report.loss);
  learning_rate_->Set(report.learning_rate);
  gradient_norm_->Set(report.grad_norm);
  tokens_per_second_->Set(report.tokens_per_second);
  if (report.steps > 0) progress_->Set(static_cast<double>(report.step) / report.steps);
  last_step_->Set(UnixNow());
}

void TrainingMetrics::OnEval(const EvalReport& report) {
  evals_->Increment();
  eval_loss_->Set(report.loss);
}

void TrainingMetrics::OnForecast(const v1::JobForecast& forecast) {
  SetForecast(forecast.loss(), forecast.lower(), forecast.upper());
}

void TrainingMetrics::SetForecast(double expected, double lower, double upper) {
  forecast_[0]->Set(expected);
  forecast_[1]->Set(lower);
  forecast_[2]->Set(upper);
}

void TrainingMetrics::OnCheckpoint(const CheckpointReport& report) {
  checkpoint_seconds_->Observe(report.seconds);
  checkpoint_bytes_->Set(static_cast<double>(report.bytes));
  last_checkpoint_->Set(UnixNow());
}

}  // namespace lorad::server
