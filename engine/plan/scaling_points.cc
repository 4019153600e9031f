#include "engine/plan/scaling_points.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string_view>

#include "absl/strings/str_format.h"
#include "engine/core/status_macros.h"

namespace lorad {
namespace {

constexpr double kMaxScale = 1e18;    // parameters or tokens
constexpr double kMaxCompute = 1e38;  // 6 N D of both at their bound is below
constexpr double kMaxLoss = 1000;
constexpr int kMinValues = 3;  // of a variable, to tell a power from a line
// ln N and ln D that correlate more than this lie on one line, where A / N^a and B / D^b are alike.
constexpr double kMaxCorrelation = 0.98;
constexpr size_t kChinchillaPoints = 8, kFloorPoints = 5;

bool OneOf(double value, double max) { return value == 0 || (value >= 1 && value <= max); }

absl::Status OutOfRange(size_t index, std::string_view what, double value, double max) {
  return absl::InvalidArgumentError(
      absl::StrFormat("point %d: %s is %g; it must be in [1, %g], or absent where it is not known",
                      index + 1, what, value, max));
}

absl::Status Check(const ScalingPoint& point, size_t index) {
  if (!OneOf(point.parameters, kMaxScale)) {
    return OutOfRange(index, "parameters", point.parameters, kMaxScale);
  }
  if (!OneOf(point.tokens, kMaxScale)) return OutOfRange(index, "tokens", point.tokens, kMaxScale);
  if (!OneOf(point.compute, kMaxCompute)) {
    return OutOfRange(index, "compute", point.compute, kMaxCompute);
  }
  if (!(point.loss > 0 && point.loss <= kMaxLoss)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("point %d: loss is %g; it must be in (0, %g] nats a token", index + 1,
                        point.loss, kMaxLoss));
  }
  if (point.parameters == 0 && point.tokens == 0 && point.compute == 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "point %d has neither parameters nor tokens nor compute: give one at least", index + 1));
  }
  return absl::OkStatus();
}

absl::Status Complete(ScalingPoint& point, size_t index) {
  const double per = kFlopsPerParameterToken;
  const bool n = point.parameters > 0, d = point.tokens > 0, c = point.compute > 0;
  if (n && d && !c) point.compute = per * point.parameters * point.tokens;
  if (n && c && !d) point.tokens = point.compute / (per * point.parameters);
  if (d && c && !n) point.parameters = point.compute / (per * point.tokens);
  if ((n && point.tokens > 0 && point.tokens < 1) || point.tokens > kMaxScale) {
    return OutOfRange(index, "compute / (6 parameters)", point.tokens, kMaxScale);
  }
  if ((d && point.parameters > 0 && point.parameters < 1) || point.parameters > kMaxScale) {
    return OutOfRange(index, "compute / (6 tokens)", point.parameters, kMaxScale);
  }
  return absl::OkStatus();
}

bool AllHave(const std::vector<ScalingPoint>& points, ScalingVariable variable) {
  return std::all_of(points.begin(), points.end(),
                     [&](const ScalingPoint& point) { return ValueOf(point, variable) > 0; });
}

// Values that are 1 % apart count as one: measured sizes of the same model.
int DistinctValues(const std::vector<ScalingPoint>& points, ScalingVariable variable) {
  std::set<double> values;
  for (const ScalingPoint& point : points) values.insert(ValueOf(point, variable));
  int distinct = 0;
  double last = 0;
  for (const double value : values) {
    if (value > 1.01 * last) ++distinct, last = value;
  }
  return distinct;
}

// Pearson's, of ln N and ln D.
double Correlation(const std::vector<ScalingPoint>& points) {
  const double count = static_cast<double>(points.size());
  double mean_n = 0, mean_d = 0, nn = 0, dd = 0, nd = 0;
  for (const ScalingPoint& point : points) {
    mean_n += std::log(point.parameters) / count;
    mean_d += std::log(point.tokens) / count;
  }
  for (const ScalingPoint& point : points) {
    const double n = std::log(point.parameters) - mean_n, d = std::log(point.tokens) - mean_d;
    nn += n * n;
    dd += d * d;
    nd += n * d;
  }
  return nd / std::sqrt(nn * dd);
}

absl::Status CheckVariable(const std::vector<ScalingPoint>& points, ScalingVariable variable) {
  if (!AllHave(points, variable)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "a law in %s needs it of every point, and some lack it: complete them, leave "
        "them out or fit another variable",
        SymbolOf(variable)));
  }
  if (const int values = DistinctValues(points, variable); values < kMinValues) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s has %d different values in the points; at least %d tell a power law: add "
        "runs, or fit another variable",
        SymbolOf(variable), values, kMinValues));
  }
  return absl::OkStatus();
}

absl::Status CheckChinchilla(const std::vector<ScalingPoint>& points) {
  RETURN_IF_ERROR(CheckVariable(points, ScalingVariable::kParameters));
  RETURN_IF_ERROR(CheckVariable(points, ScalingVariable::kTokens));
  if (const double correlation = Correlation(points); correlation > kMaxCorrelation) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "ln N and ln D of the points correlate by %.3f, above %.2f: they rise together, so their "
        "terms cannot be told apart; add runs with other tokens per parameter, or fit C alone",
        correlation, kMaxCorrelation));
  }
  return absl::OkStatus();
}

ScalingVariable ChooseVariable(const std::vector<ScalingPoint>& points) {
  using enum ScalingVariable;
  const auto varies = [&](ScalingVariable variable) {
    return AllHave(points, variable) && DistinctValues(points, variable) >= kMinValues;
  };
  if (varies(kParameters) && !varies(kTokens)) return kParameters;
  if (varies(kTokens) && !varies(kParameters)) return kTokens;
  if (AllHave(points, kCompute)) return kCompute;
  return AllHave(points, kParameters) ? kParameters : kTokens;
}

}  // namespace

std::string_view SymbolOf(ScalingVariable variable) {
  return variable == ScalingVariable::kParameters ? "N"
         : variable == ScalingVariable::kTokens   ? "D"
                                                  : "C";
}

double ValueOf(const ScalingPoint& point, ScalingVariable variable) {
  return variable == ScalingVariable::kParameters ? point.parameters
         : variable == ScalingVariable::kTokens   ? point.tokens
                                                  : point.compute;
}

absl::Status CompletePoints(std::vector<ScalingPoint>& points) {
  for (size_t i = 0; i < points.size(); ++i) {
    RETURN_IF_ERROR(Check(points[i], i));
    RETURN_IF_ERROR(Complete(points[i], i));
  }
  return absl::OkStatus();
}

ScalingRange RangeOf(const std::vector<ScalingPoint>& points, ScalingVariable variable) {
  ScalingRange range;
  for (const ScalingPoint& point : points) {
    const double value = ValueOf(point, variable);
    if (value == 0) continue;
    range.min = range.min == 0 ? value : std::min(range.min, value);
    range.max = std::max(range.max, value);
  }
  return range;
}

PowerLawForm ScalingShape::power_law() const {
  return {static_cast<int>(variables.size()), form != ScalingForm::kKaplan};
}

absl::StatusOr<ScalingShape> ChooseShape(const std::vector<ScalingPoint>& points,
                                         const ScalingLawOptions& options) {
  using enum ScalingForm;
  ScalingShape shape{.form = kChinchilla,
                     .variables = {ScalingVariable::kParameters, ScalingVariable::kTokens}};
  if (options.form == kChinchilla && options.variable.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the law in N and D has no single variable: leave out %s or the form",
                        SymbolOf(*options.variable)));
  }
  const bool two = options.form.has_value()
                       ? options.form == kChinchilla
                       : !options.variable.has_value() && points.size() >= kChinchillaPoints &&
                             CheckChinchilla(points).ok();
  if (two) {
    RETURN_IF_ERROR(CheckChinchilla(points));
    return shape;
  }
  shape.form = options.form.value_or(points.size() >= kFloorPoints ? kFloor : kKaplan);
  shape.variables = {options.variable.value_or(ChooseVariable(points))};
  RETURN_IF_ERROR(CheckVariable(points, shape.variables[0]));
  return shape;
}

PowerLawData DataOf(const std::vector<ScalingPoint>& points, const ScalingShape& shape) {
  PowerLawData data;
  for (const ScalingPoint& point : points) {
    for (const ScalingVariable variable : shape.variables) {
      data.log_x.push_back(std::log(ValueOf(point, variable)));
    }
    data.log_loss.push_back(std::log(point.loss));
  }
  return data;
}

}  // namespace lorad
