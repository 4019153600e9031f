// Where a learning curve leads: the final eval loss of a run, forecast from its evaluations so far.
//
// The curve is taken as L(t) = E + A / t^a in optimiser steps t (Hestness et al., arXiv:1712.00409,
// and power_law.h). A schedule that decays, or data that is seen again, bends a curve away from it;
// so the interval is not the law's alone: it is at least as wide as what forecasts from earlier
// parts of the same curve missed its last point by, over a stretch of steps that is no longer in
// proportion. A bend that no evaluation has shown yet is in neither.
#ifndef LORAD_ENGINE_PLAN_LEARNING_CURVE_H_
#define LORAD_ENGINE_PLAN_LEARNING_CURVE_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/plan/bootstrap.h"

namespace lorad {

struct CurvePoint {
  int64_t step = 0;  // optimiser steps done
  double loss = 0;   // of the eval set, nats a token
};

// Evaluations that a forecast needs: two more than the law has parameters.
inline constexpr int kMinCurvePoints = 5;

struct LossForecast {
  int64_t step = 0;  // of the last evaluation
  int64_t final_step = 0;
  double loss = 0;    // expected at final_step
  Interval interval;  // holds the loss measured at final_step with options.confidence
  int points = 0;     // evaluations it stands on
};

// `points` may be in any order; of two at one step the later in the list counts, as of a run that
// was resumed. Points at step 0, before training, are no part of the law and are left out; of more
// than 64, that many are used, evenly in ln(step). `final_step`: at or after the last point's step.
// kFailedPrecondition if there are fewer than kMinCurvePoints, or the loss does not fall; kInvalid-
// Argument for losses that are not positive and finite and for a final_step before the last point.
// Takes tens of milliseconds with 200 draws on one core. Deterministic. Thread-safe.
absl::StatusOr<LossForecast> ForecastFinalLoss(const std::vector<CurvePoint>& points,
                                               int64_t final_step, const BootstrapOptions& options);

}  // namespace lorad

#endif  // LORAD_ENGINE_PLAN_LEARNING_CURVE_H_
