#include "engine/sched/training_slot.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "engine/core/check.h"

namespace lorad {

// Passes everything on; frees the slot before the last word.
class TrainingSlot::Sink final : public TrainingSink {
 public:
  Sink(TrainingSlot* slot, uint64_t id, std::shared_ptr<TrainingSink> sink)
      : slot_(slot), id_(id), sink_(std::move(sink)) {}

  void OnStart(const TrainingPlan& plan, int64_t resumed_from_step) override {
    sink_->OnStart(plan, resumed_from_step);
  }
  void OnStep(const StepReport& report) override { sink_->OnStep(report); }
  void OnEval(const EvalReport& report) override { sink_->OnEval(report); }
  void OnCheckpoint(const CheckpointReport& report) override { sink_->OnCheckpoint(report); }
  void OnPublication(const PublicationReport& report) override { sink_->OnPublication(report); }
  void OnWarning(const std::string& message) override { sink_->OnWarning(message); }
  void OnFinish(const TrainingResult& result) override {
    slot_->Release(id_);
    sink_->OnFinish(result);
  }
  void OnStopped(int64_t checkpoint_step) override {
    slot_->Release(id_);
    sink_->OnStopped(checkpoint_step);
  }
  void OnError(const absl::Status& status) override {
    slot_->Release(id_);
    sink_->OnError(status);
  }

 private:
  TrainingSlot* const slot_;
  const uint64_t id_;
  const std::shared_ptr<TrainingSink> sink_;
};

absl::StatusOr<uint64_t> TrainingSlot::Claim() {
  absl::MutexLock lock(&mu_);
  if (claimed_ != 0) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "training %d is running and one job runs at a time; wait for it or stop it", claimed_));
  }
  return claimed_ = next_id_++;
}

void TrainingSlot::Release(uint64_t id) {
  absl::MutexLock lock(&mu_);
  if (claimed_ == id) claimed_ = 0;
}

bool TrainingSlot::claimed() const {
  absl::MutexLock lock(&mu_);
  return claimed_ != 0;
}

void TrainingSlot::Start(uint64_t id, std::unique_ptr<SlicedJob> job,
                         std::shared_ptr<TrainingSink> sink, PublishAdapter publish) {
  LORAD_CHECK(job_ == nullptr);
  auto wrapped = std::make_shared<Sink>(this, id, std::move(sink));
  if (!job->Start(wrapped, std::move(publish)).ok()) return;  // the sink has been told
  id_ = id;
  job_ = std::move(job);
  sink_ = std::move(wrapped);
}

void TrainingSlot::RequestStop(uint64_t id, bool checkpoint) {
  if (id == id_) RequestStop(checkpoint);
}

void TrainingSlot::RequestStop(bool checkpoint) {
  if (job_ != nullptr) job_->RequestStop(checkpoint);
}

void TrainingSlot::Advance() {
  if (job_ == nullptr) return;
  job_->Advance();
  LeaveIfEnded();
}

absl::Duration TrainingSlot::AwaitSlice() {
  if (job_ == nullptr) return absl::ZeroDuration();
  const absl::Duration took = job_->AwaitSlice();
  LeaveIfEnded();
  return took;
}

void TrainingSlot::LeaveIfEnded() {
  if (job_->state() == TrainingState::kRunning) return;
  job_.reset();
  sink_.reset();
  id_ = 0;
}

void TrainingSlot::Fail(const absl::Status& status) {
  if (job_ == nullptr) return;
  job_.reset();
  std::exchange(sink_, nullptr)->OnError(status);
  id_ = 0;
}

}  // namespace lorad
