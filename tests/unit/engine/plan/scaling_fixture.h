// Points for the tests of scaling laws: the public sets of tests/golden/scaling, and synthetic
// runs.
#ifndef LORAD_TESTS_UNIT_ENGINE_PLAN_SCALING_FIXTURE_H_
#define LORAD_TESTS_UNIT_ENGINE_PLAN_SCALING_FIXTURE_H_

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "engine/plan/scaling_law.h"
#include "gtest/gtest.h"

namespace lorad {

// The rows of a file of tests/golden/scaling, whose first line names the columns.
inline std::vector<ScalingPoint> PublicPoints(const std::string& name) {
  std::ifstream file(LORAD_SOURCE_DIR "/tests/golden/scaling/" + name);
  EXPECT_TRUE(file.is_open()) << name;
  std::string line, cell;
  std::getline(file, line);
  std::vector<std::string> columns;
  for (std::istringstream header(line); std::getline(header, cell, ',');) columns.push_back(cell);
  std::vector<ScalingPoint> points;
  while (std::getline(file, line)) {
    ScalingPoint point;
    std::istringstream row(line);
    for (const std::string& column : columns) {
      std::getline(row, cell, ',');
      double& field = column == "parameters" ? point.parameters
                      : column == "tokens"   ? point.tokens
                      : column == "compute"  ? point.compute
                                             : point.loss;
      field = std::strtod(cell.c_str(), nullptr);
    }
    points.push_back(point);
  }
  return points;
}

// The 240 points that Besiroglu et al. fit: without the five of highest loss, the file's first
// rows.
inline std::vector<ScalingPoint> ReplicationPoints() {
  std::vector<ScalingPoint> points = PublicPoints("chinchilla_figure4.csv");
  points.erase(points.begin(), points.begin() + 5);
  return points;
}

struct ChinchillaLaw {
  double e, a, alpha, b, beta;
  double operator()(double n, double d) const {
    return e + a / std::pow(n, alpha) + b / std::pow(d, beta);
  }
};

// `index` of `count` values from `low` to `high`, evenly in the logarithm.
inline double LogSpaced(double low, double high, int index, int count) {
  return low * std::pow(high / low, static_cast<double>(index) / (count - 1));
}

// A grid of sizes x tokens whose ln(loss) has Gaussian noise of standard deviation `noise`.
inline std::vector<ScalingPoint> SyntheticGrid(const ChinchillaLaw& law, int sizes, int tokens,
                                               double noise, std::mt19937_64& random) {
  std::normal_distribution<double> normal;
  std::vector<ScalingPoint> points;
  for (int i = 0; i < sizes; ++i) {
    for (int j = 0; j < tokens; ++j) {
      const double n = LogSpaced(2e7, 1e10, i, sizes), d = LogSpaced(5e8, 3e11, j, tokens);
      points.push_back({n, d, 0, law(n, d) * std::exp(noise * normal(random))});
    }
  }
  return points;
}

}  // namespace lorad

#endif  // LORAD_TESTS_UNIT_ENGINE_PLAN_SCALING_FIXTURE_H_
