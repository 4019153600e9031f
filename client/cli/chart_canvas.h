// The field of a chart in the terminal: cells of one character, each of 2 x 4 braille dots where
// the terminal shows them. Internal to the charts.
#ifndef LORAD_CLIENT_CLI_CHART_CANVAS_H_
#define LORAD_CLIENT_CLI_CHART_CANVAS_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace lorad::client::cli {

// `text` in the colour of series `series`.
std::string InSeriesColor(size_t series, const std::string& text, bool color);

// The characters of series `series` where it has points, and, in ASCII, where its line runs.
char PointMark(size_t series);
char LineMark(size_t series);

// What is drawn later covers what is there; a point's mark is not covered by a line.
class Canvas {
 public:
  // REQUIRES: both > 0. `color` as in DrawChart.
  Canvas(int columns, int rows, bool color);

  // Places are shares of the width and height, from the lower left; they are cut to [0, 1].
  void Point(std::pair<double, double> place, size_t series);
  void Line(std::pair<double, double> from, std::pair<double, double> to, size_t series);

  // Row 0 is the highest. Ends with the last cell drawn on.
  std::string Row(int row) const;

 private:
  struct Cell {
    uint8_t dots = 0;  // of a braille character
    char mark = 0;     // instead of dots; 0: none
    bool point = false;
    size_t series = 0;
  };

  Cell& At(int column, int row) { return cells_[static_cast<size_t>(row) * columns_ + column]; }
  static std::string Text(const Cell& cell);
  // A dot of the line, counted from the upper left in dots (braille) or cells.
  void Dot(int x, int y, size_t series);

  const int columns_;
  const int rows_;
  const bool color_;
  std::vector<Cell> cells_;
};

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_CHART_CANVAS_H_
