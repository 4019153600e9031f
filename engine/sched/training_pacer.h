// Gives a training job the device, slice by slice.
#ifndef LORAD_ENGINE_SCHED_TRAINING_PACER_H_
#define LORAD_ENGINE_SCHED_TRAINING_PACER_H_

#include <cstdint>
#include <deque>
#include <functional>

#include "absl/time/time.h"
#include "engine/sched/observer.h"
#include "engine/sched/share_meter.h"
#include "engine/sched/slice_budget.h"
#include "engine/sched/slice_times.h"
#include "engine/sched/training_slot.h"

namespace lorad {

// Slices are queued a little ahead of the device, so that it never waits for the host, and never so
// far that whoever comes next waits long for it. Each one's time on the device is measured, and so
// the next of its kind is predicted. Engine thread, training_share() apart.
class TrainingPacer {
 public:
  // `slot` and `observer` are not owned; `observer` may be null.
  TrainingPacer(TrainingSlot& slot, std::function<absl::Time()> now, SchedulerObserver* observer);

  // While requests run: slices that are expected to be done within the allowance, and waits for
  // them, so that the device is free on return. How many it was.
  int64_t RunWithin(const TrainingAllowance& allowance);
  // With the device to itself: queues slices for `time`, or until `interrupted()` after one. On
  // return the device has work for some milliseconds, or the job waits.
  void RunAlone(absl::Duration time, const std::function<bool()>& interrupted);
  // The job has ended by other means.
  void Forget();

  // Of the last seconds. Thread-safe.
  double training_share() const { return share_.Share(now_()); }

 private:
  struct Queued {
    Slice slice;
    absl::Duration expected;
  };

  // Looks whether what the job waits for is done; that takes no time.
  void Poll();
  bool Ready() const { return slot_.active() && !slot_.waiting(); }
  // Queues the next slice. Before that, waits until one is queued at most, or what is queued is
  // expected to take `ahead` at most.
  void Queue(absl::Duration ahead);
  // Nothing else should be queued beside it.
  bool StandsAlone(const Slice& slice) const;
  void AwaitOldest();
  void AwaitAll();
  // The slice that comes next is expected to be done by `until`.
  bool Fits(absl::Time until) const;

  TrainingSlot& slot_;
  const std::function<absl::Time()> now_;
  SchedulerObserver* const observer_;
  SliceTimes times_;
  std::deque<Queued> queued_;                       // on the device or before it, the oldest first
  absl::Duration expected_ = absl::ZeroDuration();  // of all that are queued
  ShareMeter share_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_SCHED_TRAINING_PACER_H_
