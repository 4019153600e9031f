// How far training runs ahead of the device, and how long it keeps it.
#include "engine/sched/training_pacer.h"

#include <memory>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/engine/sched/fake_sliced_job.h"
#include "tests/unit/engine/sched/recording_training_sink.h"

namespace lorad {
namespace {

// Two of the longest slices of EightBillionStep, or 3 ms and one.
constexpr absl::Duration kMostAhead = absl::Microseconds(2 * 3600);

// Keeps the times of slices.
class SliceObserver : public SchedulerObserver {
 public:
  void OnFirstToken(bool, double) override {}
  void OnInterToken(bool, double) override {}
  void OnRequestFinished(const RequestTimes&) override {}
  void OnServingStep(bool, int32_t, double) override {}
  void OnTrainingSlice(SlicePhase phase, double seconds) override {
    phases[static_cast<int>(phase)] += seconds;
    total += seconds;
  }
  double phases[kNumSlicePhases] = {};
  double total = 0;
};

class TrainingPacerTest : public testing::Test {
 protected:
  FakeSlicedJob& Start(std::vector<FakeSlice> slices, int64_t limit = INT64_MAX) {
    auto job = std::make_unique<FakeSlicedJob>(clock_, std::move(slices), limit);
    FakeSlicedJob& started = *job;
    const absl::StatusOr<uint64_t> id = slot_.Claim();
    EXPECT_OK(id);
    slot_.Start(*id, std::move(job), sink_, /*publish=*/nullptr);
    return started;
  }
  // Long enough to see each kind of slice often.
  void RunAlone(absl::Duration time) {
    const absl::Time end = clock_.now() + time;
    while (slot_.active() && clock_.now() < end)
      pacer_.RunAlone(absl::Milliseconds(20), [] { return false; });
  }

  FakeClock clock_;
  TrainingSlot slot_;
  SliceObserver observer_;
  std::shared_ptr<RecordingTrainingSink> sink_ = std::make_shared<RecordingTrainingSink>();
  TrainingPacer pacer_{slot_, [this] { return clock_.now(); }, &observer_};
};

TEST_F(TrainingPacerTest, AloneKeepsTheDeviceBusyAndNearlyFree) {
  FakeSlicedJob& job = Start(EightBillionStep());
  RunAlone(absl::Seconds(2));  // learns
  const absl::Time began = clock_.now();
  const absl::Duration busy = job.busy();
  while (clock_.now() < began + absl::Seconds(10)) {
    pacer_.RunAlone(absl::Milliseconds(20), [] { return false; });
    EXPECT_LE(job.ahead(), kMostAhead);
  }
  // Only slices that block let the device wait: two of 0.7 s, for 20 us each.
  EXPECT_GT(absl::FDivDuration(job.busy() - busy, clock_.now() - began), 0.999);
  EXPECT_GT(pacer_.training_share(), 0.99);
}

TEST_F(TrainingPacerTest, AloneStopsSoonWhenARequestArrives) {
  FakeSlicedJob& job = Start(EightBillionStep());
  RunAlone(absl::Seconds(2));
  for (int i = 0; i < 500; ++i) {
    const absl::Time arrival = clock_.now() + absl::Milliseconds(0.37 * (i % 50));
    pacer_.RunAlone(absl::Milliseconds(20), [&] { return clock_.now() >= arrival; });
    const absl::Time noticed = clock_.now();
    if (noticed < arrival) continue;
    // At worst a slice that blocks came next: it waits for what is queued and takes 0.6 ms. What
    // the device still has runs beside the request's first pass.
    EXPECT_LE(noticed - arrival, kMostAhead + absl::Milliseconds(0.7));
    EXPECT_LE(job.ahead(), kMostAhead);
  }
}

TEST_F(TrainingPacerTest, WithinAnAllowanceTheDeviceIsFreeInTime) {
  FakeSlicedJob& job = Start(EightBillionStep());
  RunAlone(absl::Seconds(2));
  absl::Duration given, used;
  for (int i = 0; i < 1000; ++i) {
    clock_.Advance(absl::Milliseconds(5));  // serving
    const absl::Duration budget = absl::Milliseconds(4 + i % 20);
    const absl::Time until = clock_.now() + budget;
    const absl::Duration busy = job.busy();
    pacer_.RunWithin({until, false});
    if (i == 0) continue;  // what had been queued while alone comes on top
    EXPECT_LE(clock_.now(), until + absl::Microseconds(50));  // queueing is not in the prediction
    EXPECT_EQ(job.ahead(), absl::ZeroDuration());
    given += budget;
    used += job.busy() - busy;
  }
  // A slice of 1.9 ms on average does not fit at the end of 13.5 ms on average.
  EXPECT_GT(absl::FDivDuration(used, given), 0.85);
}

TEST_F(TrainingPacerTest, RunsOneSliceThatDoesNotFitWhenToldTo) {
  Start({{{SliceKind::kBackwardQkv, 64}, absl::Milliseconds(50)}});
  for (int i = 0; i < 3; ++i) EXPECT_EQ(pacer_.RunWithin({absl::InfinitePast(), true}), 1);
  EXPECT_EQ(pacer_.RunWithin({clock_.now() + absl::Milliseconds(49), false}), 0);
  EXPECT_EQ(pacer_.RunWithin({clock_.now() + absl::Milliseconds(49), true}), 1);
  EXPECT_EQ(pacer_.RunWithin({clock_.now() + absl::Milliseconds(60), false}), 1);
}

TEST_F(TrainingPacerTest, ReportsTheTimeOfEverySlice) {
  FakeSlicedJob& job = Start(EightBillionStep());
  RunAlone(absl::Seconds(3));
  pacer_.RunWithin({absl::InfinitePast(), false});  // waits for what is queued
  EXPECT_NEAR(observer_.total, absl::ToDoubleSeconds(job.busy()), 1e-6);
  for (const SlicePhase phase : {SlicePhase::kForward, SlicePhase::kLoss, SlicePhase::kBackward,
                                 SlicePhase::kOptimizer, SlicePhase::kOther})
    EXPECT_GT(observer_.phases[static_cast<int>(phase)], 0);
  EXPECT_EQ(observer_.phases[static_cast<int>(SlicePhase::kCheckpoint)], 0);
}

TEST_F(TrainingPacerTest, AJobThatEndsTakesItsSlicesAlong) {
  Start(EightBillionStep(), /*limit=*/100);
  RunAlone(absl::Seconds(1));
  EXPECT_FALSE(slot_.active());
  ASSERT_TRUE(sink_->result.has_value());
  sink_ = std::make_shared<RecordingTrainingSink>();
  FakeSlicedJob& next = Start(EightBillionStep());
  RunAlone(absl::Seconds(1));
  EXPECT_GT(next.begun(), 300);
  EXPECT_LE(next.ahead(), kMostAhead);
}

TEST_F(TrainingPacerTest, AJobThatWaitsIsAskedAndKeepsTheDeviceFromNobody) {
  FakeSlicedJob& job = Start(EightBillionStep());
  RunAlone(absl::Seconds(2));
  pacer_.RunWithin({absl::InfinitePast(), false});  // waits for what is queued
  const int64_t begun = job.begun();
  const double reported = observer_.total;
  job.Wait(5);
  // Also where serving leaves no time: what it waits for may be an adapter that is to be served.
  for (int i = 0; i < 2; ++i) EXPECT_EQ(pacer_.RunWithin({absl::InfinitePast(), false}), 0);
  EXPECT_EQ(pacer_.RunWithin({absl::InfinitePast(), true}), 0);
  const absl::Time began = clock_.now();
  pacer_.RunAlone(absl::Milliseconds(20), [] { return false; });
  EXPECT_EQ(clock_.now(), began) << "it does not wait";
  EXPECT_TRUE(job.waiting());
  EXPECT_EQ(job.begun(), begun);
  EXPECT_EQ(observer_.total, reported);
  pacer_.RunAlone(absl::Milliseconds(20), [] { return false; });
  EXPECT_GT(job.begun(), begun);
}

TEST_F(TrainingPacerTest, NothingIsLearnedFromASliceThatFailed) {
  const std::vector<FakeSlice> slices = {{{SliceKind::kForwardQkv, 64}, absl::Milliseconds(50)},
                                         {{SliceKind::kBackwardQkv, 64}, absl::Milliseconds(50)}};
  Start(slices).FailAt(1);
  EXPECT_EQ(pacer_.RunWithin({absl::InfinitePast(), true}), 1);
  EXPECT_EQ(pacer_.RunWithin({absl::InfinitePast(), true}), 1);
  EXPECT_TRUE(slot_.active()) << "it waits for its files";
  EXPECT_NEAR(observer_.total, 0.05, 1e-9);
  pacer_.RunWithin({absl::InfinitePast(), false});
  EXPECT_FALSE(sink_->error.ok());
  // The kind that failed is taken for as long as the longest that is known, not for nothing.
  sink_ = std::make_shared<RecordingTrainingSink>();
  Start({slices[1]});
  EXPECT_EQ(pacer_.RunWithin({clock_.now() + absl::Milliseconds(10), false}), 0);
}

TEST_F(TrainingPacerTest, WithoutAJobNothingHappens) {
  pacer_.RunAlone(absl::Milliseconds(20), [] { return false; });
  EXPECT_EQ(pacer_.RunWithin({absl::InfiniteFuture(), true}), 0);
  EXPECT_EQ(pacer_.training_share(), 0);
}

}  // namespace
}  // namespace lorad
