#include "proto/planner/scaling.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/core/status_macros.h"
#include "proto/planner/scaling_messages.h"

namespace lorad::planner {
namespace {

constexpr int kMaxBudgets = 100;
constexpr int kMaxPredictions = 1000;

absl::Status CheckRequest(const v1::FitScalingLawRequest& request) {
  if (request.budgets_flops_size() > kMaxBudgets) {
    return absl::InvalidArgumentError(absl::StrFormat("budgets_flops: %d are more than %d",
                                                      request.budgets_flops_size(), kMaxBudgets));
  }
  if (request.predict_size() > kMaxPredictions) {
    return absl::InvalidArgumentError(absl::StrFormat("predict: %d runs are more than %d",
                                                      request.predict_size(), kMaxPredictions));
  }
  if (!v1::ScalingForm_IsValid(request.form())) {
    return absl::InvalidArgumentError(absl::StrFormat("form: %d is none", request.form()));
  }
  if (!v1::ScalingVariable_IsValid(request.variable())) {
    return absl::InvalidArgumentError(absl::StrFormat("variable: %d is none", request.variable()));
  }
  return absl::OkStatus();
}

ScalingLawOptions OptionsOf(const v1::FitScalingLawRequest& request, int threads) {
  ScalingLawOptions options;
  options.form = FromProto(request.form());
  options.variable = FromProto(request.variable());
  if (request.has_confidence()) options.bootstrap.confidence = request.confidence();
  if (request.has_bootstrap_draws()) options.bootstrap.draws = request.bootstrap_draws();
  options.bootstrap.seed = request.seed();
  options.bootstrap.threads = threads;
  return options;
}

struct FamilyFit {
  ScalingLaw law;
  v1::ScalingLawFit message;
};

absl::StatusOr<FamilyFit> FitFamily(const v1::ScalingFamily& family,
                                    const v1::FitScalingLawRequest& request, int threads) {
  std::vector<ScalingPoint> points;
  for (const v1::ScalingPoint& point : family.points()) points.push_back(FromProto(point));
  ASSIGN_OR_RETURN(ScalingLaw law,
                   lorad::FitScalingLaw(std::move(points), OptionsOf(request, threads)));
  v1::ScalingLawFit message = ToProto(law);
  for (const double budget : request.budgets_flops()) {
    ASSIGN_OR_RETURN(const ComputeOptimum optimum, OptimumFor(law, budget));
    *message.add_optima() = ToProto(optimum);
  }
  for (const v1::ScalingPoint& point : request.predict()) {
    ASSIGN_OR_RETURN(const LossPrediction prediction, PredictLoss(law, FromProto(point)));
    *message.add_predictions() = ToProto(prediction);
  }
  return FamilyFit{std::move(law), std::move(message)};
}

// The same with the family's name in the answer and before an error.
absl::StatusOr<FamilyFit> FitNamed(const v1::ScalingFamily& family, const char* otherwise,
                                   const v1::FitScalingLawRequest& request, int threads) {
  const std::string name = family.name().empty() ? otherwise : family.name();
  absl::StatusOr<FamilyFit> fit = FitFamily(family, request, threads);
  if (!fit.ok()) {
    return absl::Status(fit.status().code(),
                        absl::StrCat("family ", name, ": ", fit.status().message()));
  }
  fit->message.set_name(name);
  return fit;
}

}  // namespace

absl::StatusOr<v1::FitScalingLawResponse> FitScalingLaw(const v1::FitScalingLawRequest& request,
                                                        int threads) {
  RETURN_IF_ERROR(CheckRequest(request));
  ASSIGN_OR_RETURN(FamilyFit first, FitNamed(request.family(), "first", request, threads));
  v1::FitScalingLawResponse response;
  *response.mutable_family() = std::move(first.message);
  if (!request.has_compare()) return response;
  ASSIGN_OR_RETURN(FamilyFit second, FitNamed(request.compare(), "second", request, threads));
  *response.mutable_compare() = std::move(second.message);
  const std::vector<double> at(request.budgets_flops().begin(), request.budgets_flops().end());
  ASSIGN_OR_RETURN(const ScalingComparison comparison, CompareScaling(first.law, second.law, at));
  *response.mutable_comparison() = ToProto(comparison);
  return response;
}

}  // namespace lorad::planner
