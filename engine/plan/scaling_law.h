// Scaling laws of pre-training: loss as a function of parameters N, training tokens D and compute
// C, fitted to runs that were made, with intervals.
//   kChinchilla   L = E + A / N^alpha + B / D^beta   Hoffmann et al., arXiv:2203.15556, equation 2
//   kKaplan       L = (Xc / X)^alpha_X               Kaplan et al., arXiv:2001.08361,
//   equations 1.1-1.3 kFloor        L = E + A / X^alpha                Henighan et al.,
//   arXiv:2010.14701, equation 1.1
// X is one of N, D and C. E is the irreducible loss: what no model and no data would do away with.
// The rest is reducible. All are fitted as power_law.h says.
#ifndef LORAD_ENGINE_PLAN_SCALING_LAW_H_
#define LORAD_ENGINE_PLAN_SCALING_LAW_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/plan/bootstrap.h"
#include "engine/plan/power_law.h"

namespace lorad {

// One run that was made. What is 0 is not known; two of parameters, tokens and compute give the
// third by C = 6 N D.
struct ScalingPoint {
  double parameters = 0;  // N, in [1, 1e18]
  double tokens = 0;      // D, in [1, 1e18]
  double compute = 0;     // C in FLOPs, in [1, 1e38]
  double loss = 0;        // final, mean cross-entropy in nats a token, in (0, 1000]
};

enum class ScalingForm { kChinchilla, kKaplan, kFloor };
enum class ScalingVariable { kParameters, kTokens, kCompute };
inline constexpr int kNumScalingVariables = 3;
// "N", "D" or "C".
std::string_view SymbolOf(ScalingVariable variable);

struct ScalingLawOptions {
  // Unset: kChinchilla if all points have N and D, each with three values or more, that do not rise
  // together, and there are 8 points; else kFloor with 5 points, else kKaplan.
  std::optional<ScalingForm> form;
  // Of kKaplan and kFloor. Unset: N or D if it varies and the other does not, else C.
  std::optional<ScalingVariable> variable;
  BootstrapOptions bootstrap;
};

struct LawParameter {
  std::string name;  // "E", "A", "alpha", "B", "beta"; of kKaplan "Nc" and "alpha_N" or the like
  double value = 0;
  Interval interval;  // holds the true value together with the other parameters' intervals
};

struct ScalingWarning {
  enum class Code { kFewPoints, kUnidentified, kUnderTrained, kOutliers, kExtrapolation };
  Code code;
  std::string message;  // a sentence, for a person
};

// The smallest and largest value among the points; 0 and 0 where no point has one.
struct ScalingRange {
  double min = 0;
  double max = 0;
};

struct ScalingLaw {
  ScalingForm form;
  std::vector<ScalingVariable> variables;  // of the law's terms: {N, D}, or one
  std::vector<ScalingPoint> points;        // with what could be filled in
  std::array<ScalingRange, kNumScalingVariables> ranges;
  PowerLaw law;
  Bootstrap bootstrap;
  std::vector<LawParameter> parameters;
  double max_log_floor = 0;  // ln of what E cannot exceed: the smallest loss, its noise allowed for
  std::vector<ScalingWarning> warnings;

  const ScalingRange& range(ScalingVariable variable) const {
    return ranges[static_cast<int>(variable)];
  }
};

// kInvalidArgument, naming the point, the value and the bound, for values out of range, for points
// that lack what the form needs, for too few of them, and where they cannot tell the form's terms
// apart: N and D that rise together, or a variable with fewer than three values. Takes about
// points * draws * 3 us on one core. Deterministic. Thread-safe.
absl::StatusOr<ScalingLaw> FitScalingLaw(std::vector<ScalingPoint> points,
                                         const ScalingLawOptions& options);

// exp(log_value), 0 or infinity where double ends.
double FromLog(double log_value);
Interval FromLog(const Interval& log_interval);

}  // namespace lorad

#endif  // LORAD_ENGINE_PLAN_SCALING_LAW_H_
