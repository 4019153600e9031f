// That the intervals of FitScalingLaw hold what they promise: all parameters of the true law lie in
// them together, in 95 of 100 noisy draws or more, whatever the law's shape, the number of runs and
// the noise. The seeds are the draws' numbers; none was chosen.
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "engine/plan/scaling_law.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/engine/plan/scaling_fixture.h"

namespace lorad {
namespace {

struct Shape {
  std::string name;
  ScalingForm form;
  std::map<std::string, double> truth;
  std::function<std::vector<ScalingPoint>(std::mt19937_64&)> draw;
};

std::ostream& operator<<(std::ostream& out, const Shape& shape) { return out << shape.name; }

Shape Grid(std::string name, ChinchillaLaw law, int sizes, int tokens, double noise) {
  return {
      std::move(name),
      ScalingForm::kChinchilla,
      {{"E", law.e}, {"A", law.a}, {"alpha", law.alpha}, {"B", law.b}, {"beta", law.beta}},
      [=](std::mt19937_64& random) { return SyntheticGrid(law, sizes, tokens, noise, random); }};
}

// Runs of `points` sizes on data without limit.
Shape Sizes(std::string name, ScalingForm form, std::map<std::string, double> truth,
            std::function<double(double)> loss, int points, double noise,
            bool heavy_tails = false) {
  return {std::move(name), form, std::move(truth), [=](std::mt19937_64& random) {
            std::normal_distribution<double> normal;
            // Of variance 1.
            std::student_t_distribution<double> student(4);
            std::vector<ScalingPoint> runs;
            for (int i = 0; i < points; ++i) {
              const double n = LogSpaced(1e7, 1e10, i, points);
              const double error = heavy_tails ? student(random) / std::sqrt(2) : normal(random);
              runs.push_back({n, 0, 0, loss(n) * std::exp(noise * error)});
            }
            return runs;
          }};
}

class ScalingRecoveryTest : public testing::TestWithParam<Shape> {};

TEST_P(ScalingRecoveryTest, IntervalsHoldTheTrueLawIn95Of100Draws) {
  const Shape& shape = GetParam();
  constexpr int kDraws = 100;
  int held = 0;
  std::map<std::string, int> held_alone;
  for (int draw = 0; draw < kDraws; ++draw) {
    std::mt19937_64 random(draw);
    ScalingLawOptions options{.form = shape.form, .variable = {}, .bootstrap = {}};
    options.bootstrap.draws = 200;
    ASSERT_OK_AND_ASSIGN(const ScalingLaw law, FitScalingLaw(shape.draw(random), options));
    ASSERT_EQ(law.parameters.size(), shape.truth.size());
    bool all = true;
    for (const LawParameter& parameter : law.parameters) {
      const double truth = shape.truth.at(parameter.name);
      const bool in = parameter.interval.lower <= truth && truth <= parameter.interval.upper;
      held_alone[parameter.name] += in;
      all &= in;
      EXPECT_LE(parameter.interval.lower, parameter.value);
      EXPECT_GE(parameter.interval.upper, parameter.value);
    }
    held += all;
  }
  RecordProperty("held", held);
  EXPECT_GE(held, 95) << testing::PrintToString(held_alone);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, ScalingRecoveryTest,
    testing::Values(
        Grid("Hoffmann_36_runs", {1.69, 406.4, 0.34, 410.7, 0.28}, 6, 6, 0.005),
        Grid("Besiroglu_25_runs", {1.8172, 482.01, 0.3478, 2085.43, 0.3658}, 5, 5, 0.002),
        Grid("Steep_30_runs", {1.2, 3000, 0.5, 20000, 0.5}, 5, 6, 0.01),
        Sizes(
            "Floor_12_runs", ScalingForm::kFloor, {{"E", 1.7}, {"A", 400}, {"alpha", 0.3}},
            [](double n) { return 1.7 + 400 / std::pow(n, 0.3); }, 12, 0.005),
        Sizes(
            "Floor_8_runs_heavy_tails", ScalingForm::kFloor,
            {{"E", 0.8}, {"A", 30}, {"alpha", 0.2}},
            [](double n) { return 0.8 + 30 / std::pow(n, 0.2); }, 8, 0.003, true),
        Sizes(
            "Kaplan_6_runs", ScalingForm::kKaplan, {{"Nc", 8.8e13}, {"alpha_N", 0.076}},
            [](double n) { return std::pow(8.8e13 / n, 0.076); }, 6, 0.01)),
    [](const testing::TestParamInfo<Shape>& shape) { return shape.param.name; });

}  // namespace
}  // namespace lorad
