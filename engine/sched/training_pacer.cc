#include "engine/sched/training_pacer.h"

#include <utility>

namespace lorad {
namespace {

// Beside the slice that runs one is always queued, so that the device does not wait for the host;
// more while they are this short together.
constexpr absl::Duration kAheadAlone = absl::Milliseconds(3);
constexpr absl::Duration kAheadOfServing = absl::Milliseconds(1);

}  // namespace

TrainingPacer::TrainingPacer(TrainingSlot& slot, std::function<absl::Time()> now,
                             SchedulerObserver* observer)
    : slot_(slot), now_(std::move(now)), observer_(observer) {}

int64_t TrainingPacer::RunWithin(const TrainingAllowance& allowance) {
  AwaitAll();  // what was queued before the requests came
  Poll();
  int64_t slices = 0;
  while (Ready() && (Fits(allowance.until) || (slices == 0 && allowance.at_least_one))) {
    Queue(kAheadOfServing);
    ++slices;
  }
  AwaitAll();
  return slices;
}

void TrainingPacer::RunAlone(absl::Duration time, const std::function<bool()>& interrupted) {
  const absl::Time end = now_() + time;
  Poll();
  while (Ready()) {
    Queue(kAheadAlone);
    if (now_() >= end || interrupted()) return;
  }
}

void TrainingPacer::Poll() {
  if (slot_.waiting()) slot_.Advance();
  if (!slot_.active()) Forget();
}

void TrainingPacer::Forget() {
  queued_.clear();
  expected_ = absl::ZeroDuration();
}

bool TrainingPacer::Fits(absl::Time until) const {
  return now_() + expected_ + times_.Expected(slot_.next_slice()) <= until;
}

void TrainingPacer::Queue(absl::Duration ahead) {
  const Slice slice = slot_.next_slice();
  const absl::Duration expected = times_.Expected(slice);
  const bool alone = StandsAlone(slice);
  if (alone) AwaitAll();
  while ((queued_.size() > 1 && expected_ > ahead) ||
         static_cast<int64_t>(queued_.size()) == SlicedJob::kMaxQueuedSlices)
    AwaitOldest();
  if (!slot_.active()) return;
  slot_.Advance();
  if (!slot_.active()) return Forget();
  queued_.push_back({slice, expected});
  expected_ += expected;
  if (alone) AwaitAll();
}

bool TrainingPacer::StandsAlone(const Slice& slice) const {
  // What blocks would hide when those before it are done; what nobody knows may be long.
  return Blocks(slice.kind) || !times_.Known(slice);
}

void TrainingPacer::AwaitAll() {
  while (!queued_.empty()) AwaitOldest();
}

void TrainingPacer::AwaitOldest() {
  const absl::Duration took = slot_.AwaitSlice();
  if (!slot_.active()) return Forget();
  const Queued done = queued_.front();
  queued_.pop_front();
  expected_ = queued_.empty() ? absl::ZeroDuration() : expected_ - done.expected;
  if (took <= absl::ZeroDuration()) return;  // it failed, and says nothing of the next
  times_.Observe(done.slice, took);
  share_.Add(now_(), took);
  if (observer_ != nullptr)
    observer_->OnTrainingSlice(PhaseOf(done.slice.kind), absl::ToDoubleSeconds(took));
}

}  // namespace lorad
