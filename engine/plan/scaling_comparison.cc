#include "engine/plan/scaling_comparison.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "engine/core/status_macros.h"
#include "engine/plan/scaling_warnings.h"

namespace lorad {
namespace {

constexpr double kMaxScale = 1e38;
const double kMaxLogScale = std::log(kMaxScale);

// Both families' laws in the variable of the comparison: the fits, or one draw of each.
struct Pair {
  PowerLaw first;
  PowerLaw second;

  // ln(loss of first / loss of second) at exp(t); not finite if a draw has no frontier.
  double LogRatio(double t) const { return first.LogLoss({&t, 1}) - second.LogLoss({&t, 1}); }
  int Ahead(double t) const { return LogRatio(t) <= 0 ? 0 : 1; }
};

struct Root {
  double t;
  int ahead_beyond;
};

// Where the losses are equal. Their difference E1 - E2 + K1 exp(-g1 t) - K2 exp(-g2 t) turns at
// most once, where K1 g1 exp(-g1 t) = K2 g2 exp(-g2 t): it is monotone on both sides of that.
std::vector<Root> Roots(const Pair& pair) {
  std::vector<double> ends = {0, kMaxLogScale};
  const double g1 = pair.first.exponent[0], g2 = pair.second.exponent[0];
  const double turn = (pair.first.log_coefficient[0] - pair.second.log_coefficient[0] +
                       std::log(g1) - std::log(g2)) /
                      (g1 - g2);
  if (turn > 0 && turn < kMaxLogScale) ends.insert(ends.begin() + 1, turn);
  std::vector<Root> roots;
  for (size_t i = 0; i + 1 < ends.size(); ++i) {
    double low = ends[i], high = ends[i + 1];
    const double at_low = pair.LogRatio(low), at_high = pair.LogRatio(high);
    if (!(at_low * at_high < 0)) continue;
    for (int step = 0; step < 100; ++step) {
      const double middle = (low + high) / 2;
      (pair.LogRatio(middle) * at_low > 0 ? low : high) = middle;
    }
    roots.push_back({low, at_high < 0 ? 0 : 1});
  }
  return roots;
}

// Draws of both. One's draw goes with the other's next: equal numbers may come of equal seeds.
std::vector<Pair> DrawsOf(const ScalingLaw& first, const ScalingLaw& second) {
  const auto &a = first.bootstrap.laws(), &b = second.bootstrap.laws();
  std::vector<Pair> draws;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    draws.push_back({Frontier(a[i]), Frontier(b[(i + 1) % b.size()])});
  }
  return draws;
}

std::vector<double> Map(const std::vector<Pair>& draws,
                        const std::function<double(const Pair&)>& quantity) {
  std::vector<double> values;
  for (const Pair& draw : draws) values.push_back(quantity(draw));
  return values;
}

double ShareOf(const std::vector<double>& values, const std::function<bool(double)>& counts) {
  return static_cast<double>(std::count_if(values.begin(), values.end(), counts)) / values.size();
}

Crossing CrossingAt(const Root& root, const Pair& fit, const std::vector<Pair>& draws,
                    const Bootstrap& bootstrap) {
  // A draw's crossing of the same direction, of which there is one at most.
  const std::vector<double> drawn = Map(draws, [&](const Pair& draw) {
    for (const Root& other : Roots(draw)) {
      if (other.ahead_beyond == root.ahead_beyond) return other.t;
    }
    return std::numeric_limits<double>::quiet_NaN();
  });
  return {.at = {FromLog(root.t), FromLog(bootstrap.Pointwise(root.t, drawn))},
          .loss = FromLog(fit.first.LogLoss({&root.t, 1})),
          .ahead_beyond = root.ahead_beyond,
          .share = ShareOf(drawn, [](double t) { return std::isfinite(t); })};
}

Standing StandingAt(double at, const Pair& fit, const std::vector<Pair>& draws) {
  const double t = std::log(at);
  const int ahead = fit.Ahead(t);
  const std::vector<double> drawn = Map(draws, [&](const Pair& draw) { return draw.LogRatio(t); });
  return {at, ahead, ShareOf(drawn, [&](double ratio) {
            return std::isfinite(ratio) && (ratio <= 0) == (ahead == 0);
          })};
}

absl::StatusOr<ScalingVariable> SharedVariable(const ScalingLaw& first, const ScalingLaw& second) {
  const auto variable = [](const ScalingLaw& law) {
    return law.form == ScalingForm::kChinchilla ? ScalingVariable::kCompute : law.variables[0];
  };
  if (variable(first) == variable(second)) return variable(first);
  return absl::InvalidArgumentError(absl::StrFormat(
      "the families' laws are in %s and in %s: fit both in one variable to compare them",
      SymbolOf(variable(first)), SymbolOf(variable(second))));
}

void AddWarnings(const ScalingLaw& law, const char* what, ScalingComparison& comparison) {
  for (const Crossing& crossing : comparison.crossings) {
    auto warning = ExtrapolationWarning(law, comparison.variable, crossing.at.value, what);
    if (warning.has_value()) comparison.warnings.push_back(*std::move(warning));
  }
}

}  // namespace

absl::StatusOr<ScalingComparison> CompareScaling(const ScalingLaw& first, const ScalingLaw& second,
                                                 absl::Span<const double> at) {
  ScalingComparison comparison;
  ASSIGN_OR_RETURN(comparison.variable, SharedVariable(first, second));
  for (const double each : at) {
    if (each >= 1 && each <= kMaxScale) continue;
    return absl::InvalidArgumentError(absl::StrFormat(
        "families cannot be compared at %g; it must be in [1, %g]", each, kMaxScale));
  }
  const Pair fit = {Frontier(first.law), Frontier(second.law)};
  const std::vector<Pair> draws = DrawsOf(first, second);
  const auto estimate = [&](const std::function<double(const Pair&)>& quantity) -> Estimate {
    const double value = quantity(fit);
    return {value, first.bootstrap.Pointwise(value, Map(draws, quantity))};
  };
  comparison.slopes = {estimate([](const Pair& pair) { return pair.first.exponent[0]; }),
                       estimate([](const Pair& pair) { return pair.second.exponent[0]; })};
  comparison.slope_difference =
      estimate([](const Pair& pair) { return pair.first.exponent[0] - pair.second.exponent[0]; });
  if (comparison.slope_difference.interval.lower > 0) comparison.steeper = 0;
  if (comparison.slope_difference.interval.upper < 0) comparison.steeper = 1;
  for (const Root& root : Roots(fit)) {
    comparison.crossings.push_back(CrossingAt(root, fit, draws, first.bootstrap));
  }
  comparison.long_run = StandingAt(kMaxScale, fit, draws);
  for (const double each : at) comparison.standings.push_back(StandingAt(each, fit, draws));
  AddWarnings(first, "the crossing, seen from the first family", comparison);
  AddWarnings(second, "the crossing, seen from the second family", comparison);
  return comparison;
}

}  // namespace lorad
