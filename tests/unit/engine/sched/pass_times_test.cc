#include "engine/sched/pass_times.h"

#include "gtest/gtest.h"

namespace lorad {
namespace {

absl::Duration Ms(double value) { return absl::Milliseconds(value); }
double Expected(const PassTimes& times, int size) {
  return absl::ToDoubleMilliseconds(times.Expected(size));
}

TEST(PassTimesTest, APassCountsAsTheSizeThatHoldsIt) {
  PassTimes times;
  EXPECT_EQ(times.Expected(0), absl::InfiniteDuration());
  times.Observe(1, Ms(3));
  times.Observe(2, Ms(4));
  times.Observe(5, Ms(5));
  times.Observe(33, Ms(7));
  times.Observe(64, Ms(8));
  EXPECT_EQ(times.Expected(0), Ms(3));
  EXPECT_EQ(times.Expected(1), Ms(4));
  EXPECT_FALSE(times.Known(2));
  EXPECT_EQ(times.Expected(3), Ms(5));
  EXPECT_EQ(times.Expected(6), Ms(7));
  EXPECT_FALSE(times.Known(5));
  EXPECT_FALSE(times.Known(7));
  times.Observe(int64_t{1} << 40, Ms(100));
  EXPECT_TRUE(times.Known(PassTimes::kNumSizes - 1));
}

TEST(PassTimesTest, WhatHasNotRunIsOnTheLineOfWhatHas) {
  PassTimes times;
  times.Observe(16, Ms(4));
  EXPECT_DOUBLE_EQ(Expected(times, 5), 8);  // in proportion
  EXPECT_DOUBLE_EQ(Expected(times, 3), 4);
  times.Observe(32, Ms(5));
  EXPECT_DOUBLE_EQ(Expected(times, 6), 7);
  EXPECT_DOUBLE_EQ(Expected(times, 7), 11);
  times.Observe(256, Ms(10));
  EXPECT_DOUBLE_EQ(Expected(times, 7), 10);
  PassTimes noisy;  // more rows never take less
  noisy.Observe(16, Ms(6));
  noisy.Observe(32, Ms(5));
  EXPECT_DOUBLE_EQ(Expected(noisy, 6), 5);
}

TEST(PassTimesTest, TheLargestThatHasNotRun) {
  PassTimes times;
  EXPECT_EQ(times.LargestUnknown(16, 256), 8);
  EXPECT_EQ(times.LargestUnknown(16, 255), 7);
  EXPECT_EQ(times.LargestUnknown(16, 15), -1);
  times.Observe(256, Ms(1));
  EXPECT_EQ(times.LargestUnknown(16, 300), 7);
  for (const int64_t rows : {16, 32, 64, 128}) times.Observe(rows, Ms(1));
  EXPECT_EQ(times.LargestUnknown(16, 300), -1);
}

}  // namespace
}  // namespace lorad
