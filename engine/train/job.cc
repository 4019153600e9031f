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
  bool waiting() const;
  Slice next_slice() const { return run_->next_slice(); }
  absl::Duration AwaitSlice();
  void RequestStop(bool checkpoint);

 private:
  // Gives the memory back before anyone hears of the end; the sink is for the last word.
  std::shared_ptr<TrainingSink> End(TrainingState state) {
    run_.reset();
    state_ = state;
    return std::move(sink_);
  }
  void Fail(const absl::Status& status);
  bool ends_early() const { return drop_ || !failure_.ok(); }
  void EndEarly();

  std::unique_ptr<JobSetup> setup_;
  Backend& backend_;
  std::shared_ptr<TrainingSink> sink_;
  TrainingState state_ = TrainingState::kReady;
  std::unique_ptr<JobRun> run_;
  bool drop_ = false;
  absl::Status failure_;  // ends the job as soon as nothing is written any more
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
  if (state_ != TrainingState::kRunning) return state_;
  if (ends_early()) {
    EndEarly();
    return state_;
  }
  const absl::StatusOr<JobRun::Progress> progress = run_->Advance();
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

bool TrainingJob::Impl::waiting() const {
  if (state_ != TrainingState::kRunning) return false;
  return ends_early() ? run_->busy() : run_->waiting();
}

absl::Duration TrainingJob::Impl::AwaitSlice() {
  if (state_ != TrainingState::kRunning || !failure_.ok()) return absl::ZeroDuration();
  const absl::StatusOr<absl::Duration> took = run_->AwaitSlice();
  if (took.ok()) return *took;
  failure_ = took.status();
  EndEarly();
  return absl::ZeroDuration();
}

// A job that failed or is dropped ends when nothing is written any more: whoever owns the device
// must not wait for a disk. REQUIRES: ends_early().
void TrainingJob::Impl::EndEarly() {
  if (run_->busy()) run_->Settle();
  if (run_->busy()) return;
  if (drop_)
    End(TrainingState::kStopped)->OnStopped(-1);
  else
    Fail(failure_);
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
Slice TrainingJob::next_slice() const { return impl_->next_slice(); }
absl::Duration TrainingJob::AwaitSlice() { return impl_->AwaitSlice(); }
void TrainingJob::RequestStop(bool checkpoint) { impl_->RequestStop(checkpoint); }

absl::StatusOr<DatasetReport> ValidateDatasetFile(const std::string& path, int32_t max_seq_length,
                                                  const ModelConfig& config,
                                                  const Tokenizer* tokenizer) {
  ASSIGN_OR_RETURN(TokenDataset dataset, ReadDataset(path, max_seq_length, config, tokenizer));
  return std::move(dataset.report);
}

}  // namespace lorad
