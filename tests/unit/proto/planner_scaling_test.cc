#include <cmath>
#include <string>

#include "gtest/gtest.h"
#include "proto/planner/scaling.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/engine/plan/scaling_fixture.h"

namespace lorad::planner {
namespace {

using absl::StatusCode;

void AddPoints(const std::vector<ScalingPoint>& points, v1::ScalingFamily& family) {
  for (const ScalingPoint& point : points) {
    v1::ScalingPoint* added = family.add_points();
    added->set_parameters(point.parameters);
    added->set_tokens(point.tokens);
    added->set_compute_flops(point.compute);
    added->set_loss(point.loss);
  }
}

v1::FitScalingLawRequest Request() {
  v1::FitScalingLawRequest request;
  std::mt19937_64 random(1);
  AddPoints(SyntheticGrid({1.69, 406.4, 0.34, 410.7, 0.28}, 5, 5, 0.003, random),
            *request.mutable_family());
  request.set_bootstrap_draws(100);
  return request;
}

TEST(PlannerScalingTest, AnswersWithTheLawItsOptimaAndPredictions) {
  v1::FitScalingLawRequest request = Request();
  request.add_budgets_flops(1e21);
  request.add_budgets_flops(1e27);
  v1::ScalingPoint* predict = request.add_predict();
  predict->set_parameters(1e9);
  predict->set_tokens(2e10);
  ASSERT_OK_AND_ASSIGN(const v1::FitScalingLawResponse reply, FitScalingLaw(request));
  const v1::ScalingLawFit& fit = reply.family();
  EXPECT_EQ(fit.name(), "first");
  EXPECT_EQ(fit.form(), v1::SCALING_FORM_CHINCHILLA);
  ASSERT_EQ(fit.parameters_size(), 5);
  EXPECT_EQ(fit.parameters(0).name(), "E");
  EXPECT_NEAR(fit.parameters(0).estimate().value(), 1.69, 0.1);
  EXPECT_NEAR(fit.noise(), 0.003, 0.0015);
  ASSERT_EQ(fit.points_size(), 25);
  for (const v1::FittedPoint& point : fit.points()) {
    EXPECT_NEAR(point.fitted_loss(), point.point().loss(), 0.02 * point.fitted_loss());
    EXPECT_NEAR(point.fitted_loss() - point.reducible_loss(), fit.parameters(0).estimate().value(),
                1e-9);
    EXPECT_GT(point.point().compute_flops(), 0);  // completed
  }
  ASSERT_EQ(fit.optima_size(), 2);
  const v1::ComputeOptimum& optimum = fit.optima(0);
  EXPECT_NEAR(6 * optimum.parameters().value() * optimum.tokens().value(), 1e21, 1e15);
  EXPECT_NEAR(optimum.loss().irreducible().value() + optimum.loss().reducible().value(),
              optimum.loss().loss().value(), 1e-9);
  const v1::ScalingFrontier& frontier = fit.frontier();
  EXPECT_NEAR(frontier.irreducible() +
                  std::exp(frontier.log_coefficient() - frontier.exponent() * std::log(1e21)),
              optimum.loss().loss().value(), 1e-9);
  EXPECT_EQ(optimum.warnings_size(), 0);
  ASSERT_EQ(fit.optima(1).warnings_size(), 3);
  EXPECT_EQ(fit.optima(1).warnings(0).code(), v1::ScalingWarning::EXTRAPOLATION);
  ASSERT_EQ(fit.predictions_size(), 1);
  EXPECT_NEAR(fit.predictions(0).point().compute_flops(), 1.2e20, 1e10);
  EXPECT_FALSE(reply.has_compare());
  EXPECT_FALSE(reply.has_comparison());
}

TEST(PlannerScalingTest, ComparesTwoFamilies) {
  v1::FitScalingLawRequest request = Request();
  request.mutable_family()->set_name("ours");
  AddPoints(PublicPoints("cerebras_gpt.csv"), *request.mutable_compare());
  request.add_budgets_flops(1e22);
  ASSERT_OK_AND_ASSIGN(const v1::FitScalingLawResponse reply, FitScalingLaw(request));
  EXPECT_EQ(reply.family().name(), "ours");
  EXPECT_EQ(reply.compare().name(), "second");
  EXPECT_EQ(reply.compare().form(), v1::SCALING_FORM_FLOOR);
  ASSERT_EQ(reply.compare().variables_size(), 1);
  EXPECT_EQ(reply.compare().variables(0), v1::SCALING_VARIABLE_COMPUTE);
  EXPECT_FALSE(reply.compare().optima(0).has_parameters());
  EXPECT_EQ(reply.comparison().variable(), v1::SCALING_VARIABLE_COMPUTE);
  EXPECT_NEAR(reply.comparison().first_slope().value(), 0.34 * 0.28 / 0.62, 0.02);
  ASSERT_EQ(reply.comparison().standings_size(), 1);
  // Dey et al. trained on the Pile, which is easier: less loss at the same compute.
  EXPECT_EQ(reply.comparison().standings(0).ahead(), v1::SCALING_FAMILY_INDEX_SECOND);
}

TEST(PlannerScalingTest, AsksForTheFormAndTheVariable) {
  v1::FitScalingLawRequest request = Request();
  request.set_form(v1::SCALING_FORM_KAPLAN);
  request.set_variable(v1::SCALING_VARIABLE_TOKENS);
  request.set_confidence(0.9);
  ASSERT_OK_AND_ASSIGN(const v1::FitScalingLawResponse reply, FitScalingLaw(request));
  EXPECT_EQ(reply.family().form(), v1::SCALING_FORM_KAPLAN);
  EXPECT_EQ(reply.family().parameters(0).name(), "Dc");
  EXPECT_EQ(reply.family().frontier().variable(), v1::SCALING_VARIABLE_TOKENS);
}

TEST(PlannerScalingTest, RefusesByName) {
  const auto refuses = [](auto change, const std::string& message) {
    v1::FitScalingLawRequest request = Request();
    change(request);
    EXPECT_THAT(FitScalingLaw(request), StatusIs(StatusCode::kInvalidArgument, message));
  };
  refuses([](auto& r) { r.clear_family(); }, "family first: ");
  refuses([](auto& r) { r.mutable_family()->mutable_points(2)->set_loss(-1); },
          "family first: point 3: loss is -1");
  refuses([](auto& r) { r.mutable_compare()->set_name("b"); }, "family b: ");
  refuses([](auto& r) { r.add_budgets_flops(INFINITY); }, "the budget is inf FLOPs");
  refuses(
      [](auto& r) {
        for (int i = 0; i < 101; ++i) r.add_budgets_flops(1e20);
      },
      "budgets_flops: 101 are more than 100");
  refuses(
      [](auto& r) {
        for (int i = 0; i < 1001; ++i) r.add_predict();
      },
      "predict: 1001 runs are more than 1000");
  refuses([](auto& r) { r.add_predict(); }, "point 1 has neither parameters");
  refuses([](auto& r) { r.set_confidence(0); }, "confidence is 0");
  refuses([](auto& r) { r.set_bootstrap_draws(-5); }, "bootstrap draws are -5");
  refuses([](auto& r) { r.set_form(static_cast<v1::ScalingForm>(77)); }, "form: 77 is none");
  refuses([](auto& r) { r.set_variable(static_cast<v1::ScalingVariable>(-7)); },
          "variable: -7 is none");
}

}  // namespace
}  // namespace lorad::planner
