#include "engine/plan/compute_optimal.h"

#include <cmath>
#include <random>
#include <vector>

#include "engine/plan/scaling_law.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/engine/plan/scaling_fixture.h"

namespace lorad {
namespace {

using absl::StatusCode;

constexpr ChinchillaLaw kTruth = {1.69, 406.4, 0.34, 410.7, 0.28};

PowerLaw AsPowerLaw(const ChinchillaLaw& law) {
  return {{2, true}, {std::log(law.a), std::log(law.b)}, {law.alpha, law.beta}, std::log(law.e)};
}

absl::StatusOr<ScalingLaw> Fit(double noise = 0.003) {
  std::mt19937_64 random(3);
  ScalingLawOptions options;
  options.bootstrap.draws = 200;
  return FitScalingLaw(SyntheticGrid(kTruth, 6, 6, noise, random), options);
}

TEST(SplitComputeTest, IsTheLeastLossOfTheBudget) {
  for (const double compute : {1e18, 1e21, 5.76e23, 1e26}) {
    const ComputeSplit split = SplitCompute(AsPowerLaw(kTruth), std::log(compute));
    const double n = std::exp(split.log_parameters), d = std::exp(split.log_tokens);
    EXPECT_NEAR(6 * n * d, compute, 1e-9 * compute);
    const double least = kTruth(n, d);
    for (double factor = 0.5; factor < 2; factor *= 1.01) {
      EXPECT_GE(kTruth(n * factor, d / factor), least * (1 - 1e-12)) << factor;
    }
    const double log_compute = std::log(compute);
    EXPECT_NEAR(Frontier(AsPowerLaw(kTruth)).LogLoss({&log_compute, 1}), std::log(least), 1e-9);
  }
}

TEST(SplitComputeTest, IsNotFiniteWithoutASlope) {
  PowerLaw law = AsPowerLaw(kTruth);
  law.exponent[1] = -0.1;
  EXPECT_FALSE(std::isfinite(SplitCompute(law, 50).log_parameters));
}

TEST(OptimumForTest, HoldsTheTrueOptimumAndSplitsTheLoss) {
  ASSERT_OK_AND_ASSIGN(const ScalingLaw law, Fit());
  ASSERT_OK_AND_ASSIGN(const ComputeOptimum optimum, OptimumFor(law, 1e21));
  const ComputeSplit truth = SplitCompute(AsPowerLaw(kTruth), std::log(1e21));
  const auto holds = [](const Estimate& estimate, double value) {
    return estimate.interval.lower < value && value < estimate.interval.upper &&
           estimate.interval.lower < estimate.value && estimate.value < estimate.interval.upper;
  };
  EXPECT_TRUE(holds(*optimum.parameters, std::exp(truth.log_parameters)));
  EXPECT_TRUE(holds(*optimum.tokens, std::exp(truth.log_tokens)));
  EXPECT_TRUE(
      holds(*optimum.tokens_per_parameter, std::exp(truth.log_tokens - truth.log_parameters)));
  EXPECT_NEAR(6 * optimum.parameters->value * optimum.tokens->value, 1e21, 1e12);
  const double loss = kTruth(std::exp(truth.log_parameters), std::exp(truth.log_tokens));
  EXPECT_TRUE(holds(optimum.loss.loss, loss));
  EXPECT_TRUE(holds(*optimum.loss.irreducible, kTruth.e));
  EXPECT_TRUE(holds(optimum.loss.reducible, loss - kTruth.e));
  EXPECT_NEAR(optimum.loss.irreducible->value + optimum.loss.reducible.value,
              optimum.loss.loss.value, 1e-9);
  EXPECT_TRUE(optimum.warnings.empty());
}

TEST(OptimumForTest, WarnsBeyondADecade) {
  ASSERT_OK_AND_ASSIGN(const ScalingLaw law, Fit());
  // The points' largest compute is 6 x 1e10 x 3e11 = 1.8e22.
  ASSERT_OK_AND_ASSIGN(ComputeOptimum optimum, OptimumFor(law, 1.7e23));
  EXPECT_TRUE(optimum.warnings.empty());
  ASSERT_OK_AND_ASSIGN(optimum, OptimumFor(law, 1.9e23));
  ASSERT_EQ(optimum.warnings.size(), 1);
  EXPECT_EQ(optimum.warnings[0].code, ScalingWarning::Code::kExtrapolation);
  EXPECT_NE(optimum.warnings[0].message.find("the budget, C = 1.9e+23, is 1.0 decades above"),
            std::string::npos)
      << optimum.warnings[0].message;
  ASSERT_OK_AND_ASSIGN(optimum, OptimumFor(law, 1e38));
  EXPECT_EQ(optimum.warnings.size(), 3);  // C, N and D
}

TEST(OptimumForTest, RefusesABudgetThatIsNone) {
  ASSERT_OK_AND_ASSIGN(const ScalingLaw law, Fit());
  for (const double compute : {0.0, -1e20, 1e39, std::nan(""), double{INFINITY}}) {
    EXPECT_THAT(OptimumFor(law, compute),
                StatusIs(StatusCode::kInvalidArgument, "it must be in [1, 1e+38]"));
  }
  ASSERT_OK_AND_ASSIGN(const ScalingLaw of_size,
                       FitScalingLaw({{1e7, 0, 0, 3.4}, {1e8, 0, 0, 2.9}, {1e9, 0, 0, 2.4}}, {}));
  EXPECT_THAT(OptimumFor(of_size, 1e20),
              StatusIs(StatusCode::kInvalidArgument, "a law in N alone does not say"));
}

TEST(PredictLossTest, IsTheLawAtThePoint) {
  ASSERT_OK_AND_ASSIGN(const ScalingLaw law, Fit());
  ASSERT_OK_AND_ASSIGN(const LossPrediction prediction, PredictLoss(law, {1e9, 0, 1.2e20, 0}));
  EXPECT_NEAR(prediction.point.tokens, 2e10, 1);
  EXPECT_NEAR(prediction.loss.loss.value, kTruth(1e9, 2e10), 0.02);
  EXPECT_TRUE(prediction.warnings.empty());
  ASSERT_OK_AND_ASSIGN(const LossPrediction far, PredictLoss(law, {1e12, 1e11, 0, 0}));
  EXPECT_EQ(far.warnings.size(), 1);
  EXPECT_THAT(PredictLoss(law, {1e9, 0, 0, 0}),
              StatusIs(StatusCode::kInvalidArgument, "a prediction of a law in D needs D"));
}

}  // namespace
}  // namespace lorad
