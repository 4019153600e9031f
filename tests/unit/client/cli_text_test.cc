// Tables, numbers and progress of loractl.
#include <sstream>
#include <string>

#include "client/cli/format.h"
#include "client/cli/progress.h"
#include "client/cli/table.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lorad::client::cli {
namespace {

using ::testing::HasSubstr;

TEST(FormatTest, BytesHaveBinaryUnits) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(1536), "1.5 KiB");
  EXPECT_EQ(FormatBytes((int64_t{1} << 20) - 1), "1.0 MiB");
  EXPECT_EQ(FormatBytes(int64_t{5} << 30), "5.0 GiB");
}

TEST(FormatTest, CountsAreShort) {
  EXPECT_EQ(FormatCount(9999), "9999");
  EXPECT_EQ(FormatCount(12345), "12.3k");
  EXPECT_EQ(FormatCount(999'999), "1.00M");
  EXPECT_EQ(FormatCount(7'000'000'000), "7.0B");
}

TEST(FormatTest, TimesReadLikeAClock) {
  EXPECT_EQ(FormatSeconds(0.84), "0.8 s");
  EXPECT_EQ(FormatSeconds(42), "42 s");
  EXPECT_EQ(FormatSeconds(187), "3:07");
  EXPECT_EQ(FormatSeconds(3753), "1:02:33");
  EXPECT_EQ(FormatSeconds(-1), "?");
}

TEST(TableTest, AlignsTextLeftAndNumbersRight) {
  Table table({"NAME", "STEPS"});
  table.Row({"a", "5"});
  table.Row({"longer", "120"});
  EXPECT_EQ(table.Text(),
            "NAME    STEPS\n"
            "a           5\n"
            "longer    120\n");
}

TEST(TableTest, CountsCharactersNotBytes) {
  Table table({"NAME", "KIND"});
  table.Row({"é", "x"});
  table.Row({"ab", "y"});
  EXPECT_EQ(table.Text(),
            "NAME  KIND\n"
            "é     x\n"
            "ab    y\n");
}

TEST(TableTest, EmptyCellsShowAndControlCharactersDoNot) {
  Table table({"NAME", "JOB"});
  table.Row({"a\x1b[31m\n", ""});
  EXPECT_THAT(table.Text(), HasSubstr("a?[31m?  -\n"));
}

TEST(ProgressTest, TheBarGrowsWithTheShare) {
  EXPECT_EQ(FormatBar(0, "x", 80), "[>                       ]   0%  x");
  EXPECT_EQ(FormatBar(0.5, "x", 80), "[============>           ]  50%  x");
  EXPECT_EQ(FormatBar(1, "x", 80), "[========================] 100%  x");
  EXPECT_EQ(FormatBar(7, "x", 80), FormatBar(1, "x", 80));
  EXPECT_EQ(FormatBar(1, "details", 10).size(), 10u);
}

TEST(ProgressTest, ThePipeGetsPlainLinesOnly) {
  std::ostringstream out;
  ProgressLine line(out, /*terminal=*/false, 80);
  line.Update(0.5, "half");
  line.Print("event");
  line.Finish();
  EXPECT_EQ(out.str(), "event\n");
}

TEST(ProgressTest, TheTerminalGetsABarThatLinesMoveAbove) {
  std::ostringstream out;
  {
    ProgressLine line(out, /*terminal=*/true, 80);
    line.Update(0.25, "quarter");
    line.Print("event");
    line.Update(1, "all");  // too soon to be drawn; Finish shows it
  }
  const std::string text = out.str();
  EXPECT_THAT(text, HasSubstr("\r\x1b[K[======>"));
  EXPECT_THAT(text, HasSubstr("\r\x1b[Kevent\n\r\x1b[K[======>"));
  EXPECT_TRUE(text.ends_with("100%  all\n")) << text;
}

TEST(ProgressTest, ABarIsRedrawnAtMostTenTimesASecond) {
  std::ostringstream out;
  ProgressLine line(out, /*terminal=*/true, 80);
  for (int i = 0; i < 1000; ++i) line.Update(i / 1000.0, "x");
  // 1000 updates take far less than the 100 ms of one interval, save on a machine that stalls.
  EXPECT_LT(out.str().size(), 20 * 60u);
}

TEST(EtaTest, ExtrapolatesTheRateOfTheLastSteps) {
  EtaEstimator eta;
  const absl::Time start = absl::FromUnixSeconds(1000);
  eta.Observe(1, start);
  EXPECT_LT(eta.SecondsLeft(100), 0);
  eta.Observe(2, start + absl::Seconds(2));
  eta.Observe(3, start + absl::Seconds(4));
  EXPECT_DOUBLE_EQ(eta.SecondsLeft(13), 20);
  EXPECT_DOUBLE_EQ(eta.SecondsLeft(3), 0);
}

TEST(EtaTest, ForgetsWhatWasLongAgo) {
  EtaEstimator eta;
  absl::Time now = absl::FromUnixSeconds(1000);
  for (int step = 1; step <= 50; ++step) eta.Observe(step, now += absl::Seconds(10));
  for (int step = 51; step <= 100; ++step) eta.Observe(step, now += absl::Seconds(1));
  EXPECT_DOUBLE_EQ(eta.SecondsLeft(110), 10);
}

TEST(EtaTest, StartsAnewAfterAResume) {
  EtaEstimator eta;
  absl::Time now = absl::FromUnixSeconds(1000);
  for (int step = 1; step <= 10; ++step) eta.Observe(step, now += absl::Seconds(1));
  eta.Observe(6, now += absl::Seconds(3600));
  EXPECT_LT(eta.SecondsLeft(100), 0);
  eta.Observe(7, now += absl::Seconds(2));
  EXPECT_DOUBLE_EQ(eta.SecondsLeft(17), 20);
}

}  // namespace
}  // namespace lorad::client::cli
