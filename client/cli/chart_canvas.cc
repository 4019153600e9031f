#include "client/cli/chart_canvas.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "engine/io/utf8.h"

namespace lorad::client::cli {
namespace {

constexpr int kDotColumns = 2;  // of a braille character
constexpr int kDotRows = 4;
// The bit of the dot in row y, column x (Unicode 15, section 21.1).
constexpr uint8_t kDotBits[kDotRows][kDotColumns] = {
    {0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
constexpr char32_t kBraille = 0x2800;

constexpr std::array<int, 6> kColors = {36, 33, 32, 35, 34, 31};  // of ANSI: cyan, yellow, ...
constexpr std::string_view kPointMarks = "ox+*#@";
constexpr std::string_view kLineMarks = ".:-=~^";

int Scaled(double share, int size) {
  return static_cast<int>(std::lround(std::clamp(share, 0.0, 1.0) * (size - 1)));
}

}  // namespace

std::string InSeriesColor(size_t series, const std::string& text, bool color) {
  if (!color) return text;
  return absl::StrCat("\x1b[", kColors[series % kColors.size()], "m", text, "\x1b[0m");
}

char PointMark(size_t series) { return kPointMarks[series % kPointMarks.size()]; }
char LineMark(size_t series) { return kLineMarks[series % kLineMarks.size()]; }

Canvas::Canvas(int columns, int rows, bool color)
    : columns_(columns), rows_(rows), color_(color), cells_(static_cast<size_t>(columns) * rows) {}

void Canvas::Point(std::pair<double, double> place, size_t series) {
  Cell& cell = At(Scaled(place.first, columns_), rows_ - 1 - Scaled(place.second, rows_));
  cell = {.mark = PointMark(series), .point = true, .series = series};
}

// Steps along the longer side, so that no dot is missing between two.
void Canvas::Line(std::pair<double, double> from, std::pair<double, double> to, size_t series) {
  const int width = columns_ * (color_ ? kDotColumns : 1);
  const int height = rows_ * (color_ ? kDotRows : 1);
  const int x0 = Scaled(from.first, width), x1 = Scaled(to.first, width);
  const int y0 = Scaled(from.second, height), y1 = Scaled(to.second, height);
  const int steps = std::max({std::abs(x1 - x0), std::abs(y1 - y0), 1});
  for (int i = 0; i <= steps; ++i) {
    const double share = static_cast<double>(i) / steps;
    Dot(static_cast<int>(std::lround(x0 + share * (x1 - x0))),
        height - 1 - static_cast<int>(std::lround(y0 + share * (y1 - y0))), series);
  }
}

void Canvas::Dot(int x, int y, size_t series) {
  Cell& cell = color_ ? At(x / kDotColumns, y / kDotRows) : At(x, y);
  if (cell.point) return;
  cell.series = series;
  if (color_) cell.dots |= kDotBits[y % kDotRows][x % kDotColumns];
  if (!color_) cell.mark = LineMark(series);
}

std::string Canvas::Text(const Cell& cell) {
  if (cell.mark != 0) return std::string(1, cell.mark);
  if (cell.dots == 0) return " ";
  std::string text;
  AppendUtf8(kBraille + cell.dots, &text);
  return text;
}

std::string Canvas::Row(int row) const {
  const auto empty = [](const Cell& cell) { return cell.mark == 0 && cell.dots == 0; };
  auto cell = cells_.begin() + static_cast<std::ptrdiff_t>(row) * columns_;
  auto end = cell + columns_;
  while (end != cell && empty(*(end - 1))) --end;
  std::string text;
  while (cell != end) {
    if (empty(*cell)) {
      text += Text(*cell++);
      continue;
    }
    // Neighbours of one series share their colour's codes.
    const size_t series = cell->series;
    std::string run;
    while (cell != end && !empty(*cell) && cell->series == series) run += Text(*cell++);
    text += InSeriesColor(series, run, color_);
  }
  return text;
}

}  // namespace lorad::client::cli
