// What a scaling law says of runs that were not made: how to spend a budget, and what loss to
// expect.
#ifndef LORAD_ENGINE_PLAN_COMPUTE_OPTIMAL_H_
#define LORAD_ENGINE_PLAN_COMPUTE_OPTIMAL_H_

#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/plan/scaling_law.h"

namespace lorad {

// The N and D of least loss for a compute of 6 N D, as logarithms. In closed form, Hoffmann et al.,
// arXiv:2203.15556, equation 4: N = G (C/6)^a, D = (C/6)^b / G, with a = beta / (alpha + beta),
// b = alpha / (alpha + beta) and G = (alpha A / (beta B))^(1 / (alpha + beta)).
struct ComputeSplit {
  double log_parameters = 0;
  double log_tokens = 0;
};
// Not finite where an exponent is not above 0. REQUIRES: a law of N and D.
ComputeSplit SplitCompute(const PowerLaw& law, double log_compute);

// The loss of `law` along its best split, as a law in compute alone: E + K / C^gamma, gamma =
// alpha beta / (alpha + beta), both terms falling alike. A law of one variable is its own.
PowerLaw Frontier(const PowerLaw& law);

// A value and the interval that holds it, alone, with the fit's confidence.
struct Estimate {
  double value = 0;
  Interval interval;
};

// Of the law's mean, not of one run's noise.
struct LossEstimate {
  Estimate loss;                        // irreducible + reducible
  std::optional<Estimate> irreducible;  // E; not of kKaplan
  Estimate reducible;
};

// The best use of a budget. The split is known from a law of N and D alone.
struct ComputeOptimum {
  double compute = 0;
  std::optional<Estimate> parameters;
  std::optional<Estimate> tokens;
  std::optional<Estimate> tokens_per_parameter;
  LossEstimate loss;
  std::vector<ScalingWarning> warnings;  // beyond a decade from the points
};
// `compute`: FLOPs in [1, 1e38], else kInvalidArgument; so also for a law of N or D alone.
absl::StatusOr<ComputeOptimum> OptimumFor(const ScalingLaw& law, double compute);

// The loss of a run with the law's variables given in `point` (its loss is not read). What follows
// by C = 6 N D may be left out. kInvalidArgument for a missing one or one out of ScalingPoint's
// range.
struct LossPrediction {
  ScalingPoint point;  // completed; loss 0
  LossEstimate loss;
  std::vector<ScalingWarning> warnings;
};
absl::StatusOr<LossPrediction> PredictLoss(const ScalingLaw& law, ScalingPoint point);

}  // namespace lorad

#endif  // LORAD_ENGINE_PLAN_COMPUTE_OPTIMAL_H_
