#include "client/cli/chart_axis.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace lorad::client::cli {
namespace {

// Values closer together than this share of their size are drawn as one: their ticks would need
// more digits than a label has room for.
constexpr double kMinSpan = 1e-9;
// Rounding in a quotient of at most some 1e10 steps, which kMinSpan allows.
constexpr double kStepSlack = 1e-5;
constexpr int kMaxDigits = 9;

int Exponent(double value) { return static_cast<int>(std::floor(std::log10(std::abs(value)))); }

// The smallest of 1, 2, 5 and 10 times a power of ten that is not below `value` > 0.
double NiceCeiling(double value) {
  const double power = std::pow(10.0, Exponent(value));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (value <= factor * power * (1 + kMinSpan)) return factor * power;
  }
  return 10 * power;
}

// The largest of them that is not above `value`.
double NiceFloor(double value) {
  const double power = std::pow(10.0, Exponent(value));
  for (const double factor : {5.0, 2.0}) {
    if (value >= factor * power * (1 - kMinSpan)) return factor * power;
  }
  return power;
}

void AddTicks(Axis& axis, double step, double first, double last) {
  for (double i = first; i <= last; ++i)
    axis.ticks.push_back({i * step, FormatTick(i * step, step)});
}

Axis LinearAxis(double low, double high, int ticks) {
  if (high - low <= kMinSpan * std::max(std::abs(low), std::abs(high))) {
    const double margin = low == 0 ? 1 : std::abs(low) / 2;
    low -= margin;
    high += margin;
  }
  const double step = NiceCeiling((high - low) / (ticks - 1));
  // Whole multiples of the step, so that zero is zero and not what rounding leaves of it.
  const double first = std::floor(low / step + kStepSlack);
  const double last = std::ceil(high / step - kStepSlack);
  Axis axis{.low = first * step, .high = last * step};
  AddTicks(axis, step, first, last);
  return axis;
}

// Ticks at `factors` times every `stride`-th power of ten.
std::vector<Tick> LogTicks(double low, double high, int stride,
                           const std::vector<double>& factors) {
  std::vector<Tick> ticks;
  for (int e = Exponent(low) - 1; e <= Exponent(high) + 1; ++e) {
    if (e % stride != 0) continue;
    for (const double factor : factors) {
      const double value = factor * std::pow(10.0, e);
      if (value < low * (1 - kMinSpan) || value > high * (1 + kMinSpan)) continue;
      ticks.push_back({std::clamp(value, low, high), FormatShort(value)});
    }
  }
  return ticks;
}

Axis LogAxis(double low, double high, int ticks) {
  if (high / low - 1 <= kMinSpan) {
    low /= 2;
    high *= 2;
  }
  Axis axis{.log = true, .low = NiceFloor(low), .high = NiceCeiling(high)};
  const double decades = std::log10(axis.high / axis.low);
  if (decades * 3 <= ticks) {
    axis.ticks = LogTicks(axis.low, axis.high, 1, {1, 2, 5});
  } else {
    const int stride = std::max(1, static_cast<int>(std::ceil(decades / ticks)));
    axis.ticks = LogTicks(axis.low, axis.high, stride, {1});
  }
  if (axis.ticks.size() < 2) {
    axis.ticks = {{axis.low, FormatShort(axis.low)}, {axis.high, FormatShort(axis.high)}};
  }
  return axis;
}

// "12.50" -> "12.5", "3.00" -> "3".
std::string WithoutTrailingZeros(std::string number) {
  if (number.find('.') == std::string::npos) return number;
  number.erase(number.find_last_not_of('0') + 1);
  if (number.back() == '.') number.pop_back();
  return number;
}

std::string FormatScientific(double value, int digits) {
  const std::string text = absl::StrFormat("%.*e", digits, value);
  const size_t e = text.find('e');
  int exponent = 0;
  (void)absl::SimpleAtoi(text.substr(e + 1), &exponent);
  return absl::StrCat(WithoutTrailingZeros(text.substr(0, e)), "e", exponent);
}

}  // namespace

double Axis::Place(double value) const {
  if (log) return std::log(value / low) / std::log(high / low);
  return (value - low) / (high - low);
}

Axis MakeAxis(const std::vector<double>& values, bool log, int ticks) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return log ? LogAxis(*low, *high, ticks) : LinearAxis(*low, *high, ticks);
}

std::string FormatTick(double value, double step) {
  static constexpr std::array<const char*, 5> kSuffixes = {"", "k", "M", "G", "T"};
  if (value == 0) return "0";
  const int exponent = Exponent(value);
  const int step_exponent = Exponent(step);
  if (exponent < -3 || exponent >= 15) {
    return FormatScientific(value, std::clamp(exponent - step_exponent, 0, kMaxDigits));
  }
  const int thousands = std::max(0, exponent / 3);
  const int digits = std::clamp(3 * thousands - step_exponent, 0, kMaxDigits);
  const std::string number = absl::StrFormat("%.*f", digits, value / std::pow(1000, thousands));
  return WithoutTrailingZeros(number) + kSuffixes[thousands];
}

std::string FormatShort(double value) {
  if (value == 0) return "0";
  // Rounded first, so that 999.9 is written as the 1000 that it becomes.
  const double step = std::pow(10.0, Exponent(value) - 2);
  return FormatTick(std::round(value / step) * step, step);
}

bool IsFinite(const std::pair<double, double>& point) {
  return std::isfinite(point.first) && std::isfinite(point.second);
}

bool HasBars(const Chart& chart) {
  return std::any_of(chart.series.begin(), chart.series.end(),
                     [](const Series& s) { return s.style == Series::Style::kBars; });
}

std::optional<Axes> MakeAxes(const Chart& chart, int x_ticks, int y_ticks) {
  std::vector<double> x, y;
  for (const Series& series : chart.series) {
    for (const auto& point : series.points) {
      if (!IsFinite(point)) continue;
      x.push_back(point.first);
      y.push_back(point.second);
    }
  }
  if (x.empty()) return std::nullopt;
  return Axes{.x = MakeAxis(x, chart.log_x, x_ticks), .y = MakeAxis(y, chart.log_y, y_ticks)};
}

std::optional<Axis> MakeBarAxis(const Chart& chart, int ticks) {
  std::vector<double> lengths;
  for (const Series& series : chart.series) {
    for (const auto& point : series.points) {
      if (std::isfinite(point.second)) lengths.push_back(point.second);
    }
  }
  if (lengths.empty()) return std::nullopt;
  const double longest = *std::max_element(lengths.begin(), lengths.end());
  return MakeAxis({0, longest > 0 ? longest : 1}, /*log=*/false, ticks);
}

}  // namespace lorad::client::cli
