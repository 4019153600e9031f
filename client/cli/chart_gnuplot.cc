// WriteChart: a chart as a picture, drawn by gnuplot 5.4 or newer (http://www.gnuplot.info).
#include <array>
#include <cmath>
#include <optional>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "client/cli/chart.h"
#include "client/cli/chart_axis.h"
#include "client/cli/chart_text.h"
#include "client/cli/subprocess.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"

namespace lorad::client::cli {
namespace {

struct Format {
  const char* ending;
  const char* terminal;   // gnuplot's name for it, and its font
  const char* signature;  // how such a file begins
};
constexpr std::array<Format, 2> kFormats = {
    Format{".png", "pngcairo font 'sans-serif,11'", "\x89PNG\r\n\x1a\n"},
    Format{".svg", "svg font 'sans-serif,14' background 'white'", "<?xml"}};

constexpr int kWidth = 960, kHeight = 600;  // pixels
constexpr int kBarHeight = 26;              // of one bar, and what is around it
constexpr int kAroundBars = 130;            // title, axis, legend
constexpr int kMaxHeight = 8'000;
constexpr int kTicks = 8;
constexpr size_t kMaxShownError = 500;  // bytes of gnuplot's words
constexpr const char* kMissing = "NaN";

// Of Okabe and Ito, "Color Universal Design" (2008): told apart by the colour-blind.
constexpr std::array<const char*, 7> kColors = {"#0072B2", "#E69F00", "#009E73", "#CC79A7",
                                                "#56B4E9", "#D55E00", "#000000"};

absl::StatusOr<Format> FormatOf(const std::string& file) {
  for (const Format& format : kFormats) {
    if (absl::EndsWithIgnoreCase(file, format.ending)) return format;
  }
  return absl::InvalidArgumentError(
      absl::StrCat(file, ": a chart's file ends in .png or .svg, which says what it becomes"));
}

// Between single quotes gnuplot takes every character as it is; two of them stand for one.
std::string Quoted(const std::string& text) {
  return absl::StrCat("'", absl::StrReplaceAll(ChartText(text), {{"'", "''"}}), "'");
}

std::string Number(double value) {
  return std::isfinite(value) ? absl::StrFormat("%.17g", value) : kMissing;
}

std::string Color(size_t series) {
  return absl::StrCat("lc rgb '", kColors[series % kColors.size()], "'");
}

// "set xrange", "set xtics" and so on of the axis `letter`.
std::string AxisCommands(const std::string& letter, const Axis& axis) {
  const std::string ticks = absl::StrJoin(axis.ticks, ", ", [](std::string* out, const Tick& tick) {
    absl::StrAppend(out, Quoted(tick.label), " ", Number(tick.value));
  });
  return absl::StrCat("set ", letter, "range [", Number(axis.low), ":", Number(axis.high), "]\n",
                      axis.log ? absl::StrCat("set logscale ", letter, "\n") : "", "set ", letter,
                      "tics (", ticks, ")\n");
}

std::string TitleOf(const Series& series) {
  return series.name.empty() ? "notitle" : absl::StrCat("title ", Quoted(series.name));
}

std::string Head(const Chart& chart, const Format& format, int height) {
  return absl::StrCat("set encoding utf8\nset terminal ", format.terminal, " noenhanced size ",
                      kWidth, ",", height, "\nset title ", Quoted(chart.title),
                      "\nset grid lt 1 lc rgb '#E4E4E4'\nset tics nomirror out\n",
                      "set key below left Left reverse samplen 2\n");
}

// A block of data named $d<index>, and what plots it as `plot`. Without a finite point, which
// gnuplot would take for an error, the series has its place in the legend alone.
struct Plotted {
  std::string data = {};
  std::string plot = {};
};

Plotted PlotSeries(const Series& series, size_t index) {
  std::string rows;
  bool any = false;
  for (const auto& point : series.points) {
    const bool finite = IsFinite(point);
    any = any || finite;
    // An empty row interrupts a line.
    if (finite) absl::StrAppend(&rows, Number(point.first), " ", Number(point.second));
    rows += '\n';
  }
  // The dot that a line's points get is no wider than the line: it shows where the line has no
  // length.
  const std::string kind = series.style == Series::Style::kLine
                               ? "with linespoints lw 2 pt 7 ps 0.1 "
                               : absl::StrCat("with points ps 1 pt ", index % 6 * 2 + 5, " ");
  const std::string style = absl::StrCat(kind, Color(index), " ", TitleOf(series));
  if (!any) return {.plot = absl::StrCat(kMissing, " ", style)};
  return {.data = absl::StrCat("$d", index, " << END\n", rows, "END\n"),
          .plot = absl::StrCat("$d", index, " ", style)};
}

std::string Script(const std::string& head, const std::vector<Plotted>& plots) {
  std::string script = head;
  for (const Plotted& plotted : plots) script += plotted.data;
  return absl::StrCat(
      script, "plot ",
      absl::StrJoin(plots, ", ", [](std::string* out, const Plotted& p) { *out += p.plot; }), "\n");
}

std::string FieldScript(const Chart& chart, const Format& format) {
  const Axes axes = MakeAxes(chart, kTicks, kTicks).value_or(Axes{});
  std::vector<Plotted> plots;
  for (size_t i = 0; i < chart.series.size(); ++i) plots.push_back(PlotSeries(chart.series[i], i));
  if (plots.empty()) plots.push_back({.plot = absl::StrCat(kMissing, " notitle")});
  return Script(absl::StrCat(Head(chart, format, kHeight), "set xlabel ", Quoted(chart.x_label),
                             "\nset ylabel ", Quoted(chart.y_label), "\n",
                             AxisCommands("x", axes.x), AxisCommands("y", axes.y)),
                plots);
}

// Bars lie one below the other, the first one on top: row r is at -r on the axis. Adds their labels
// to `rows`.
Plotted PlotBars(const Series& series, size_t index, Axis& rows) {
  std::string data;
  for (size_t i = 0; i < series.points.size(); ++i) {
    const double length = series.points[i].second;
    if (!std::isfinite(length)) continue;
    const double row = -static_cast<double>(rows.ticks.size());
    rows.ticks.push_back({row, absl::StrCat(BarLabel(series, i), "  ", FormatShort(length))});
    absl::StrAppend(&data, Number(length), " ", row, "\n");
  }
  const std::string end = absl::StrCat(Color(index), " ", TitleOf(series));
  if (data.empty()) return {.plot = absl::StrCat(kMissing, " with lines ", end)};
  return {.data = absl::StrCat("$d", index, " << END\n", data, "END\n"),
          .plot = absl::StrCat("$d", index,
                               " using ($1/2):2:(0):1:($2-0.38):($2+0.38) with boxxyerror ", end)};
}

std::string BarScript(const Chart& chart, const Format& format) {
  std::vector<Plotted> plots;
  Axis rows;
  for (size_t i = 0; i < chart.series.size(); ++i) {
    plots.push_back(PlotBars(chart.series[i], i, rows));
  }
  const int count = std::max(1, static_cast<int>(rows.ticks.size()));
  rows.low = -count + 0.4;
  rows.high = 0.6;
  const int height = std::min(kMaxHeight, kAroundBars + kBarHeight * count);
  return Script(absl::StrCat(Head(chart, format, height), "set xlabel ", Quoted(chart.y_label),
                             "\nset style fill solid 0.85 noborder\n",
                             AxisCommands("x", MakeBarAxis(chart, kTicks).value_or(Axis{})),
                             AxisCommands("y", rows), "set grid noytics\nset ytics scale 0\n"),
                plots);
}

absl::StatusOr<std::string> RunGnuplot(const std::string& script, const Format& format) {
  // Without the settings of the system and the user, which could change the picture.
  const auto result = RunProgram({"gnuplot", "--default-settings"}, script);
  if (absl::IsNotFound(result.status())) {
    return absl::FailedPreconditionError(
        "gnuplot, which draws charts into files, is not installed: install the package "
        "gnuplot-nox (apt-get install gnuplot-nox), or leave --plot out for a chart in the "
        "terminal");
  }
  RETURN_IF_ERROR(result.status());
  const std::string words(absl::StripAsciiWhitespace(result->err.substr(0, kMaxShownError)));
  if (!result->failure.empty()) {
    return absl::InternalError(
        absl::StrCat("gnuplot failed (", result->failure, "): ", ChartText(words)));
  }
  if (!absl::StartsWith(result->out, format.signature)) {
    return absl::InternalError(absl::StrCat("gnuplot wrote ", result->out.size(),
                                            " bytes that are no ", format.ending + 1, ": ",
                                            ChartText(words)));
  }
  return result->out;
}

}  // namespace

absl::Status WriteChart(const Chart& chart, const std::string& file) {
  ASSIGN_OR_RETURN(const Format format, FormatOf(file));
  RETURN_IF_ERROR(CheckChart(chart));
  const std::string script = HasBars(chart) ? BarScript(chart, format) : FieldScript(chart, format);
  ASSIGN_OR_RETURN(const std::string picture, RunGnuplot(script, format));
  return WriteFileAtomically(file, picture);
}

}  // namespace lorad::client::cli
