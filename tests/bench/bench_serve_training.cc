#include "tests/bench/bench_serve_training.h"

#include <chrono>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "tests/bench/random_rows.h"

namespace lorad::bench {
namespace {

constexpr int64_t kEndless = 1'000'000;  // steps
constexpr int64_t kMicroBatchesOfData = 16;

}  // namespace

absl::StatusOr<TrainingSpec> MakeTrainingSpec(const ServeCase& options, const ScratchDir& dir,
                                              const Engine& engine) {
  ASSIGN_OR_RETURN(const MicroBatch batch, ParseMicroBatch(options.train));
  TrainingSpec spec;
  spec.micro_batch_size = batch.rows;
  spec.max_seq_length = batch.tokens;
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
  RETURN_IF_ERROR(WriteFileAtomically(
      spec.train_path, RandomRows(kMicroBatchesOfData * spec.micro_batch_size, spec.max_seq_length,
                                  engine.model().vocab_size, options.seed)));
  return spec;
}

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
  ASSIGN_OR_RETURN(const TrainingSpec spec, MakeTrainingSpec(options, job->dir_, engine));
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
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
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

}  // namespace lorad::bench
