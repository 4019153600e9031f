#include "engine/plan/learning_curve.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "engine/core/status_macros.h"
#include "engine/plan/power_law.h"

namespace lorad {
namespace {

constexpr size_t kMaxCurvePoints = 64;
constexpr int kMaxBacktests = 8;
constexpr PowerLawForm kForm = {.num_terms = 1, .has_floor = true};

// The last loss of each step after 0.
absl::StatusOr<std::vector<CurvePoint>> InOrder(const std::vector<CurvePoint>& points) {
  std::map<int64_t, double> by_step;
  for (const CurvePoint& point : points) {
    if (point.step < 0 || !(point.loss > 0) || !std::isfinite(point.loss)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "eval loss %g after step %d: a forecast needs steps of 0 or more and losses "
          "that are positive and finite",
          point.loss, point.step));
    }
    if (point.step > 0) by_step[point.step] = point.loss;
  }
  std::vector<CurvePoint> ordered;
  for (const auto& [step, loss] : by_step) ordered.push_back({step, loss});
  return ordered;
}

// At most kMaxCurvePoints, evenly in ln(step); the last is one of them.
std::vector<CurvePoint> Thinned(const std::vector<CurvePoint>& points) {
  if (points.size() <= kMaxCurvePoints) return points;
  const double first = std::log(points.front().step), last = std::log(points.back().step);
  std::vector<CurvePoint> thinned;
  size_t next = 0;
  for (size_t i = 0; i < kMaxCurvePoints && next < points.size(); ++i) {
    const double wanted = first + (last - first) * i / (kMaxCurvePoints - 1);
    // As many stay as there are places left, so that none is lost where the steps are few.
    const size_t latest = points.size() - (kMaxCurvePoints - i);
    while (next < latest && std::log(points[next].step) < wanted - 1e-9) ++next;
    thinned.push_back(points[next++]);
  }
  return thinned;
}

PowerLawData DataOf(const std::vector<CurvePoint>& points, size_t count) {
  PowerLawData data;
  for (size_t i = 0; i < count; ++i) {
    data.log_x.push_back(std::log(static_cast<double>(points[i].step)));
    data.log_loss.push_back(std::log(points[i].loss));
  }
  return data;
}

// The largest difference in ln(loss) between the last point and what the points before it, of which
// at least half stay, said of it: in proportion to ln(steps) where that looked farther ahead than
// `log_ahead`.
absl::StatusOr<double> WorstBacktest(const std::vector<CurvePoint>& points, double log_ahead,
                                     double huber_delta) {
  const size_t n = points.size();
  const size_t fewest = std::max<size_t>(kMinCurvePoints, (n + 1) / 2);
  double worst = 0;
  const double log_last = std::log(static_cast<double>(points.back().step));
  const size_t stride = n > fewest ? std::max<size_t>(1, (n - fewest) / kMaxBacktests) : 1;
  for (size_t count = fewest; count < n; count += stride) {
    ASSIGN_OR_RETURN(const PowerLaw law, FitPowerLaw(kForm, DataOf(points, count), huber_delta));
    const double ahead = log_last - std::log(static_cast<double>(points[count - 1].step));
    const double miss = std::abs(law.LogLoss({&log_last, 1}) - std::log(points.back().loss));
    worst = std::max(worst, miss * std::min(1.0, log_ahead / ahead));
  }
  return worst;
}

}  // namespace

absl::StatusOr<LossForecast> ForecastFinalLoss(const std::vector<CurvePoint>& points,
                                               int64_t final_step,
                                               const BootstrapOptions& options) {
  ASSIGN_OR_RETURN(std::vector<CurvePoint> curve, InOrder(points));
  if (curve.size() < kMinCurvePoints) {
    return absl::FailedPreconditionError(
        absl::StrFormat("%d evaluations after step 0 are too few for a forecast: it needs %d",
                        curve.size(), kMinCurvePoints));
  }
  if (final_step < curve.back().step) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the final step, %d, is before the last evaluation, after step %d",
                        final_step, curve.back().step));
  }
  curve = Thinned(curve);
  const PowerLawData data = DataOf(curve, curve.size());
  ASSIGN_OR_RETURN(const PowerLaw law, FitPowerLaw(kForm, data, options.huber_delta));
  if (!(law.exponent[0] > 0)) {
    return absl::FailedPreconditionError("the eval loss does not fall: no forecast");
  }
  const double log_final = std::log(static_cast<double>(final_step));
  const double expected = law.LogLoss({&log_final, 1});
  const Bootstrap bootstrap(law, data, options);
  std::vector<double> measured;
  for (size_t i = 0; i < bootstrap.laws().size(); ++i) {
    measured.push_back(bootstrap.laws()[i].LogLoss({&log_final, 1}) +
                       bootstrap.MeasurementNoise(i));
  }
  Interval interval = bootstrap.Pointwise(expected, measured);
  ASSIGN_OR_RETURN(
      const double missed,
      WorstBacktest(curve, log_final - std::log(static_cast<double>(curve.back().step)),
                    options.huber_delta));
  interval.lower = std::min(interval.lower, expected - missed);
  interval.upper = std::max(interval.upper, expected + missed);
  return LossForecast{.step = curve.back().step,
                      .final_step = final_step,
                      .loss = std::exp(expected),
                      .interval = {std::exp(interval.lower), std::exp(interval.upper)},
                      .points = static_cast<int>(curve.size())};
}

}  // namespace lorad
