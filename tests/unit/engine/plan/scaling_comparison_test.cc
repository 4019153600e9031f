#include "engine/plan/scaling_comparison.h"

#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/engine/plan/scaling_fixture.h"

namespace lorad {
namespace {

using absl::StatusCode;

// A law of one variable, C, from runs between 1e17 and 1e21 FLOPs.
absl::StatusOr<ScalingLaw> Family(double floor, double coefficient, double exponent, uint64_t seed,
                                  double noise = 0.001) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::vector<ScalingPoint> points;
  for (int i = 0; i < 12; ++i) {
    const double c = LogSpaced(1e17, 1e21, i, 12);
    points.push_back(
        {0, 0, c,
         (floor + coefficient * std::pow(c / 1e19, -exponent)) * std::exp(noise * normal(random))});
  }
  ScalingLawOptions options{.form = floor > 0 ? ScalingForm::kFloor : ScalingForm::kKaplan,
                            .variable = {},
                            .bootstrap = {}};
  options.bootstrap.draws = 200;
  options.bootstrap.seed = seed;
  return FitScalingLaw(std::move(points), options);
}

TEST(ScalingComparisonTest, TheSteeperFamilyWinsBeyondTheCrossing) {
  // Equal at 1e20 exactly, where the first takes the lead.
  const double crossing = 1e20;
  ASSERT_OK_AND_ASSIGN(const ScalingLaw steep, Family(0, 3 * std::pow(10, 0.03), 0.08, 1));
  ASSERT_OK_AND_ASSIGN(const ScalingLaw flat, Family(0, 3, 0.05, 2));
  ASSERT_OK_AND_ASSIGN(const ScalingComparison comparison,
                       CompareScaling(steep, flat, {1e18, 1e22}));
  EXPECT_EQ(comparison.variable, ScalingVariable::kCompute);
  EXPECT_EQ(comparison.steeper, 0);
  EXPECT_NEAR(comparison.slopes[0].value, 0.08, 0.002);
  EXPECT_NEAR(comparison.slopes[1].value, 0.05, 0.002);
  EXPECT_GT(comparison.slope_difference.interval.lower, 0.02);
  ASSERT_EQ(comparison.crossings.size(), 1);
  const Crossing& found = comparison.crossings[0];
  EXPECT_EQ(found.ahead_beyond, 0);
  EXPECT_EQ(found.share, 1);
  EXPECT_NEAR(found.at.value, crossing, 0.1 * crossing);
  EXPECT_LT(found.at.interval.upper / found.at.interval.lower, 2);
  EXPECT_NEAR(found.loss, 3 * std::pow(10, -0.05), 0.01);
  EXPECT_EQ(comparison.standings[0].ahead, 1);
  EXPECT_EQ(comparison.standings[1].ahead, 0);
  EXPECT_EQ(comparison.standings[1].share, 1);
  EXPECT_EQ(comparison.long_run.ahead, 0);
  EXPECT_TRUE(comparison.warnings.empty());
}

TEST(ScalingComparisonTest, TheIntervalOfTheCrossingHoldsIt) {
  int held = 0;
  for (uint64_t draw = 0; draw < 100; ++draw) {
    ASSERT_OK_AND_ASSIGN(const ScalingLaw steep,
                         Family(0, 3 * std::pow(10, 0.03), 0.08, 2 * draw, 0.005));
    ASSERT_OK_AND_ASSIGN(const ScalingLaw flat, Family(0, 3, 0.05, 2 * draw + 1, 0.005));
    ASSERT_OK_AND_ASSIGN(const ScalingComparison comparison, CompareScaling(steep, flat, {}));
    ASSERT_EQ(comparison.crossings.size(), 1);
    const Interval& interval = comparison.crossings[0].at.interval;
    held += interval.lower < 1e20 && 1e20 < interval.upper;
  }
  // 95 are meant, with a standard error of 2.2.
  EXPECT_GE(held, 90);
}

TEST(ScalingComparisonTest, ALowerFloorWinsInTheEndOverASteeperSlope) {
  ASSERT_OK_AND_ASSIGN(const ScalingLaw steep, Family(2.0, 1.0, 0.3, 1, 0.0002));
  ASSERT_OK_AND_ASSIGN(const ScalingLaw low, Family(1.7, 1.5, 0.15, 2, 0.0002));
  ASSERT_OK_AND_ASSIGN(const ScalingComparison comparison, CompareScaling(steep, low, {}));
  EXPECT_EQ(comparison.steeper, 0);
  ASSERT_EQ(comparison.crossings.size(), 2);  // in turn
  EXPECT_LT(comparison.crossings[0].at.value, comparison.crossings[1].at.value);
  EXPECT_EQ(comparison.crossings[0].ahead_beyond, 0);
  EXPECT_EQ(comparison.crossings[1].ahead_beyond, 1);
  for (const Crossing& crossing : comparison.crossings) {
    const double c = crossing.at.value / 1e19;
    EXPECT_NEAR(2.0 + std::pow(c, -0.3), 1.7 + 1.5 * std::pow(c, -0.15), 0.01);
  }
  EXPECT_EQ(comparison.long_run.ahead, 1);
  EXPECT_GT(comparison.long_run.share, 0.99);
}

TEST(ScalingComparisonTest, SaysWhenThePointsDoNotTell) {
  ASSERT_OK_AND_ASSIGN(const ScalingLaw first, Family(0, 3, 0.0601, 1, 0.02));
  ASSERT_OK_AND_ASSIGN(const ScalingLaw second, Family(0, 3, 0.06, 2, 0.02));
  ASSERT_OK_AND_ASSIGN(const ScalingComparison comparison, CompareScaling(first, second, {1e30}));
  EXPECT_FALSE(comparison.steeper.has_value());
  EXPECT_LT(comparison.standings[0].share, 0.999);
}

TEST(ScalingComparisonTest, WarnsOfACrossingFarBeyondThePoints) {
  ASSERT_OK_AND_ASSIGN(const ScalingLaw steep, Family(0, 3 * std::pow(1e6, 0.03), 0.08, 1));
  ASSERT_OK_AND_ASSIGN(const ScalingLaw flat, Family(0, 3, 0.05, 2));
  ASSERT_OK_AND_ASSIGN(const ScalingComparison comparison, CompareScaling(steep, flat, {}));
  ASSERT_EQ(comparison.crossings.size(), 1);
  EXPECT_NEAR(std::log10(comparison.crossings[0].at.value), 25, 0.5);
  EXPECT_EQ(comparison.warnings.size(), 2);  // one a family
}

TEST(ScalingComparisonTest, ComparesFrontiersOfLawsInParametersAndTokens) {
  std::mt19937_64 random(1);
  ScalingLawOptions options;
  options.bootstrap.draws = 100;
  ASSERT_OK_AND_ASSIGN(
      const ScalingLaw first,
      FitScalingLaw(SyntheticGrid({1.69, 406.4, 0.34, 410.7, 0.28}, 5, 5, 0.001, random), options));
  ASSERT_OK_AND_ASSIGN(const ScalingLaw second, Family(1.5, 1.2, 0.1, 2));
  ASSERT_OK_AND_ASSIGN(const ScalingComparison comparison, CompareScaling(first, second, {}));
  EXPECT_EQ(comparison.variable, ScalingVariable::kCompute);
  EXPECT_NEAR(comparison.slopes[0].value, 0.34 * 0.28 / 0.62, 0.01);
}

TEST(ScalingComparisonTest, RefusesWhatCannotBeCompared) {
  ASSERT_OK_AND_ASSIGN(const ScalingLaw in_compute, Family(0, 3, 0.06, 1));
  ASSERT_OK_AND_ASSIGN(const ScalingLaw in_size,
                       FitScalingLaw({{1e7, 0, 0, 3.4}, {1e8, 0, 0, 2.9}, {1e9, 0, 0, 2.4}}, {}));
  EXPECT_THAT(CompareScaling(in_compute, in_size, {}),
              StatusIs(StatusCode::kInvalidArgument, "laws are in C and in N"));
  EXPECT_THAT(CompareScaling(in_compute, in_compute, {std::nan("")}),
              StatusIs(StatusCode::kInvalidArgument, "cannot be compared at nan"));
}

}  // namespace
}  // namespace lorad
