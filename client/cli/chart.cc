#include "client/cli/chart.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "client/cli/chart_axis.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

absl::Status PointError(const Series& series, size_t i, std::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("series \"", series.name, "\", point ", i, ": ", std::string(what)));
}

absl::Status CheckValue(const Series& series, size_t i, char axis, double value, bool log) {
  if (!std::isfinite(value)) return absl::OkStatus();
  if (std::abs(value) > kMaxChartValue) {
    return PointError(series, i,
                      absl::StrCat(std::string(1, axis), " = ", value,
                                   " is beyond what a chart shows, +-", kMaxChartValue));
  }
  if (log && value < 1 / kMaxChartValue) {
    return PointError(series, i,
                      absl::StrCat(std::string(1, axis), " = ", value,
                                   " has no place on a logarithmic axis, which begins above 0: "
                                   "leave the point out or use a linear axis"));
  }
  return absl::OkStatus();
}

absl::Status CheckBars(const Chart& chart, const Series& series) {
  if (series.style != Series::Style::kBars) {
    return absl::InvalidArgumentError(absl::StrCat(
        "series \"", series.name, "\" has points or a line beside bars: use two charts"));
  }
  if (chart.log_x || chart.log_y) {
    return absl::InvalidArgumentError(
        "bars begin at 0, which a logarithmic axis does not have: use a linear axis or points");
  }
  if (!series.labels.empty() && series.labels.size() != series.points.size()) {
    return absl::InvalidArgumentError(absl::StrCat("series \"", series.name, "\" has ",
                                                   series.labels.size(), " labels for ",
                                                   series.points.size(), " bars"));
  }
  for (size_t i = 0; i < series.points.size(); ++i) {
    const double length = series.points[i].second;
    if (length < 0 && std::isfinite(length)) {
      return PointError(series, i, absl::StrCat("the bar's length ", length, " is below 0"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckChart(const Chart& chart) {
  const bool bars = HasBars(chart);
  for (const Series& series : chart.series) {
    if (bars) RETURN_IF_ERROR(CheckBars(chart, series));
    for (size_t i = 0; i < series.points.size(); ++i) {
      const auto& [x, y] = series.points[i];
      if (!bars) RETURN_IF_ERROR(CheckValue(series, i, 'x', x, chart.log_x));
      RETURN_IF_ERROR(CheckValue(series, i, 'y', y, chart.log_y));
    }
  }
  return absl::OkStatus();
}

}  // namespace lorad::client::cli
