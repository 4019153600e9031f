#include "engine/train/job.h"

#include <utility>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "engine/core/check.h"
#include "engine/core/status_macros.h"
#include "engine/train/dataset.h"
#include "engine/train/job_run.h"
#include "engine/train/job_setup.h"

namespace lorad {

// The life of a job around its run: states, the sink, errors.
class TrainingJob::Impl {
 public:
  Impl(std::unique_ptr<JobSetup> setup, Backend& backend)
      : setup_(std::move(setup)), backend_(backend) {}

  const TrainingPlan& plan() const { return setup_->plan; }
  TrainingState state() const { return state_; }

  absl::Status Start(std::shared_ptr<TrainingSink> sink, PublishAdapter publish);
  TrainingState Advance();
  bool waiting() const { return waiting_; }
  void RequestStop(bool checkpoint);

 private:
  // Gives the memory back before anyone hears of the end; the sink is for the last word.
  std::shared_ptr<TrainingSink> End(TrainingState state) {
    run_.reset();
    state_ = state;
    return std::move(sink_);
  }
  void Fail(const absl::Status& status);
  bool EndEarly();

  std::unique_ptr<JobSetup> setup_;
  Backend& backend_;
  std::shared_ptr<TrainingSink> sink_;
  TrainingState state_ = TrainingState::kReady;
  std::unique_ptr<JobRun> run_;
  bool drop_ = false;
  absl::Status failure_;  // ends the job as soon as nothing is written any more
  bool waiting_ = false;
};

absl::Status TrainingJob::Impl::Start(std::shared_ptr<TrainingSink> sink, PublishAdapter publish) {
  LORAD_CHECK(state_ == TrainingState::kReady);
  sink_ = std::move(sink);
  absl::StatusOr<std::unique_ptr<JobRun>> run =
      JobRun::Create(*setup_, backend_, *sink_, std::move(publish));
  if (!run.ok()) {
    Fail(run.status());
    return run.status();
  }
  run_ = *std::move(run);
  state_ = TrainingState::kRunning;
  return absl::OkStatus();
}

TrainingState TrainingJob::Impl::Advance() {
  if (state_ != TrainingState::kRunning || EndEarly()) return state_;
  const absl::StatusOr<JobRun::Progress> progress = run_->Advance();
  waiting_ = run_->waiting();
  if (!progress.ok()) {
    failure_ = progress.status();
    EndEarly();
  } else if (*progress == JobRun::Progress::kFinished) {
    const TrainingResult result = run_->result();
    End(TrainingState::kFinished)->OnFinish(result);
  } else if (*progress == JobRun::Progress::kStopped) {
    const int64_t step = run_->saved_step();
    End(TrainingState::kStopped)->OnStopped(step);
  }
  return state_;
}

// A job that failed or is dropped ends when nothing is written any more: whoever owns the device
// must not wait for a disk. False when there is no reason to end.
bool TrainingJob::Impl::EndEarly() {
  if (failure_.ok() && !drop_) return false;
  waiting_ = run_->busy();
  if (waiting_) {
    run_->Settle();
  } else if (drop_) {
    End(TrainingState::kStopped)->OnStopped(-1);
  } else {
    Fail(failure_);
  }
  return true;
}

void TrainingJob::Impl::RequestStop(bool checkpoint) {
  if (!checkpoint) drop_ = true;
  if (run_ != nullptr) run_->RequestStop();
}

void TrainingJob::Impl::Fail(const absl::Status& status) {
  End(TrainingState::kFailed)->OnError(status);
}

absl::StatusOr<std::unique_ptr<TrainingJob>> TrainingJob::Create(const TrainingSpec& spec,
                                                                 std::shared_ptr<const Model> model,
                                                                 const Tokenizer* tokenizer,
                                                                 Backend& backend) {
  ASSIGN_OR_RETURN(std::unique_ptr<JobSetup> setup,
                   PrepareJob(spec, std::move(model), tokenizer, backend));
  return absl::WrapUnique(new TrainingJob(std::make_unique<Impl>(std::move(setup), backend)));
}

TrainingJob::TrainingJob(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TrainingJob::~TrainingJob() = default;
const TrainingPlan& TrainingJob::plan() const { return impl_->plan(); }
TrainingState TrainingJob::state() const { return impl_->state(); }
absl::Status TrainingJob::Start(std::shared_ptr<TrainingSink> sink, PublishAdapter publish) {
  return impl_->Start(std::move(sink), std::move(publish));
}
bool TrainingJob::waiting() const { return impl_->waiting(); }
TrainingState TrainingJob::Advance() { return impl_->Advance(); }
void TrainingJob::RequestStop(bool checkpoint) { impl_->RequestStop(checkpoint); }

absl::StatusOr<DatasetReport> ValidateDatasetFile(const std::string& path, int32_t max_seq_length,
                                                  const ModelConfig& config,
                                                  const Tokenizer* tokenizer) {
  ASSIGN_OR_RETURN(TokenDataset dataset, ReadDataset(path, max_seq_length, config, tokenizer));
  return std::move(dataset.report);
}

}  // namespace lorad
