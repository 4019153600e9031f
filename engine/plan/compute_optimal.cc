#include "engine/plan/compute_optimal.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "engine/core/status_macros.h"
#include "engine/plan/scaling_points.h"
#include "engine/plan/scaling_warnings.h"

namespace lorad {
namespace {

constexpr double kMaxCompute = 1e38;
using LogX = std::array<double, kMaxPowerTerms>;

// The interval of exp(quantity) over the draws.
Estimate EstimateOf(const ScalingLaw& law, const std::function<double(const PowerLaw&)>& quantity) {
  std::vector<double> drawn;
  for (const PowerLaw& each : law.bootstrap.laws()) drawn.push_back(quantity(each));
  const double value = quantity(law.law);
  return {FromLog(value), FromLog(law.bootstrap.Pointwise(value, drawn))};
}

// ln of all but the floor.
double LogReducible(PowerLaw law, const LogX& log_x) {
  law.form.has_floor = false;
  return law.LogLoss(absl::MakeConstSpan(log_x.data(), law.form.num_terms));
}

// The loss where each law puts its variables: at one point, or at its own best split.
LossEstimate LossAt(const ScalingLaw& law, const std::function<LogX(const PowerLaw&)>& log_x) {
  LossEstimate loss;
  loss.loss = EstimateOf(law, [&](const PowerLaw& each) {
    return each.LogLoss(absl::MakeConstSpan(log_x(each).data(), each.form.num_terms));
  });
  loss.reducible =
      EstimateOf(law, [&](const PowerLaw& each) { return LogReducible(each, log_x(each)); });
  if (law.law.form.has_floor) {
    loss.irreducible = EstimateOf(law, [](const PowerLaw& each) { return each.log_floor; });
    loss.irreducible->interval.upper =
        std::min(loss.irreducible->interval.upper,
                 std::max(FromLog(law.max_log_floor), loss.irreducible->value));
  }
  // A part is no more than the whole.
  loss.reducible.interval.upper = std::min(loss.reducible.interval.upper, loss.loss.interval.upper);
  return loss;
}

void AddWarning(std::optional<ScalingWarning> warning, std::vector<ScalingWarning>& warnings) {
  if (warning.has_value()) warnings.push_back(*std::move(warning));
}

}  // namespace

ComputeSplit SplitCompute(const PowerLaw& law, double log_compute) {
  const auto [alpha, beta] = law.exponent;
  if (!(alpha > 0 && beta > 0)) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    return {nan, nan};
  }
  const double log_product = log_compute - std::log(kFlopsPerParameterToken);
  const double log_g =
      (std::log(alpha / beta) + law.log_coefficient[0] - law.log_coefficient[1]) / (alpha + beta);
  return {log_g + log_product * (beta / (alpha + beta)),
          -log_g + log_product * (alpha / (alpha + beta))};
}

PowerLaw Frontier(const PowerLaw& law) {
  if (law.form.num_terms == 1) return law;
  PowerLaw frontier = law;
  frontier.form.num_terms = 1;
  const auto [alpha, beta] = law.exponent;
  frontier.exponent[0] = alpha * beta / (alpha + beta);
  const ComputeSplit split = SplitCompute(law, 0);
  frontier.log_coefficient[0] = LogReducible(law, {split.log_parameters, split.log_tokens});
  return frontier;
}

absl::StatusOr<ComputeOptimum> OptimumFor(const ScalingLaw& law, double compute) {
  if (!(compute >= 1 && compute <= kMaxCompute)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the budget is %g FLOPs; it must be in [1, %g]", compute, kMaxCompute));
  }
  const bool two = law.form == ScalingForm::kChinchilla;
  if (!two && law.variables[0] != ScalingVariable::kCompute) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "a law in %s alone does not say how to spend a budget: fit one in N and D, or in C",
        SymbolOf(law.variables[0])));
  }
  const double log_compute = std::log(compute);
  ComputeOptimum optimum;
  optimum.compute = compute;
  optimum.loss = LossAt(law, [&](const PowerLaw& each) -> LogX {
    if (!two) return {log_compute};
    const ComputeSplit split = SplitCompute(each, log_compute);
    return {split.log_parameters, split.log_tokens};
  });
  AddWarning(ExtrapolationWarning(law, ScalingVariable::kCompute, compute, "the budget"),
             optimum.warnings);
  if (!two) return optimum;
  optimum.parameters = EstimateOf(
      law, [&](const PowerLaw& each) { return SplitCompute(each, log_compute).log_parameters; });
  optimum.tokens = EstimateOf(
      law, [&](const PowerLaw& each) { return SplitCompute(each, log_compute).log_tokens; });
  optimum.tokens_per_parameter = EstimateOf(law, [&](const PowerLaw& each) {
    const ComputeSplit split = SplitCompute(each, log_compute);
    return split.log_tokens - split.log_parameters;
  });
  AddWarning(ExtrapolationWarning(law, ScalingVariable::kParameters, optimum.parameters->value,
                                  "the compute-optimal size"),
             optimum.warnings);
  AddWarning(ExtrapolationWarning(law, ScalingVariable::kTokens, optimum.tokens->value,
                                  "the compute-optimal data"),
             optimum.warnings);
  return optimum;
}

absl::StatusOr<LossPrediction> PredictLoss(const ScalingLaw& law, ScalingPoint point) {
  std::vector<ScalingPoint> completed = {point};
  completed[0].loss = 1;  // any valid one
  RETURN_IF_ERROR(CompletePoints(completed));
  LossPrediction prediction;
  prediction.point = completed[0];
  prediction.point.loss = 0;
  LogX log_x = {};
  for (size_t k = 0; k < law.variables.size(); ++k) {
    const double value = ValueOf(prediction.point, law.variables[k]);
    if (value == 0) {
      return absl::InvalidArgumentError(absl::StrFormat("a prediction of a law in %s needs %s",
                                                        SymbolOf(law.variables[k]),
                                                        SymbolOf(law.variables[k])));
    }
    log_x[k] = std::log(value);
    AddWarning(ExtrapolationWarning(law, law.variables[k], value, "the predicted run"),
               prediction.warnings);
  }
  prediction.loss = LossAt(law, [&](const PowerLaw&) { return log_x; });
  return prediction;
}

}  // namespace lorad
