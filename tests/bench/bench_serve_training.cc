#include "tests/bench/bench_serve_training.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "tests/bench/random_rows.h"

namespace lorad::bench {
namespace {

constexpr int64_t kEndless = 1'000'000;  // steps
constexpr int64_t kMicroBatchesOfData = 16;
constexpr double kRecovered = 0.95;  // of the free rate
constexpr auto kRecoveryWindow = std::chrono::seconds(1);
constexpr auto kRecoveryStep = std::chrono::milliseconds(10);

absl::StatusOr<TrainingSpec> MakeSpec(const ServeCase& options, const ScratchDir& dir) {
  const std::vector<std::string> sizes = absl::StrSplit(options.train, 'x');
  TrainingSpec spec;
  if (sizes.size() != 2 || !absl::SimpleAtoi(sizes[0], &spec.micro_batch_size) ||
      !absl::SimpleAtoi(sizes[1], &spec.max_seq_length))
    return absl::InvalidArgumentError(
        absl::StrCat("--train=", options.train, ": it must be MICRO_BATCHxSEQ, such as 4x2048"));
  spec.lora.r = options.train_rank;
  spec.lora.lora_alpha = 2.0 * options.train_rank;
  spec.train_path = dir.File("train.jsonl");
  spec.output_dir = dir.File("adapter");
  spec.packing = false;  // rows are full as they are
  spec.max_steps = kEndless;
  spec.save_steps = kEndless;
  spec.lr_scheduler_type = "constant";
  spec.learning_rate = 1e-4;
  spec.optim = options.train_optim;
  spec.activation_checkpointing = options.train_policy;
  spec.seed = options.seed;
  return spec;
}

Clock::duration Duration(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

// The phase whose rate the last one goes back to; none unless requests become fewer at its start.
std::optional<size_t> PhaseToGoBackTo(const std::vector<RatePhase>& phases) {
  if (phases.size() < 3 || phases.back().rate >= phases[phases.size() - 2].rate)
    return std::nullopt;
  for (size_t i = 0; i + 2 < phases.size(); ++i)
    if (phases[i].rate == phases.back().rate) return i;
  return std::nullopt;
}

}  // namespace

// ---- TrainingProgress -------------------------------------------------------------------------

double TrainingProgress::TokensAt(Clock::time_point at) const {
  const auto after = std::upper_bound(marks_.begin(), marks_.end(), at,
                                      [](Clock::time_point t, const Mark& m) { return t < m.at; });
  if (after == marks_.begin()) return marks_.empty() ? 0 : static_cast<double>(after->tokens);
  const Mark& before = *std::prev(after);
  if (after == marks_.end()) return static_cast<double>(before.tokens);
  const double part = std::chrono::duration<double>(at - before.at) /
                      std::chrono::duration<double>(after->at - before.at);
  return static_cast<double>(before.tokens) +
         part * static_cast<double>(after->tokens - before.tokens);
}

double TrainingProgress::Rate(Clock::time_point begin, Clock::time_point end) const {
  return (TokensAt(end) - TokensAt(begin)) / std::chrono::duration<double>(end - begin).count();
}

std::optional<Clock::time_point> TrainingProgress::FirstAt(double rate, Clock::duration window,
                                                           Clock::time_point from,
                                                           Clock::time_point last) const {
  for (Clock::time_point at = from; at + window <= last; at += kRecoveryStep)
    if (Rate(at, at + window) >= rate) return at;
  return std::nullopt;
}

// ---- TrainingBeside ---------------------------------------------------------------------------

class TrainingBeside::Sink final : public TrainingSink {
 public:
  void OnStart(const TrainingPlan&, int64_t) override {}
  void OnStep(const StepReport& report) override {
    absl::MutexLock lock(&mu_);
    const int64_t before = marks_.empty() ? 0 : marks_.back().tokens;
    marks_.push_back({Clock::now(), before + report.tokens});
  }
  void OnEval(const EvalReport&) override {}
  void OnCheckpoint(const CheckpointReport&) override {}
  void OnWarning(const std::string&) override {}
  void OnFinish(const TrainingResult&) override {
    End(absl::InternalError("the job has come to its end"));
  }
  void OnStopped(int64_t) override { End(absl::CancelledError("the job was stopped")); }
  void OnError(const absl::Status& status) override { End(status); }

  // Until so many steps are done; an error when the job has ended.
  absl::Status WaitForSteps(size_t steps) {
    absl::MutexLock lock(&mu_);
    const auto reached = [this, steps]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return !end_.ok() || marks_.size() >= steps;
    };
    mu_.Await(absl::Condition(&reached));
    return end_;
  }
  void WaitForEnd() {
    absl::MutexLock lock(&mu_);
    const auto ended = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return !end_.ok(); };
    mu_.Await(absl::Condition(&ended));
  }
  absl::StatusOr<std::vector<TrainingProgress::Mark>> Marks() const {
    absl::MutexLock lock(&mu_);
    if (!end_.ok()) return end_;
    return marks_;
  }

 private:
  void End(absl::Status why) {
    absl::MutexLock lock(&mu_);
    end_ = std::move(why);
  }

  mutable absl::Mutex mu_;
  std::vector<TrainingProgress::Mark> marks_ ABSL_GUARDED_BY(mu_);
  absl::Status end_ ABSL_GUARDED_BY(mu_);  // OK: it runs
};

absl::StatusOr<std::unique_ptr<TrainingBeside>> TrainingBeside::Start(const ServeCase& options,
                                                                      Engine& engine) {
  std::unique_ptr<TrainingBeside> job(new TrainingBeside(engine));
  if (!job->dir_.ok()) return absl::UnavailableError("cannot make a folder for temporary files");
  ASSIGN_OR_RETURN(const TrainingSpec spec, MakeSpec(options, job->dir_));
  RETURN_IF_ERROR(WriteFileAtomically(
      spec.train_path, RandomRows(kMicroBatchesOfData * spec.micro_batch_size, spec.max_seq_length,
                                  engine.model().vocab_size, options.seed)));
  ASSIGN_OR_RETURN(const TrainingPlan plan, engine.PlanTraining(spec));
  job->peak_bytes_ = plan.peak_bytes;
  job->sink_ = std::make_shared<Sink>();
  ASSIGN_OR_RETURN(job->id_, engine.StartTraining(spec, job->sink_));
  RETURN_IF_ERROR(job->sink_->WaitForSteps(2));
  return job;
}

TrainingBeside::~TrainingBeside() {
  if (!id_.has_value()) return;
  engine_.StopTraining(*id_, /*checkpoint=*/false);
  sink_->WaitForEnd();
}

absl::StatusOr<double> TrainingBeside::MeasureAlone(double seconds) {
  ASSIGN_OR_RETURN(const std::vector<TrainingProgress::Mark> before, sink_->Marks());
  std::this_thread::sleep_for(Duration(seconds));
  RETURN_IF_ERROR(sink_->WaitForSteps(before.size() + 1));
  ASSIGN_OR_RETURN(const std::vector<TrainingProgress::Mark> after, sink_->Marks());
  const TrainingProgress::Mark &first = before.back(), &last = after.back();
  return static_cast<double>(last.tokens - first.tokens) /
         std::chrono::duration<double>(last.at - first.at).count();
}

absl::StatusOr<TrainingProgress> TrainingBeside::Progress() {
  ASSIGN_OR_RETURN(std::vector<TrainingProgress::Mark> marks, sink_->Marks());
  RETURN_IF_ERROR(sink_->WaitForSteps(marks.size() + 1));
  ASSIGN_OR_RETURN(marks, sink_->Marks());
  return TrainingProgress(std::move(marks));
}

// ---- Report -----------------------------------------------------------------------------------

Json TrainingJson(double solo, const TrainingProgress& progress, const LoadPlan& plan,
                  Clock::time_point began) {
  const auto at = [began](double seconds) { return began + Duration(seconds); };
  const double rate = progress.Rate(at(plan.warmup), at(plan.seconds()));
  Json json = {{"solo_tokens_per_s", solo}, {"tokens_per_s", rate}, {"share_of_solo", rate / solo}};
  if (plan.phases.size() < 2) return json;
  std::vector<double> begins = {0}, rates;
  for (const RatePhase& phase : plan.phases) {
    const double end = begins.back() + phase.seconds;
    rates.push_back(progress.Rate(at(begins.back()), at(end)));
    begins.push_back(end);
  }
  json["phases"] = rates;
  const std::optional<size_t> like = PhaseToGoBackTo(plan.phases);
  if (!like.has_value()) return json;
  const Clock::time_point drop = at(begins[plan.phases.size() - 1]);
  const std::optional<Clock::time_point> back =
      progress.FirstAt(kRecovered * rates[*like], kRecoveryWindow, drop, at(plan.seconds()));
  json["recovery_s"] =
      back.has_value() ? Json(std::chrono::duration<double>(*back - drop).count()) : Json(nullptr);
  return json;
}

}  // namespace lorad::bench
