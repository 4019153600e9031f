// The range of an axis of a chart and its ticks. Internal to the charts.
#ifndef LORAD_CLIENT_CLI_CHART_AXIS_H_
#define LORAD_CLIENT_CLI_CHART_AXIS_H_

#include <optional>
#include <string>
#include <vector>

#include "client/cli/chart.h"

namespace lorad::client::cli {

struct Tick {
  double value;
  std::string label;
};

struct Axis {
  bool log = false;
  double low = 0;
  double high = 1;               // > low
  std::vector<Tick> ticks = {};  // rising, in [low, high]

  // Where `value` is: 0 at `low`, 1 at `high`.
  double Place(double value) const;
};

// The axis that holds `values` (finite, as CheckChart demands, at least one), with about `ticks`
// ticks (>= 2) at 1, 2 or 5 times a power of ten; it begins and ends at such numbers. One value
// alone lies in the middle.
Axis MakeAxis(const std::vector<double>& values, bool log, int ticks);

// A number with SI suffix (k M G T) and the digits that tell it from its neighbours `step`
// away: "0", "2.5", "40k", "1.5M", "2e-5", "1e15".
std::string FormatTick(double value, double step);
// The same with three digits.
std::string FormatShort(double value);

// The axes of a chart's points and lines; nullopt when no point is finite.
struct Axes {
  Axis x;
  Axis y;
};
std::optional<Axes> MakeAxes(const Chart& chart, int x_ticks, int y_ticks);

// The finite lengths of all bars, from 0 on; nullopt when there is none.
std::optional<Axis> MakeBarAxis(const Chart& chart, int ticks);

bool IsFinite(const std::pair<double, double>& point);
bool HasBars(const Chart& chart);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_CHART_AXIS_H_
