#include "proto/planner/scaling_messages.h"

#include <cmath>
#include <vector>

#include "engine/plan/scaling_points.h"

namespace lorad::planner {
namespace {

v1::ScalingEstimate ToProto(double value, const Interval& interval) {
  v1::ScalingEstimate proto;
  proto.set_value(value);
  proto.set_lower(interval.lower);
  proto.set_upper(interval.upper);
  return proto;
}

v1::ScalingEstimate ToProto(const Estimate& estimate) {
  return ToProto(estimate.value, estimate.interval);
}

v1::ScalingLoss ToProto(const LossEstimate& loss) {
  v1::ScalingLoss proto;
  *proto.mutable_loss() = ToProto(loss.loss);
  if (loss.irreducible.has_value()) *proto.mutable_irreducible() = ToProto(*loss.irreducible);
  *proto.mutable_reducible() = ToProto(loss.reducible);
  return proto;
}

v1::ScalingForm ToProto(ScalingForm form) {
  switch (form) {
    case ScalingForm::kChinchilla:
      return v1::SCALING_FORM_CHINCHILLA;
    case ScalingForm::kKaplan:
      return v1::SCALING_FORM_KAPLAN;
    case ScalingForm::kFloor:
      return v1::SCALING_FORM_FLOOR;
  }
  return v1::SCALING_FORM_UNSPECIFIED;
}

v1::ScalingVariable ToProto(ScalingVariable variable) {
  switch (variable) {
    case ScalingVariable::kParameters:
      return v1::SCALING_VARIABLE_PARAMETERS;
    case ScalingVariable::kTokens:
      return v1::SCALING_VARIABLE_TOKENS;
    case ScalingVariable::kCompute:
      return v1::SCALING_VARIABLE_COMPUTE;
  }
  return v1::SCALING_VARIABLE_UNSPECIFIED;
}

v1::ScalingFamilyIndex ToProto(int family) {
  return family == 0 ? v1::SCALING_FAMILY_INDEX_FIRST : v1::SCALING_FAMILY_INDEX_SECOND;
}

v1::ScalingStanding ToProto(const Standing& standing) {
  v1::ScalingStanding proto;
  proto.set_at(standing.at);
  proto.set_ahead(ToProto(standing.ahead));
  proto.set_share(standing.share);
  return proto;
}

v1::ScalingWarning ToProto(const ScalingWarning& warning) {
  v1::ScalingWarning proto;
  switch (warning.code) {
    case ScalingWarning::Code::kFewPoints:
      proto.set_code(v1::ScalingWarning::FEW_POINTS);
      break;
    case ScalingWarning::Code::kUnidentified:
      proto.set_code(v1::ScalingWarning::UNIDENTIFIED);
      break;
    case ScalingWarning::Code::kUnderTrained:
      proto.set_code(v1::ScalingWarning::UNDER_TRAINED);
      break;
    case ScalingWarning::Code::kOutliers:
      proto.set_code(v1::ScalingWarning::OUTLIERS);
      break;
    case ScalingWarning::Code::kExtrapolation:
      proto.set_code(v1::ScalingWarning::EXTRAPOLATION);
      break;
  }
  proto.set_message(warning.message);
  return proto;
}

template <typename Messages>
void AddWarnings(const std::vector<ScalingWarning>& warnings, Messages& messages) {
  for (const ScalingWarning& warning : warnings) *messages.Add() = ToProto(warning);
}

v1::FittedPoint FittedPointOf(const ScalingLaw& law, const ScalingPoint& point) {
  std::vector<double> log_x;
  for (const ScalingVariable variable : law.variables) {
    log_x.push_back(std::log(ValueOf(point, variable)));
  }
  PowerLaw reducible = law.law;
  reducible.form.has_floor = false;
  v1::FittedPoint fitted;
  *fitted.mutable_point() = planner::ToProto(point);
  fitted.set_fitted_loss(FromLog(law.law.LogLoss(log_x)));
  fitted.set_reducible_loss(FromLog(reducible.LogLoss(log_x)));
  return fitted;
}

v1::ScalingFrontier FrontierOf(const ScalingLaw& law) {
  const PowerLaw frontier = Frontier(law.law);
  v1::ScalingFrontier proto;
  proto.set_variable(law.form == ScalingForm::kChinchilla ? v1::SCALING_VARIABLE_COMPUTE
                                                          : ToProto(law.variables[0]));
  proto.set_irreducible(frontier.form.has_floor ? FromLog(frontier.log_floor) : 0);
  proto.set_log_coefficient(frontier.log_coefficient[0]);
  proto.set_exponent(frontier.exponent[0]);
  return proto;
}

}  // namespace

ScalingPoint FromProto(const v1::ScalingPoint& point) {
  return {point.parameters(), point.tokens(), point.compute_flops(), point.loss()};
}

std::optional<ScalingForm> FromProto(v1::ScalingForm form) {
  switch (form) {
    case v1::SCALING_FORM_CHINCHILLA:
      return ScalingForm::kChinchilla;
    case v1::SCALING_FORM_KAPLAN:
      return ScalingForm::kKaplan;
    case v1::SCALING_FORM_FLOOR:
      return ScalingForm::kFloor;
    default:
      return std::nullopt;
  }
}

std::optional<ScalingVariable> FromProto(v1::ScalingVariable variable) {
  switch (variable) {
    case v1::SCALING_VARIABLE_PARAMETERS:
      return ScalingVariable::kParameters;
    case v1::SCALING_VARIABLE_TOKENS:
      return ScalingVariable::kTokens;
    case v1::SCALING_VARIABLE_COMPUTE:
      return ScalingVariable::kCompute;
    default:
      return std::nullopt;
  }
}

v1::ScalingPoint ToProto(const ScalingPoint& point) {
  v1::ScalingPoint proto;
  proto.set_parameters(point.parameters);
  proto.set_tokens(point.tokens);
  proto.set_compute_flops(point.compute);
  proto.set_loss(point.loss);
  return proto;
}

v1::ScalingLawFit ToProto(const ScalingLaw& law) {
  v1::ScalingLawFit fit;
  fit.set_form(ToProto(law.form));
  for (const ScalingVariable variable : law.variables) fit.add_variables(ToProto(variable));
  for (const LawParameter& parameter : law.parameters) {
    v1::ScalingParameter* proto = fit.add_parameters();
    proto->set_name(parameter.name);
    *proto->mutable_estimate() = ToProto(parameter.value, parameter.interval);
  }
  fit.set_noise(law.bootstrap.noise());
  for (const ScalingPoint& point : law.points) *fit.add_points() = FittedPointOf(law, point);
  *fit.mutable_frontier() = FrontierOf(law);
  AddWarnings(law.warnings, *fit.mutable_warnings());
  return fit;
}

v1::ComputeOptimum ToProto(const ComputeOptimum& optimum) {
  v1::ComputeOptimum proto;
  proto.set_compute_flops(optimum.compute);
  if (optimum.parameters.has_value()) {
    *proto.mutable_parameters() = ToProto(*optimum.parameters);
    *proto.mutable_tokens() = ToProto(*optimum.tokens);
    *proto.mutable_tokens_per_parameter() = ToProto(*optimum.tokens_per_parameter);
  }
  *proto.mutable_loss() = ToProto(optimum.loss);
  AddWarnings(optimum.warnings, *proto.mutable_warnings());
  return proto;
}

v1::LossPrediction ToProto(const LossPrediction& prediction) {
  v1::LossPrediction proto;
  *proto.mutable_point() = ToProto(prediction.point);
  *proto.mutable_loss() = ToProto(prediction.loss);
  AddWarnings(prediction.warnings, *proto.mutable_warnings());
  return proto;
}

v1::ScalingComparison ToProto(const ScalingComparison& comparison) {
  v1::ScalingComparison proto;
  proto.set_variable(ToProto(comparison.variable));
  *proto.mutable_first_slope() = ToProto(comparison.slopes[0]);
  *proto.mutable_second_slope() = ToProto(comparison.slopes[1]);
  *proto.mutable_slope_difference() = ToProto(comparison.slope_difference);
  if (comparison.steeper.has_value()) proto.set_steeper(ToProto(*comparison.steeper));
  for (const Crossing& crossing : comparison.crossings) {
    v1::ScalingCrossing* added = proto.add_crossings();
    *added->mutable_at() = ToProto(crossing.at);
    added->set_loss(crossing.loss);
    added->set_ahead_beyond(ToProto(crossing.ahead_beyond));
    added->set_share(crossing.share);
  }
  *proto.mutable_long_run() = ToProto(comparison.long_run);
  for (const Standing& standing : comparison.standings) *proto.add_standings() = ToProto(standing);
  AddWarnings(comparison.warnings, *proto.mutable_warnings());
  return proto;
}

}  // namespace lorad::planner
