// The one place for a training job.
#ifndef LORAD_ENGINE_SCHED_TRAINING_SLOT_H_
#define LORAD_ENGINE_SCHED_TRAINING_SLOT_H_

#include <cstdint>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "engine/train/sliced_job.h"

namespace lorad {

// A job holds the slot from Claim() until its sink has heard the last word: just before that call
// the slot is free again, so that the sink may start the next job.
class TrainingSlot {
 public:
  // ---- Thread-safe.
  // kFailedPrecondition while another job holds the slot.
  absl::StatusOr<uint64_t> Claim();
  // For a claim that came to nothing.
  void Release(uint64_t id);
  bool claimed() const;

  // ---- Engine thread.
  // Takes the job's memory and begins; a failure goes to the sink. REQUIRES: Claim() gave `id`.
  void Start(uint64_t id, std::unique_ptr<SlicedJob> job, std::shared_ptr<TrainingSink> sink,
             PublishAdapter publish);
  // No effect on an unknown or ended job.
  void RequestStop(uint64_t id, bool checkpoint);
  void RequestStop(bool checkpoint);  // whatever runs
  // See SlicedJob; a job that ends leaves the slot. No effect without a job.
  void Advance();
  absl::Duration AwaitSlice();
  // REQUIRES: active() and not waiting().
  Slice next_slice() const { return job_->next_slice(); }
  // Ends the job at once, without its help: the device is gone.
  void Fail(const absl::Status& status);
  bool active() const { return job_ != nullptr; }
  // See SlicedJob; false without a job.
  bool waiting() const { return job_ != nullptr && job_->waiting(); }

 private:
  class Sink;

  void LeaveIfEnded();

  mutable absl::Mutex mu_;
  uint64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
  uint64_t claimed_ ABSL_GUARDED_BY(mu_) = 0;  // 0: free

  // Engine thread.
  uint64_t id_ = 0;
  std::unique_ptr<SlicedJob> job_;
  std::shared_ptr<Sink> sink_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_SCHED_TRAINING_SLOT_H_
