// Estimates of durations, by themselves and by kind and size of slices; and shares of time.
#include "engine/sched/slice_times.h"

#include <cmath>

#include "engine/sched/share_meter.h"
#include "gtest/gtest.h"

namespace lorad {
namespace {

absl::Duration Ms(double value) { return absl::Milliseconds(value); }
double InMs(absl::Duration duration) { return absl::ToDoubleMilliseconds(duration); }

TEST(DurationEstimateTest, TheFirstCallDoesNotCount) {
  DurationEstimate estimate;
  EXPECT_FALSE(estimate.known());
  EXPECT_EQ(estimate.high(), absl::ZeroDuration());
  estimate.Observe(Ms(300));
  EXPECT_TRUE(estimate.known());
  estimate.Observe(Ms(2));
  estimate.Observe(Ms(3));
  EXPECT_DOUBLE_EQ(InMs(estimate.high()), 2);
}

TEST(DurationEstimateTest, GainsAreThoseOfRfc6298) {
  DurationEstimate estimate;
  for (int i = 0; i < 3; ++i) estimate.Observe(Ms(8));
  estimate.Observe(Ms(12));
  EXPECT_DOUBLE_EQ(InMs(estimate.high()), 8.5 + 3 * 1);
  estimate.Observe(Ms(1000));  // counts as 17
  EXPECT_DOUBLE_EQ(InMs(estimate.high()), 8.5 + 8.5 / 8 + 3 * (1 + (8.5 - 1) / 4));
}

// Twice nothing would be nothing for ever.
TEST(DurationEstimateTest, RisesFromZero) {
  DurationEstimate estimate;
  for (int i = 0; i < 3; ++i) estimate.Observe(absl::ZeroDuration());
  estimate.Observe(Ms(8));
  EXPECT_DOUBLE_EQ(InMs(estimate.high()), 8.0 / 8 + 3 * (8.0 / 4));
}

TEST(DurationEstimateTest, FollowsAChangeForGood) {
  DurationEstimate estimate;
  for (int i = 0; i < 10; ++i) estimate.Observe(Ms(2));
  for (int i = 0; i < 100; ++i) estimate.Observe(Ms(10));
  EXPECT_NEAR(InMs(estimate.high()), 10, 0.1);
  for (int i = 0; i < 100; ++i) estimate.Observe(Ms(1));
  EXPECT_NEAR(InMs(estimate.high()), 1, 0.1);
}

TEST(SliceTimesTest, KindsAndSizesAreKeptApart) {
  SliceTimes times;
  const Slice large = {SliceKind::kForwardQkv, 8192}, small = {SliceKind::kForwardQkv, 1024};
  for (int i = 0; i < 5; ++i) {
    times.Observe(large, Ms(4));
    times.Observe(small, Ms(1));
    times.Observe({SliceKind::kBackwardQkv, 8192}, Ms(6));
  }
  EXPECT_EQ(times.Expected(large), Ms(4));
  EXPECT_EQ(times.Expected(small), Ms(1));
  EXPECT_EQ(times.Expected({SliceKind::kBackwardQkv, 8192}), Ms(6));
  EXPECT_EQ(times.Expected({SliceKind::kForwardQkv, 9000}), Ms(4));  // same half octave
  EXPECT_EQ(times.Expected({SliceKind::kForwardQkv, 2048}), Ms(4));  // the next larger one
  EXPECT_EQ(times.Expected({SliceKind::kForwardQkv, 1}), Ms(1));
  // Two octaves above: 4 times, and up to the end of its size.
  EXPECT_NEAR(InMs(times.Expected({SliceKind::kForwardQkv, 32768})), 16 * std::sqrt(2), 1e-6);
}

TEST(SliceTimesTest, AKindThatHasNotRunTakesTheLongest) {
  SliceTimes times;
  EXPECT_EQ(times.Expected({SliceKind::kLoss, 512}), absl::ZeroDuration());
  for (int i = 0; i < 3; ++i) {
    times.Observe({SliceKind::kForwardQkv, 512}, Ms(2));
    times.Observe({SliceKind::kForwardGateUp, 512}, Ms(3));
    times.Observe({SliceKind::kSnapshot}, Ms(900));
  }
  EXPECT_EQ(times.Expected({SliceKind::kLoss, 512}), Ms(3));
  EXPECT_EQ(times.Expected({SliceKind::kPrepare}), absl::ZeroDuration());
  EXPECT_EQ(times.Expected({SliceKind::kSnapshot}), Ms(900));
}

TEST(ShareMeterTest, SharesOfTheLastSeconds) {
  ShareMeter meter;
  absl::Time now = absl::UnixEpoch() + absl::Hours(1000);
  EXPECT_EQ(meter.Share(now), 0);
  for (int i = 0; i < 100; ++i) meter.Add(now += Ms(100), Ms(30));
  EXPECT_NEAR(meter.Share(now), 0.3, 0.01);
  for (int i = 0; i < 25; ++i) meter.Add(now += Ms(100), Ms(100));
  EXPECT_NEAR(meter.Share(now), (0.5 * 0.3 + 0.5 * 1), 0.05);
  meter.Add(now += absl::Seconds(60), absl::Seconds(60));  // one that began long ago
  EXPECT_NEAR(meter.Share(now), 1, 0.01);
  EXPECT_NEAR(meter.Share(now + absl::Seconds(2.5)), 0.5, 0.06);
  EXPECT_EQ(meter.Share(now + absl::Seconds(6)), 0);
}

}  // namespace
}  // namespace lorad
