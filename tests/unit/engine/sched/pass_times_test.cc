#include "engine/sched/pass_times.h"

#include <vector>

#include "gtest/gtest.h"

namespace lorad {
namespace {

absl::Duration Ms(double value) { return absl::Milliseconds(value); }
bool Known(const PassTimes& times, int64_t rows) { return times.Known(PassTimes::SizeOf(rows)); }
double Expected(const PassTimes& times, int64_t rows) {
  return absl::ToDoubleMilliseconds(times.Expected(PassTimes::SizeOf(rows)));
}

TEST(PassTimesTest, SizesAreHalfOctaves) {
  std::vector<int64_t> rows;
  for (int size = 0; size < 10; ++size) {
    rows.push_back(PassTimes::RowsOf(size));
    EXPECT_EQ(PassTimes::SizeOf(rows.back()), size);
    EXPECT_EQ(PassTimes::SizeOf(rows.back() + 1), size + 1);
  }
  EXPECT_EQ(rows, (std::vector<int64_t>{1, 2, 3, 4, 6, 8, 12, 16, 24, 32}));
}

TEST(PassTimesTest, APassCountsAsTheSizeThatHoldsIt) {
  PassTimes times;
  EXPECT_EQ(times.Expected(0), absl::InfiniteDuration());
  times.Observe(1, Ms(3));
  times.Observe(2, Ms(4));
  times.Observe(7, Ms(5));
  times.Observe(49, Ms(7));
  times.Observe(64, Ms(8));
  EXPECT_EQ(Expected(times, 1), 3);
  EXPECT_EQ(Expected(times, 2), 4);
  EXPECT_FALSE(Known(times, 6));
  EXPECT_EQ(Expected(times, 8), 5);
  EXPECT_EQ(Expected(times, 64), 7);
  EXPECT_FALSE(Known(times, 48));
  EXPECT_FALSE(Known(times, 65));
  times.Observe(int64_t{1} << 40, Ms(100));
  EXPECT_TRUE(times.Known(PassTimes::kNumSizes - 1));
}

TEST(PassTimesTest, WhatHasNotRunIsOnTheLineOfWhatHas) {
  PassTimes times;
  times.Observe(16, Ms(4));
  EXPECT_DOUBLE_EQ(Expected(times, 32), 6);
  EXPECT_DOUBLE_EQ(Expected(times, 8), 4);
  times.Observe(32, Ms(5));
  EXPECT_DOUBLE_EQ(Expected(times, 24), 4.5);
  EXPECT_DOUBLE_EQ(Expected(times, 64), 7.5);
  times.Observe(96, Ms(9));
  EXPECT_DOUBLE_EQ(Expected(times, 64), 7);
  PassTimes noisy;  // more rows never take less
  noisy.Observe(16, Ms(6));
  noisy.Observe(64, Ms(5));
  EXPECT_DOUBLE_EQ(Expected(noisy, 32), 6);
}

TEST(PassTimesTest, TheLargestThatHasNotRun) {
  PassTimes times;
  const auto largest = [&](int64_t least, int64_t most) {
    const int size = times.LargestUnknown(least, most);
    return size < 0 ? -1 : PassTimes::RowsOf(size);
  };
  EXPECT_EQ(largest(16, 256), 256);
  EXPECT_EQ(largest(16, 255), 192);
  EXPECT_EQ(largest(16, 15), -1);
  times.Observe(256, Ms(1));
  EXPECT_EQ(largest(16, 300), 192);
  for (const int64_t rows : {16, 24, 32, 48, 64, 96, 128, 192}) times.Observe(rows, Ms(1));
  EXPECT_EQ(largest(16, 300), -1);
}

}  // namespace
}  // namespace lorad
