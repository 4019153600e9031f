// Charts of loractl in the terminal, and what a chart may hold.
#include "client/cli/chart.h"

#include <cmath>
#include <limits>
#include <sstream>
#include <string>

#include "client/cli/chart_axis.h"
#include "client/cli/chart_text.h"
#include "engine/io/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace lorad::client::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr auto kPoints = Series::Style::kPoints;
constexpr auto kBars = Series::Style::kBars;

std::string Drawn(const Chart& chart, int width = 40, int height = 12, bool color = false) {
  std::ostringstream out;
  DrawChart(chart, width, height, color, out);
  return out.str();
}

Chart ChartOf(std::vector<Series> series) {
  return {.title = "", .x_label = "", .y_label = "", .series = std::move(series)};
}

std::vector<std::string> Labels(const Axis& axis) {
  std::vector<std::string> labels;
  for (const Tick& tick : axis.ticks) labels.push_back(tick.label);
  return labels;
}

TEST(ChartAxisTest, LinearTicksAreRoundNumbersAroundTheValues) {
  const Axis axis = MakeAxis({37, 963}, /*log=*/false, 6);
  EXPECT_EQ(axis.low, 0);
  EXPECT_EQ(axis.high, 1000);
  EXPECT_THAT(Labels(axis), ElementsAre("0", "200", "400", "600", "800", "1k"));
  EXPECT_DOUBLE_EQ(axis.Place(250), 0.25);
  EXPECT_THAT(Labels(MakeAxis({-0.3, 0.3}, false, 4)),
              ElementsAre("-0.4", "-0.2", "0", "0.2", "0.4"));
}

TEST(ChartAxisTest, ValuesOnTicksAddNoStep) {
  const Axis axis = MakeAxis({0.1, 0.3}, /*log=*/false, 3);
  EXPECT_THAT(Labels(axis), ElementsAre("0.1", "0.2", "0.3"));
}

TEST(ChartAxisTest, LabelsTellNeighboursApart) {
  EXPECT_THAT(Labels(MakeAxis({1e9, 1.002e9}, false, 3)), ElementsAre("1G", "1.001G", "1.002G"));
  EXPECT_THAT(Labels(MakeAxis({1e-6, 3e-6}, false, 3)), ElementsAre("1e-6", "2e-6", "3e-6"));
}

TEST(ChartAxisTest, LogTicksAreDecadesOrTheirParts) {
  const Axis wide = MakeAxis({1e3, 1e12}, /*log=*/true, 5);
  EXPECT_THAT(Labels(wide), ElementsAre("10k", "1M", "100M", "10G", "1T"));
  EXPECT_DOUBLE_EQ(wide.Place(1e6), 1.0 / 3);
  EXPECT_THAT(Labels(MakeAxis({1, 9}, true, 5)), ElementsAre("1", "2", "5", "10"));
  EXPECT_THAT(Labels(MakeAxis({1e15, 1e17}, true, 5)), ElementsAre("1e15", "1e16", "1e17"));
}

TEST(ChartAxisTest, OneValueLiesInTheMiddle) {
  for (const double value : {0.0, 5.0, -3e20, 1e-30}) {
    const Axis axis = MakeAxis({value}, /*log=*/false, 5);
    EXPECT_LT(axis.low, value);
    EXPECT_GT(axis.high, value);
    EXPECT_NEAR(axis.Place(value), 0.5, 0.2) << value;
  }
  EXPECT_NEAR(MakeAxis({1e6}, /*log=*/true, 5).Place(1e6), 0.5, 0.2);
}

TEST(ChartAxisTest, EveryAxisHoldsItsValuesAndAFewTicks) {
  const double extremes[] = {-kMaxChartValue, -1, -1e-300, 0, 1e-300, 1e-5, 1, 1 + 1e-8,
                             kMaxChartValue};
  for (const double a : extremes) {
    for (const double b : extremes) {
      for (const int ticks : {2, 3, 5, 9}) {
        const Axis axis = MakeAxis({a, b}, /*log=*/false, ticks);
        EXPECT_LT(axis.low, axis.high);
        EXPECT_GE(axis.Place(std::min(a, b)), -1e-4) << a << " " << b;
        EXPECT_LE(axis.Place(std::max(a, b)), 1 + 1e-4) << a << " " << b;
        EXPECT_GE(axis.ticks.size(), 2u);
        EXPECT_LE(axis.ticks.size(), ticks + 2u) << a << " " << b;
      }
    }
  }
}

TEST(ChartAxisTest, NumbersHaveSuffixes) {
  EXPECT_EQ(FormatShort(0), "0");
  EXPECT_EQ(FormatShort(999.9), "1k");
  EXPECT_EQ(FormatShort(1234), "1.23k");
  EXPECT_EQ(FormatShort(7.5e9), "7.5G");
  EXPECT_EQ(FormatShort(-0.0123456), "-0.0123");
  EXPECT_EQ(FormatShort(1.5e21), "1.5e21");
  EXPECT_EQ(FormatShort(2e-5), "2e-5");
}

TEST(ChartTest, PointsLieWhereTheirValuesSay) {
  Chart chart =
      ChartOf({{.name = "run", .points = {{0, 0}, {50, 50}, {100, 100}}, .style = kPoints}});
  chart.title = "title";
  chart.x_label = "steps";
  chart.y_label = "loss";
  EXPECT_EQ(Drawn(chart, 40, 13),
            "                    title\n"
            "loss\n"
            "100 +                                  o\n"
            "    |\n"
            "    |\n"
            " 50 +                 o\n"
            "    |\n"
            "    |\n"
            "  0 +o\n"
            "    ++----------------+----------------+\n"
            "     0               50              100\n"
            "                    steps\n"
            "  o run\n");
}

TEST(ChartTest, ALineHasNoHolesAndAGapWhereAValueIsMissing) {
  const Chart whole = ChartOf({{.name = "", .points = {{0, 0}, {10, 10}}}});
  EXPECT_EQ(Drawn(whole, 30, 8),
            "10 +                      ....\n"
            "   |                ......\n"
            " 5 +          ......\n"
            "   |    ......\n"
            " 0 +....\n"
            "   ++------------------------+\n"
            "    0                       10\n");
  const Chart gap =
      ChartOf({{.name = "", .points = {{0, 1}, {2, 1}, {5, kNan}, {8, 1}, {kInf, 1}, {10, 1}}}});
  EXPECT_THAT(Drawn(gap, 30, 8), HasSubstr("+......             .    .\n"));
}

TEST(ChartTest, SeriesBearTheirMarks) {
  const Chart chart = ChartOf({{.name = "measured", .points = {{0, 1}}, .style = kPoints},
                               {.name = "fitted", .points = {{1, 2}}}});
  const std::string text = Drawn(chart);
  EXPECT_THAT(text, HasSubstr("  o measured  : fitted\n"));
  EXPECT_THAT(text, HasSubstr("+o\n"));
  EXPECT_THAT(text, HasSubstr(":\n"));
}

TEST(ChartTest, APointIsNotHiddenByALine) {
  const Chart chart = ChartOf({{.name = "", .points = {{0, 0}, {2, 2}}, .style = kPoints},
                               {.name = "", .points = {{0, 0}, {2, 2}}}});
  EXPECT_THAT(Drawn(chart), HasSubstr("+o:"));
}

TEST(ChartTest, BarsAreAsLongAsTheirValues) {
  Chart chart = ChartOf({{.name = "plan",
                          .points = {{0, 4e9}, {1, 2e9}, {2, 1}, {3, 0}, {4, kNan}},
                          .style = kBars,
                          .labels = {"weights", "activations", "tiny", "none", "unknown"}}});
  chart.title = "memory";
  chart.y_label = "bytes";
  EXPECT_EQ(Drawn(chart),
            "                 memory\n"
            "weights     ################## 4G\n"
            "activations ######### 2G\n"
            "tiny        # 1\n"
            "none        0\n"
            "                  bytes\n");
}

TEST(ChartTest, BarsOfSeveralSeriesStandUnderTheirNames) {
  const Chart chart = ChartOf({{.name = "a", .points = {{0, 1}}, .style = kBars, .labels = {"x"}},
                               {.name = "b", .points = {{0, 2}}, .style = kBars}});
  EXPECT_EQ(Drawn(chart, 30),
            "a\n"
            "x ######### 1\n"
            "b\n"
            "  ################## 2\n");
}

TEST(ChartTest, TheTerminalGetsColoursBraillesAndBlocks) {
  const Chart line = ChartOf({{.name = "loss", .points = {{0, 0}, {10, 10}}}});
  const std::string text = Drawn(line, 30, 8, /*color=*/true);
  EXPECT_THAT(text, HasSubstr(" 0 ┤\x1b[36m⣀"));
  EXPECT_THAT(text, HasSubstr("   └┬"));
  EXPECT_THAT(text, HasSubstr("\x1b[36m─\x1b[0m loss"));
  const Chart bars = ChartOf({{.name = "", .points = {{0, 10}, {0, 4}}, .style = kBars}});
  EXPECT_THAT(Drawn(bars, 31, 8, true), HasSubstr("\x1b[36m████████\x1b[0m 4\n"));
}

TEST(ChartTest, OffTheTerminalAllIsAsciiAndNothingIsCoded) {
  Chart chart = ChartOf({{.name = "points", .points = {{1, 1}, {1e9, 8}}, .style = kPoints},
                         {.name = "line", .points = {{1, 1}, {1e9, 8}}}});
  chart.log_x = true;
  chart.log_y = true;
  for (const char c : Drawn(chart, 80, 24)) EXPECT_TRUE(c == '\n' || (c >= 0x20 && c < 0x7F));
}

TEST(ChartTest, NoLineIsWiderThanAsked) {
  const std::string words(300, 'w');
  Chart chart =
      ChartOf({{.name = words, .points = {{-1e-5, 1e99}, {12345, -1e99}}}, {.name = "é" + words}});
  chart.title = chart.x_label = chart.y_label = words;
  Chart bars = ChartOf({{.name = words,
                         .points = {{0, 9.99e99}, {0, 1.11e-300}},
                         .style = kBars,
                         .labels = {words, "b"}},
                        {.name = words, .style = kBars}});
  bars.title = bars.y_label = words;
  for (const Chart& each : {chart, bars}) {
    for (const int width : {-5, 30, 31, 57, 80, 399, 100'000}) {
      std::istringstream lines(Drawn(each, width, width));
      for (std::string line; std::getline(lines, line);) {
        EXPECT_LE(Columns(line), std::clamp(width, 30, 400)) << line;
      }
    }
  }
}

TEST(ChartTest, NoPointsAreSaidSo) {
  EXPECT_EQ(Drawn(ChartOf({})), "no points to draw\n");
  EXPECT_EQ(Drawn(ChartOf({{.name = "a"}, {.name = "b", .points = {{kNan, 1}, {1, kInf}}}})),
            "no points to draw\n");
  EXPECT_EQ(Drawn(ChartOf({{.name = "a", .points = {{0, kNan}}, .style = kBars}})),
            "no points to draw\n");
}

TEST(ChartTest, TextCannotDriveTheTerminal) {
  Chart chart = ChartOf({{.name = "a\x1b[2J\n", .points = {{0, 0}}}});
  chart.title = "\xFF\t";
  const std::string text = Drawn(chart);
  EXPECT_THAT(text, HasSubstr("a?[2J?"));
  EXPECT_THAT(text, HasSubstr("\uFFFD?"));
  EXPECT_THAT(text, Not(HasSubstr("\x1b")));
  EXPECT_EQ(FirstInvalidUtf8(text), text.size());
}

TEST(ChartTest, CutTextEndsAtACharacter) {
  EXPECT_EQ(Shortened("ééééé", 4), "éé..");
  EXPECT_EQ(Shortened("éééé", 4), "éééé");
}

TEST(CheckChartTest, RefusesWhatHasNoPlace) {
  Chart chart = ChartOf({{.name = "loss", .points = {{1, 1}, {2, 0}}}});
  EXPECT_THAT(CheckChart(chart), IsOk());
  chart.log_y = true;
  EXPECT_THAT(CheckChart(chart),
              StatusIs(absl::StatusCode::kInvalidArgument, "series \"loss\", point 1: y = 0"));
  EXPECT_THAT(Drawn(chart), HasSubstr("no chart: series \"loss\", point 1: y = 0"));
  chart.log_y = false;
  chart.series[0].points[0] = {-1e101, 0};
  EXPECT_THAT(CheckChart(chart),
              StatusIs(absl::StatusCode::kInvalidArgument, "point 0: x = -1e+101 is beyond"));
  chart.series[0].points[0] = {kNan, kInf};
  EXPECT_THAT(CheckChart(chart), IsOk());
}

TEST(CheckChartTest, RefusesBarsThatCannotBeDrawn) {
  Chart chart =
      ChartOf({{.name = "plan", .points = {{0, 1}, {0, 2}}, .style = kBars, .labels = {"a"}}});
  EXPECT_THAT(CheckChart(chart),
              StatusIs(absl::StatusCode::kInvalidArgument, "1 labels for 2 bars"));
  chart.series[0].labels.clear();
  EXPECT_THAT(CheckChart(chart), IsOk());
  chart.log_y = true;
  EXPECT_THAT(CheckChart(chart), StatusIs(absl::StatusCode::kInvalidArgument, "bars begin at 0"));
  chart.log_y = false;
  chart.series[0].points[1].second = -2;
  EXPECT_THAT(CheckChart(chart),
              StatusIs(absl::StatusCode::kInvalidArgument, "point 1: the bar's length -2"));
  chart.series[0].points[1].second = 2;
  chart.series.push_back({.name = "line", .points = {{0, 1}}});
  EXPECT_THAT(CheckChart(chart), StatusIs(absl::StatusCode::kInvalidArgument,
                                          "\"line\" has points or a line beside bars"));
}

}  // namespace
}  // namespace lorad::client::cli
