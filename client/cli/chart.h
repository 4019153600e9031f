// Charts: in the terminal as text, in a file as a picture.
#ifndef LORAD_CLIENT_CLI_CHART_H_
#define LORAD_CLIENT_CLI_CHART_H_

#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace lorad::client::cli {

struct Series {
  enum class Style { kPoints, kLine, kBars };

  std::string name;  // in the legend; none is shown for an empty name
  // (x, y). Of a bar, y is its length and x is not used. A point with a NaN or an infinity is left
  // out, and a line has a gap there. A series may be empty.
  std::vector<std::pair<double, double>> points = {};
  Style style = Style::kLine;
  std::vector<std::string> labels = {};  // of bars: one for each, or none at all
};

// Bars lie: their lengths go along the lower axis, which bears `y_label`; `x_label` is not shown.
// Text may be anything: control characters show as "?", bytes that are not UTF-8 as U+FFFD.
struct Chart {
  std::string title;
  std::string x_label;
  std::string y_label;
  bool log_x = false;
  bool log_y = false;
  std::vector<Series> series;
};

// kInvalidArgument, naming the series, the point and the bound, for: a finite value beyond
// +-kMaxChartValue; on a logarithmic axis a finite value below 1 / kMaxChartValue; bars that are
// negative, have a logarithmic axis, share the chart with points or lines, or have labels that are
// not one for each.
absl::Status CheckChart(const Chart& chart);
inline constexpr double kMaxChartValue = 1e100;

// Writes the chart in lines of at most `width` columns (cut to 30..400). Points and lines fill
// `height` lines (cut to 8..200), with the title, axes and legend; bars take a line each, whatever
// the height. `color`: the terminal's colours, block and braille characters; without, ASCII alone
// but for the chart's own text, fit for a pipe or a log. A chart that CheckChart refuses becomes
// the line "no chart: REASON", one without a finite point its title and "no points to draw".
void DrawChart(const Chart& chart, int width, int height, bool color, std::ostream& out);

// Draws the chart into `file`, a .png or .svg, with gnuplot (the package gnuplot-nox). The file is
// replaced in one step, and only by a whole picture. kInvalidArgument for what CheckChart refuses
// and other endings, kFailedPrecondition without gnuplot, kInternal with gnuplot's own words if it
// fails; else errors of writing. Thread-safe.
absl::Status WriteChart(const Chart& chart, const std::string& file);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_CHART_H_
