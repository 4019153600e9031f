// DrawChart: a chart as lines of text.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "client/cli/chart.h"
#include "client/cli/chart_axis.h"
#include "client/cli/chart_canvas.h"
#include "client/cli/chart_text.h"
#include "engine/io/utf8.h"

namespace lorad::client::cli {
namespace {

constexpr int kMinWidth = 30, kMaxWidth = 400;
constexpr int kMinHeight = 8, kMaxHeight = 200;
constexpr int kColumnsPerTick = 12;
constexpr int kRowsPerTick = 3;
constexpr int kMinField = 8;      // columns for the field beside the labels
constexpr int kValueColumns = 9;  // of a bar's length: "1.23e-300" at most

std::string Spaces(int count) { return std::string(std::max(0, count), ' '); }

// How the parts around the field look.
struct Frame {
  std::string side, side_tick, corner, floor, floor_tick;
};
const Frame& FrameOf(bool color) {
  static const Frame kAscii = {"|", "+", "+", "-", "+"};
  static const Frame kBox = {"│", "┤", "└", "─", "┬"};
  return color ? kBox : kAscii;
}

std::string Bold(const std::string& text, bool color) {
  return color && !text.empty() ? absl::StrCat("\x1b[1m", text, "\x1b[0m") : text;
}

// `text` in the middle of `width` columns after `left` ones; nothing for an empty text.
void WriteCentered(const std::string& text, int left, int width, bool bold, std::ostream& out) {
  if (text.empty()) return;
  const std::string shown = Shortened(ChartText(text), left + width);
  const int indent = std::min(left + (width - Columns(shown)) / 2, left + width - Columns(shown));
  out << Spaces(indent) << Bold(shown, bold) << '\n';
}

// "o measured  . fitted", as many in a line as it holds.
void WriteLegend(const Chart& chart, int width, bool color, std::ostream& out) {
  std::string line;
  int columns = 0;
  for (size_t i = 0; i < chart.series.size(); ++i) {
    if (chart.series[i].name.empty()) continue;
    const bool points = chart.series[i].style == Series::Style::kPoints;
    const std::string line_mark = color ? "─" : std::string(1, LineMark(i));
    const std::string mark = points ? std::string(1, PointMark(i)) : line_mark;
    const std::string name = Shortened(ChartText(chart.series[i].name), width - 4);
    const int needed = Columns(name) + 4;
    if (columns > 0 && columns + needed > width) {
      out << line << '\n';
      line.clear();
      columns = 0;
    }
    absl::StrAppend(&line, "  ", InSeriesColor(i, mark, color), " ", name);
    columns += needed;
  }
  if (!line.empty()) out << line << '\n';
}

void DrawSeries(const Series& series, size_t index, const Axes& axes, Canvas& canvas) {
  const auto place = [&](const std::pair<double, double>& point) {
    return std::pair(axes.x.Place(point.first), axes.y.Place(point.second));
  };
  const auto& points = series.points;
  for (size_t i = 0; i < points.size(); ++i) {
    if (!IsFinite(points[i])) continue;
    if (series.style == Series::Style::kPoints) {
      canvas.Point(place(points[i]), index);
    } else {
      // A point without a neighbour is a line of one dot.
      const bool joined = i > 0 && IsFinite(points[i - 1]);
      canvas.Line(place(points[joined ? i - 1 : i]), place(points[i]), index);
    }
  }
}

// The labels of the left axis, by row of the field.
std::vector<std::string> RowLabels(const Axis& axis, int rows) {
  std::vector<std::string> labels(rows);
  for (const Tick& tick : axis.ticks) {
    labels[rows - 1 - std::lround(axis.Place(tick.value) * (rows - 1))] = tick.label;
  }
  return labels;
}

// The lower axis of `columns` columns after `left` ones: its line, and the labels that do not run
// into each other.
void WriteLowerAxis(const Axis& axis, int left, int columns, const Frame& frame,
                    std::ostream& out) {
  std::vector<bool> marked(columns);
  std::string labels;
  for (const Tick& tick : axis.ticks) {
    const int column = static_cast<int>(std::lround(axis.Place(tick.value) * (columns - 1)));
    const int size = static_cast<int>(tick.label.size());
    const int free = static_cast<int>(labels.size()) + (labels.empty() ? 0 : 2);
    int begin = left + 1 + column - size / 2;
    begin = std::clamp(begin, 0, std::max(0, left + 1 + columns - size));
    if (begin < free) continue;
    marked[column] = true;
    labels += Spaces(begin - static_cast<int>(labels.size())) + tick.label;
  }
  out << Spaces(left) << frame.corner;
  for (const bool tick : marked) out << (tick ? frame.floor_tick : frame.floor);
  out << '\n' << labels << '\n';
}

void DrawField(const Chart& chart, const Axes& axes, int width, int rows, bool color,
               std::ostream& out) {
  const std::vector<std::string> labels = RowLabels(axes.y, rows);
  int left = 0;
  for (const std::string& label : labels) left = std::max(left, Columns(label) + 1);
  const int columns = std::max(kMinField, width - left - 1);
  Canvas canvas(columns, rows, color);
  for (size_t i = 0; i < chart.series.size(); ++i) DrawSeries(chart.series[i], i, axes, canvas);

  const Frame& frame = FrameOf(color);
  WriteCentered(chart.title, left + 1, columns, color, out);
  if (!chart.y_label.empty()) out << Shortened(ChartText(chart.y_label), width) << '\n';
  for (int row = 0; row < rows; ++row) {
    const std::string& label = labels[row];
    out << Spaces(left - 1 - Columns(label)) << label << ' '
        << (label.empty() ? frame.side : frame.side_tick) << canvas.Row(row) << '\n';
  }
  WriteLowerAxis(axes.x, left, columns, frame, out);
  WriteCentered(chart.x_label, left + 1, columns, /*bold=*/false, out);
  WriteLegend(chart, width, color, out);
}

// A bar of `share` of `columns` columns; any that is not of length 0 shows.
std::string Bar(double share, int columns, bool color) {
  constexpr int kEighths = 8;
  constexpr char32_t kFullBlock = 0x2588;  // the blocks of 7 to 1 eighths follow
  const int parts = color ? kEighths : 1;
  const int least = share > 0 ? 1 : 0;
  const int size = std::max(least, static_cast<int>(std::lround(share * columns * parts)));
  if (!color) return std::string(size, '#');
  std::string bar;
  for (int i = 0; i < size / kEighths; ++i) AppendUtf8(kFullBlock, &bar);
  if (size % kEighths > 0) AppendUtf8(kFullBlock + kEighths - size % kEighths, &bar);
  return bar;
}

int LabelColumns(const Chart& chart, int width) {
  int columns = 0;
  for (const Series& series : chart.series) {
    for (size_t i = 0; i < series.points.size(); ++i) {
      columns = std::max(columns, Columns(BarLabel(series, i)));
    }
  }
  return std::min(columns, (width - kValueColumns - 2) / 2);
}

void DrawBars(const Chart& chart, const Axis& axis, int width, bool color, std::ostream& out) {
  const int labels = LabelColumns(chart, width);
  const int columns = width - labels - kValueColumns - 2;
  WriteCentered(chart.title, 0, width, color, out);
  for (size_t s = 0; s < chart.series.size(); ++s) {
    const Series& series = chart.series[s];
    if (chart.series.size() > 1 && !series.name.empty()) {
      out << Bold(Shortened(ChartText(series.name), width), color) << '\n';
    }
    for (size_t i = 0; i < series.points.size(); ++i) {
      const double length = series.points[i].second;
      if (!std::isfinite(length)) continue;
      const std::string label = Shortened(BarLabel(series, i), std::max(labels, 2));
      const std::string bar = Bar(axis.Place(length), columns, color);
      out << label << Spaces(labels - Columns(label)) << (labels > 0 ? " " : "")
          << (bar.empty() ? "" : InSeriesColor(s, bar, color) + " ") << FormatShort(length) << '\n';
    }
  }
  WriteCentered(chart.y_label, labels + 1, columns, /*bold=*/false, out);
}

}  // namespace

void DrawChart(const Chart& chart, int width, int height, bool color, std::ostream& out) {
  width = std::clamp(width, kMinWidth, kMaxWidth);
  height = std::clamp(height, kMinHeight, kMaxHeight);
  if (const absl::Status status = CheckChart(chart); !status.ok()) {
    out << "no chart: " << ChartText(std::string(status.message())) << '\n';
    return;
  }
  const auto bar_axis = HasBars(chart) ? MakeBarAxis(chart, width / kColumnsPerTick) : std::nullopt;
  if (bar_axis) return DrawBars(chart, *bar_axis, width, color, out);

  const int around = 3 + !chart.title.empty() + !chart.y_label.empty() + !chart.x_label.empty();
  const int rows = std::max(3, height - around);
  const auto axes = MakeAxes(chart, width / kColumnsPerTick, std::max(3, rows / kRowsPerTick));
  if (axes && !HasBars(chart)) return DrawField(chart, *axes, width, rows, color, out);
  WriteCentered(chart.title, 0, width, color, out);
  out << "no points to draw\n";
}

}  // namespace lorad::client::cli
