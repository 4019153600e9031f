#include "engine/plan/learning_curve.h"

#include <cmath>
#include <numbers>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using absl::StatusCode;

BootstrapOptions Options() {
  BootstrapOptions options;
  options.draws = 200;
  return options;
}

double Law(double step) { return 1.4 + 3 / std::sqrt(step); }

std::vector<CurvePoint> Curve(int64_t every, int64_t until, double noise, std::mt19937_64& random) {
  std::normal_distribution<double> normal;
  std::vector<CurvePoint> points;
  for (int64_t step = every; step <= until; step += every) {
    points.push_back({step, Law(step) * std::exp(noise * normal(random))});
  }
  return points;
}

TEST(LearningCurveTest, ACurveWithoutNoiseIsForecastExactly) {
  std::mt19937_64 random(1);
  ASSERT_OK_AND_ASSIGN(const LossForecast forecast,
                       ForecastFinalLoss(Curve(50, 400, 0, random), 1000, Options()));
  EXPECT_NEAR(forecast.loss, Law(1000), 1e-3);
  EXPECT_EQ(forecast.step, 400);
  EXPECT_EQ(forecast.final_step, 1000);
  EXPECT_EQ(forecast.points, 8);
  EXPECT_LT(forecast.interval.upper - forecast.interval.lower, 0.01);
}

// Of what will be measured, its noise included.
TEST(LearningCurveTest, TheIntervalHoldsTheFinalLossIn95Of100Draws) {
  for (const int64_t until : {300, 600, 900}) {
    int held = 0;
    double width = 0;
    for (int draw = 0; draw < 100; ++draw) {
      std::mt19937_64 random(draw);
      BootstrapOptions options;
      options.draws = 100;
      ASSERT_OK_AND_ASSIGN(const LossForecast forecast,
                           ForecastFinalLoss(Curve(50, until, 0.003, random), 1000, options));
      std::normal_distribution<double> normal;
      const double measured = Law(1000) * std::exp(0.003 * normal(random));
      held += forecast.interval.lower <= measured && measured <= forecast.interval.upper;
      width += (forecast.interval.upper - forecast.interval.lower) / 100;
    }
    EXPECT_GE(held, 95) << "from " << until << " steps";
    EXPECT_LT(width, 0.2 * Law(1000)) << "from " << until << " steps";
  }
}

// A cosine schedule bends the curve below its law at the end; the earlier evaluations show part of
// it. Form of the drop: Tissue et al., arXiv:2408.11029, loss falls with the decay so far.
TEST(LearningCurveTest, ABendThatShowsWidensTheInterval) {
  const auto bent = [](double step) {
    return Law(step) - 0.15 * (1 - std::cos(std::numbers::pi * step / 1000)) / 2;
  };
  std::vector<CurvePoint> straight, curve;
  for (int64_t step = 50; step <= 700; step += 50) {
    straight.push_back({step, Law(step)});
    curve.push_back({step, bent(step)});
  }
  ASSERT_OK_AND_ASSIGN(const LossForecast without, ForecastFinalLoss(straight, 1000, Options()));
  ASSERT_OK_AND_ASSIGN(const LossForecast with, ForecastFinalLoss(curve, 1000, Options()));
  EXPECT_GT(with.interval.upper - with.interval.lower,
            10 * (without.interval.upper - without.interval.lower));
  EXPECT_LT(with.interval.lower, bent(1000));
  EXPECT_GT(with.interval.upper, bent(1000));
}

// The eval loss of deploy/demo/sql.flags with --eval_steps=10: a linear schedule, data seen again
// and three decades of fall, so neither a power law nor its noise.
TEST(LearningCurveTest, EveryForecastOfTheDemosJobHoldsItsFinalLoss) {
  const double losses[] = {1.816,    0.4551,   0.2032,   0.0802,   0.0385,   0.01542,  0.02574,
                           0.01804,  0.008553, 0.004756, 0.004553, 0.002647, 0.002731, 0.005657,
                           0.002499, 0.002347, 0.002341, 0.002105, 0.002005};
  const double final_loss = 0.001982;
  std::vector<CurvePoint> points;
  for (const double loss : losses) {
    points.push_back({static_cast<int64_t>(10 * (points.size() + 1)), loss});
    if (points.size() < kMinCurvePoints) continue;
    ASSERT_OK_AND_ASSIGN(const LossForecast forecast, ForecastFinalLoss(points, 200, Options()));
    EXPECT_LT(forecast.interval.lower, final_loss) << "from " << points.size();
    EXPECT_GT(forecast.interval.upper, final_loss) << "from " << points.size();
  }
}

TEST(LearningCurveTest, AStepThatWasDoneAgainCountsOnce) {
  std::mt19937_64 random(2);
  std::vector<CurvePoint> points = Curve(50, 400, 0.001, random);
  ASSERT_OK_AND_ASSIGN(const LossForecast once, ForecastFinalLoss(points, 1000, Options()));
  points.insert(points.begin(), {400, 9.0});
  points.insert(points.begin(), {0, 12.0});  // before training
  ASSERT_OK_AND_ASSIGN(const LossForecast again, ForecastFinalLoss(points, 1000, Options()));
  EXPECT_EQ(once.loss, again.loss);
  EXPECT_EQ(again.points, 8);
}

TEST(LearningCurveTest, ALongCurveIsThinnedAndKeepsItsEnd) {
  std::mt19937_64 random(3);
  ASSERT_OK_AND_ASSIGN(const LossForecast forecast,
                       ForecastFinalLoss(Curve(1, 5000, 0.002, random), 10000, Options()));
  EXPECT_EQ(forecast.points, 64);
  EXPECT_EQ(forecast.step, 5000);
  EXPECT_NEAR(forecast.loss, Law(10000), 0.01);
}

TEST(LearningCurveTest, RefusesWhatCannotBeForecast) {
  std::mt19937_64 random(4);
  EXPECT_THAT(ForecastFinalLoss(Curve(50, 200, 0, random), 1000, Options()),
              StatusIs(StatusCode::kFailedPrecondition,
                       "4 evaluations after step 0 are too few for a forecast: it needs 5"));
  EXPECT_THAT(
      ForecastFinalLoss({{10, 1.0}, {20, 1.1}, {30, 1.2}, {40, 1.3}, {50, 1.4}}, 100, Options()),
      StatusIs(StatusCode::kFailedPrecondition, "does not fall"));
  EXPECT_THAT(ForecastFinalLoss(Curve(50, 400, 0, random), 399, Options()),
              StatusIs(StatusCode::kInvalidArgument, "the final step, 399, is before"));
  for (const double loss : {0.0, -1.0, std::nan(""), double{INFINITY}}) {
    EXPECT_THAT(ForecastFinalLoss({{10, loss}}, 100, Options()),
                StatusIs(StatusCode::kInvalidArgument, "after step 10: a forecast needs"));
  }
}

TEST(LearningCurveTest, ExtremeCurvesDoNotOverflow) {
  const std::vector<std::vector<CurvePoint>> curves = {
      {{1, 1e300}, {2, 1e-300}, {3, 1e300}, {4, 1e-300}, {5, 1e-300}},
      {{1, 5e-324}, {2, 4e-324}, {3, 4e-324}, {INT64_MAX / 2, 4e-324}, {INT64_MAX - 1, 4e-324}},
      {{1, 2}, {2, 2}, {3, 2}, {4, 2}, {5, 2}},
  };
  for (const auto& curve : curves) {
    const absl::StatusOr<LossForecast> forecast = ForecastFinalLoss(curve, INT64_MAX, Options());
    if (!forecast.ok()) continue;
    EXPECT_FALSE(std::isnan(forecast->loss));
    EXPECT_LE(forecast->interval.lower, forecast->interval.upper);
  }
}

}  // namespace
}  // namespace lorad
