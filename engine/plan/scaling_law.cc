#include "engine/plan/scaling_law.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/core/status_macros.h"
#include "engine/plan/scaling_points.h"
#include "engine/plan/scaling_warnings.h"

namespace lorad {
namespace {

constexpr int kMinDraws = 100, kMaxDraws = 100000;
constexpr int kMinTailDraws = 5;                // beyond an interval's ends
constexpr int64_t kMaxDrawnPoints = 5'000'000;  // about 15 s on one core

// The law's parameters by name, those that are positive as logarithms.
struct Quantities {
  std::vector<std::string> names;
  std::vector<bool> is_log;
  Bootstrap::Values values;
};

Quantities QuantitiesOf(const ScalingShape& shape) {
  if (shape.form == ScalingForm::kKaplan) {
    const std::string symbol(SymbolOf(shape.variables[0]));
    return {{absl::StrCat(symbol, "c"), absl::StrCat("alpha_", symbol)},
            {true, false},
            [](const PowerLaw& law) -> std::vector<double> {
              return {law.log_coefficient[0] / law.exponent[0], law.exponent[0]};
            }};
  }
  Quantities all{
      {"E", "A", "alpha"}, {true, true, false}, [](const PowerLaw& law) -> std::vector<double> {
        return {law.log_floor, law.log_coefficient[0], law.exponent[0]};
      }};
  if (shape.form == ScalingForm::kChinchilla) {
    all.names.insert(all.names.end(), {"B", "beta"});
    all.is_log.insert(all.is_log.end(), {true, false});
    all.values = [first = all.values](const PowerLaw& law) {
      std::vector<double> values = first(law);
      values.insert(values.end(), {law.log_coefficient[1], law.exponent[1]});
      return values;
    };
  }
  return all;
}

std::vector<LawParameter> ParametersOf(const ScalingShape& shape, const PowerLaw& law,
                                       const Bootstrap& bootstrap, double max_log_floor) {
  const Quantities quantities = QuantitiesOf(shape);
  const std::vector<double> values = quantities.values(law);
  std::vector<Interval> intervals = bootstrap.Simultaneous(quantities.values);
  if (shape.form != ScalingForm::kKaplan) {  // the first is E
    intervals[0].upper = std::min(intervals[0].upper, std::max(max_log_floor, values[0]));
  }
  std::vector<LawParameter> parameters;
  for (size_t i = 0; i < values.size(); ++i) {
    const bool is_log = quantities.is_log[i];
    parameters.push_back({quantities.names[i], is_log ? FromLog(values[i]) : values[i],
                          is_log ? FromLog(intervals[i]) : intervals[i]});
  }
  return parameters;
}

absl::Status CheckOptions(const BootstrapOptions& options, size_t points) {
  if (options.draws < kMinDraws || options.draws > kMaxDraws) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "bootstrap draws are %d; they must be in [%d, %d]", options.draws, kMinDraws, kMaxDraws));
  }
  if (!(options.confidence >= 0.5 && options.confidence < 1)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("confidence is %g; it must be in [0.5, 1)", options.confidence));
  }
  if (options.draws * (1 - options.confidence) < kMinTailDraws - 1e-9) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%d bootstrap draws do not tell confidence %g: at least %g do", options.draws,
        options.confidence, std::ceil(kMinTailDraws / (1 - options.confidence))));
  }
  if (static_cast<int64_t>(points) > kMaxDrawnPoints / options.draws) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%d points times %d bootstrap draws are more than %d: leave out points or draws", points,
        options.draws, kMaxDrawnPoints));
  }
  return absl::OkStatus();
}

absl::Status CheckFit(const PowerLaw& law, const ScalingShape& shape) {
  for (size_t k = 0; k < shape.variables.size(); ++k) {
    if (law.exponent[k] > 0) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("the points' loss does not fall with %s (fitted exponent %.3g, must be "
                        "above 0): no scaling "
                        "law; check that the points are of one family, on one eval set",
                        SymbolOf(shape.variables[k]), law.exponent[k]));
  }
  return absl::OkStatus();
}

}  // namespace

double FromLog(double log_value) { return std::exp(log_value); }

Interval FromLog(const Interval& log_interval) {
  return {FromLog(log_interval.lower), FromLog(log_interval.upper)};
}

absl::StatusOr<ScalingLaw> FitScalingLaw(std::vector<ScalingPoint> points,
                                         const ScalingLawOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options.bootstrap, points.size()));
  RETURN_IF_ERROR(CompletePoints(points));
  ASSIGN_OR_RETURN(const ScalingShape shape, ChooseShape(points, options));
  const PowerLawData data = DataOf(points, shape);
  ASSIGN_OR_RETURN(const PowerLaw law,
                   FitPowerLaw(shape.power_law(), data, options.bootstrap.huber_delta));
  RETURN_IF_ERROR(CheckFit(law, shape));
  Bootstrap bootstrap(law, data, options.bootstrap);
  constexpr double kNoiseAllowed = 3;  // standard deviations
  const double max_log_floor = *std::min_element(data.log_loss.begin(), data.log_loss.end()) +
                               kNoiseAllowed * bootstrap.noise();
  std::vector<LawParameter> parameters = ParametersOf(shape, law, bootstrap, max_log_floor);
  ScalingLaw result{.form = shape.form,
                    .variables = shape.variables,
                    .points = std::move(points),
                    .ranges = {},
                    .law = law,
                    .bootstrap = std::move(bootstrap),
                    .parameters = std::move(parameters),
                    .max_log_floor = max_log_floor,
                    .warnings = {}};
  for (int i = 0; i < kNumScalingVariables; ++i) {
    result.ranges[i] = RangeOf(result.points, static_cast<ScalingVariable>(i));
  }
  result.warnings = WarningsOf(result);
  return result;
}

}  // namespace lorad
