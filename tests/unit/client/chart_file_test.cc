// Charts of loractl as pictures, and the program that draws them.
#include <stdlib.h>

#include <filesystem>
#include <limits>
#include <string>
#include <utility>

#include "client/cli/chart.h"
#include "client/cli/subprocess.h"
#include "engine/io/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace lorad::client::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr auto kPoints = Series::Style::kPoints;
constexpr auto kBars = Series::Style::kBars;

Chart SomeChart() {
  return {.title = "loss of compute",
          .x_label = "FLOPs",
          .y_label = "nats",
          .log_x = true,
          .series = {{.name = "measured", .points = {{1e3, 3}, {1e6, 2}}, .style = kPoints},
                     {.name = "fitted", .points = {{1e3, 3}, {1e4, kNan}, {1e6, 2}}}}};
}

Chart SomeBars() {
  return {.title = "memory",
          .x_label = "",
          .y_label = "bytes",
          .series = {{.name = "plan",
                      .points = {{0, 4e9}, {0, 0}, {0, kNan}},
                      .style = kBars,
                      .labels = {"weights", "none", "unknown"}}}};
}

// Whether an XML parser of its own takes the file.
bool IsXml(const std::string& file) {
  const auto result = RunProgram(
      {"python3", "-c", "import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])", file},
      "");
  return result.ok() && result->failure.empty();
}

// PATH as given while it lives.
class ScopedPath {
 public:
  explicit ScopedPath(const std::string& path) : before_(getenv("PATH")) {
    setenv("PATH", path.c_str(), 1);
  }
  ~ScopedPath() { setenv("PATH", before_.c_str(), 1); }

 private:
  std::string before_;
};

class ChartFileTest : public testing::Test {
 protected:
  // The file that WriteChart made of it.
  std::string Written(const Chart& chart, const std::string& name) {
    const absl::Status status = WriteChart(chart, dir_.File(name));
    EXPECT_THAT(status, IsOk());
    return status.ok() ? ReadFile(dir_.File(name)).value() : "";
  }
  // A program named gnuplot that does `commands`, in the only folder that is searched.
  std::string FakeGnuplot(const std::string& commands) {
    const std::string path = dir_.Write("gnuplot", "#!/bin/sh\n" + commands + "\n");
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    return dir_.path();
  }

  TempDir dir_;
};

TEST_F(ChartFileTest, APngIsOne) {
  for (const Chart& chart : {SomeChart(), SomeBars()}) {
    const std::string png = Written(chart, "chart.png");
    EXPECT_THAT(png, StartsWith("\x89PNG\r\n\x1a\n"));
    EXPECT_THAT(png, HasSubstr("IEND"));
  }
}

TEST_F(ChartFileTest, AnSvgHoldsTheWordsAndTheTicks) {
  const std::string svg = Written(SomeChart(), "chart.SVG");
  EXPECT_TRUE(IsXml(dir_.File("chart.SVG")));
  for (const char* word : {"loss of compute", "FLOPs", "nats", "measured", "fitted", "10k", "1M"}) {
    EXPECT_THAT(svg, HasSubstr(word));
  }
  const std::string bars = Written(SomeBars(), "bars.svg");
  EXPECT_TRUE(IsXml(dir_.File("bars.svg")));
  for (const char* word : {"memory", "bytes", "weights  4G", "none  0"})
    EXPECT_THAT(bars, HasSubstr(word));
  EXPECT_THAT(bars, Not(HasSubstr("unknown")));
}

TEST_F(ChartFileTest, ThePictureFollowsTheValues) {
  Chart chart = SomeChart();
  const std::string before = Written(chart, "a.svg");
  EXPECT_EQ(Written(chart, "b.svg"), before);
  chart.series[0].points[1].second = 2.5;
  EXPECT_NE(Written(chart, "c.svg"), before);
}

TEST_F(ChartFileTest, NoCharacterIsACommand) {
  const std::string file = dir_.File("made");
  const std::string nasty =
      "it's <b> & \"q\" `touch " + file + "` \\n _x^2 @m #c {/Bold b}\n!touch " + file + "\n\\";
  Chart chart = SomeChart();
  Chart bars = SomeBars();
  chart.title = chart.x_label = chart.y_label = chart.series[0].name = nasty;
  bars.title = bars.y_label = bars.series[0].name = bars.series[0].labels[0] = nasty;
  for (const Chart& each : {chart, bars}) {
    const std::string svg = Written(each, "chart.svg");
    EXPECT_TRUE(IsXml(dir_.File("chart.svg")));
    EXPECT_THAT(svg, HasSubstr("it's &lt;b"));
    EXPECT_THAT(svg, HasSubstr("\\n _x^2 @m #c {/Bold b}?!touch"));
    EXPECT_FALSE(PathExists(file));
  }
}

TEST_F(ChartFileTest, WordsMayBeOfAnyScriptOrNoUtf8) {
  Chart chart = SomeChart();
  chart.title = "größe \xFF ütf";
  EXPECT_THAT(Written(chart, "chart.svg"), HasSubstr("größe \uFFFD ütf"));
  EXPECT_TRUE(IsXml(dir_.File("chart.svg")));
}

TEST_F(ChartFileTest, ChartsWithLittleInThemAreDrawn) {
  Chart chart = SomeChart();
  chart.series[0].points.clear();
  chart.series[1].points = {{5, 5}};
  EXPECT_THAT(Written(chart, "one.svg"), HasSubstr("measured"));
  chart.series[1].points = {{kNan, 5}};
  EXPECT_THAT(Written(chart, "none.svg"), HasSubstr("fitted"));
  chart.series.clear();
  EXPECT_THAT(Written(chart, "empty.svg"), HasSubstr("loss of compute"));
  EXPECT_THAT(
      Written(
          {.title = "", .x_label = "", .y_label = "", .series = {{.name = "b", .style = kBars}}},
          "b.png"),
      StartsWith("\x89PNG"));
}

TEST_F(ChartFileTest, RefusesOtherEndingsAndChartsThatAreWrong) {
  for (const char* name : {"chart", "chart.pdf", "png", "chart.png.txt"}) {
    EXPECT_THAT(WriteChart(SomeChart(), dir_.File(name)),
                StatusIs(absl::StatusCode::kInvalidArgument, ".png or .svg"));
    EXPECT_FALSE(PathExists(dir_.File(name)));
  }
  Chart chart = SomeChart();
  chart.series[0].points[0].first = -1;
  EXPECT_THAT(WriteChart(chart, dir_.File("chart.png")),
              StatusIs(absl::StatusCode::kInvalidArgument, "series \"measured\", point 0: x = -1"));
  EXPECT_THAT(WriteChart(SomeChart(), dir_.File("missing/chart.png")),
              StatusIs(absl::StatusCode::kNotFound, "missing"));
}

TEST_F(ChartFileTest, WithoutGnuplotThePackageIsNamed) {
  const ScopedPath path(dir_.path());
  EXPECT_THAT(WriteChart(SomeChart(), dir_.File("chart.png")),
              StatusIs(absl::StatusCode::kFailedPrecondition, "apt-get install gnuplot-nox"));
}

TEST_F(ChartFileTest, AGnuplotThatFailsIsHeardAndLeavesTheFileAsItWas) {
  const std::string file = dir_.Write("chart.png", "before");
  {
    const ScopedPath path(FakeGnuplot("echo 'line 3: no such terminal' >&2; exit 3"));
    EXPECT_THAT(WriteChart(SomeChart(), file),
                StatusIs(absl::StatusCode::kInternal,
                         "gnuplot failed (exit code 3): line 3: no such terminal"));
  }
  {
    const ScopedPath path(FakeGnuplot("kill -9 $$"));
    EXPECT_THAT(WriteChart(SomeChart(), file), StatusIs(absl::StatusCode::kInternal, "(signal 9)"));
  }
  {
    const ScopedPath path(FakeGnuplot("echo hello"));
    EXPECT_THAT(WriteChart(SomeChart(), file),
                StatusIs(absl::StatusCode::kInternal, "6 bytes that are no png"));
  }
  EXPECT_EQ(ReadFile(file).value(), "before");
}

TEST(SubprocessTest, PassesAnyAmountBothWays) {
  const std::string input(3'000'000, 'x');
  const auto result = RunProgram({"tee", "/dev/stderr"}, input);
  ASSERT_THAT(result, IsOk());
  EXPECT_TRUE(result->out == input);
  EXPECT_TRUE(result->err == input);
  EXPECT_EQ(result->failure, "");
}

TEST(SubprocessTest, ArgumentsAreNotReadByAShell) {
  const auto result = RunProgram({"printf", "%s", "$HOME `id` 'a' *"}, "");
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->out, "$HOME `id` 'a' *");
  EXPECT_THAT(RunProgram({"no-such-program-here"}, ""),
              StatusIs(absl::StatusCode::kNotFound, "no-such-program-here"));
}

}  // namespace
}  // namespace lorad::client::cli
