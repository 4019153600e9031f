// A clock that tests move, and a training job whose slices take time on it.
#ifndef LORAD_TESTS_UNIT_ENGINE_SCHED_FAKE_SLICED_JOB_H_
#define LORAD_TESTS_UNIT_ENGINE_SCHED_FAKE_SLICED_JOB_H_

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "engine/train/sliced_job.h"
#include "gtest/gtest.h"

namespace lorad {

class FakeClock {
 public:
  absl::Time now() const { return now_; }
  void Advance(absl::Duration duration) { now_ += duration; }
  void AdvanceTo(absl::Time time) { now_ = std::max(now_, time); }

 private:
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
};

struct FakeSlice {
  Slice slice;
  absl::Duration took;
};

// A micro-batch of 8192 tokens through an 8B model of 32 layers on one GPU, each layer computed
// again: 0.7 s a step in slices of 0.3 to 3.6 ms.
inline std::vector<FakeSlice> EightBillionStep() {
  const auto ms = [](double value) { return absl::Milliseconds(value); };
  constexpr int64_t kTokens = 8192;
  std::vector<FakeSlice> step = {{{SliceKind::kPrepare}, ms(0.3)},
                                 {{SliceKind::kEmbedding, kTokens}, ms(0.3)}};
  const auto forward = [&] {
    step.push_back({{SliceKind::kForwardQkv, kTokens}, ms(1.2)});
    step.push_back({{SliceKind::kForwardOutput, kTokens}, ms(1.5)});
    step.push_back({{SliceKind::kForwardGateUp, kTokens}, ms(3.0)});
  };
  for (int layer = 0; layer < 32; ++layer) {
    forward();
    step.push_back({{SliceKind::kForwardDown, kTokens}, ms(1.6)});
  }
  for (int part = 0; part < 10; ++part) step.push_back({{SliceKind::kLoss, 850}, ms(3.0)});
  for (int layer = 0; layer < 32; ++layer) {
    forward();
    step.push_back({{SliceKind::kBackwardDown, kTokens}, ms(2.0)});
    step.push_back({{SliceKind::kBackwardGateUp, kTokens}, ms(3.6)});
    step.push_back({{SliceKind::kBackwardOutput, kTokens}, ms(2.4)});
    step.push_back({{SliceKind::kBackwardQkv, kTokens}, ms(1.6)});
  }
  step.push_back({{SliceKind::kReadBack}, ms(0.6)});
  for (int part = 0; part < 10; ++part) step.push_back({{SliceKind::kUpdate, 1 << 22}, ms(0.3)});
  return step;
}

// Repeats `slices`, `limit` of them in all. They are done one after another by a device that works
// beside the host; queueing one takes the host 20 us.
class FakeSlicedJob : public SlicedJob {
 public:
  FakeSlicedJob(FakeClock& clock, std::vector<FakeSlice> slices, int64_t limit = INT64_MAX)
      : clock_(clock), slices_(std::move(slices)), limit_(limit), free_at_(clock.now()) {}

  absl::Status Start(std::shared_ptr<TrainingSink> sink, PublishAdapter) override {
    sink_ = std::move(sink);
    state_ = TrainingState::kRunning;
    return absl::OkStatus();
  }
  TrainingState Advance() override {
    if (stop_) return End(TrainingState::kStopped);
    if (waits_ > 0) {
      --waits_;
      return state_;
    }
    if (failed_) return End(TrainingState::kFailed);
    const FakeSlice& slice = slices_[begun_++ % slices_.size()];
    EXPECT_LT(queued_.size(), static_cast<size_t>(kMaxQueuedSlices));
    clock_.Advance(absl::Microseconds(20));
    free_at_ = std::max(free_at_, clock_.now()) + slice.took;
    busy_ += slice.took;
    queued_.push_back({slice.took, free_at_});
    if (Blocks(slice.slice.kind)) clock_.AdvanceTo(free_at_);
    return begun_ == limit_ ? End(TrainingState::kFinished) : state_;
  }
  bool waiting() const override { return waits_ > 0 || failed_; }
  Slice next_slice() const override {
    EXPECT_FALSE(waiting());
    return slices_[begun_ % slices_.size()].slice;
  }
  absl::Duration AwaitSlice() override {
    if (state_ != TrainingState::kRunning || failed_) return absl::ZeroDuration();
    if (awaited_++ == fail_at_) {
      failed_ = true;
      return absl::ZeroDuration();
    }
    const auto [took, done] = queued_.front();
    queued_.pop_front();
    clock_.AdvanceTo(done);
    return took;
  }
  TrainingState state() const override { return state_; }
  void RequestStop(bool) override { stop_ = true; }

  // It has no slice for its next owner until it has been asked `times` times.
  void Wait(int64_t times) { waits_ = times; }
  // Slice number `slice`, from 0, will fail on the device. The job then waits, as for a file that
  // is being written, and ends when it is asked.
  void FailAt(int64_t slice) { fail_at_ = slice; }

  int64_t begun() const { return begun_; }
  absl::Duration busy() const { return busy_; }
  // What the device has still to do.
  absl::Duration ahead() const { return std::max(free_at_ - clock_.now(), absl::ZeroDuration()); }

 private:
  struct Queued {
    absl::Duration took;
    absl::Time done;
  };

  TrainingState End(TrainingState state) {
    state_ = state;
    if (state == TrainingState::kFinished)
      sink_->OnFinish({});
    else if (state == TrainingState::kFailed)
      sink_->OnError(absl::InternalError("the device has failed"));
    else
      sink_->OnStopped(-1);
    return state_;
  }

  FakeClock& clock_;
  const std::vector<FakeSlice> slices_;
  const int64_t limit_;
  std::shared_ptr<TrainingSink> sink_;
  TrainingState state_ = TrainingState::kReady;
  bool stop_ = false;
  int64_t waits_ = 0;
  int64_t awaited_ = 0, fail_at_ = -1;
  bool failed_ = false;
  int64_t begun_ = 0;
  absl::Duration busy_;
  std::deque<Queued> queued_;
  absl::Time free_at_;
};

}  // namespace lorad

#endif  // LORAD_TESTS_UNIT_ENGINE_SCHED_FAKE_SLICED_JOB_H_
