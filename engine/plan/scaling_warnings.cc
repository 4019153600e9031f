#include "engine/plan/scaling_warnings.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/plan/compute_optimal.h"
#include "engine/plan/scaling_points.h"

namespace lorad {
namespace {

using Code = ScalingWarning::Code;

constexpr size_t kPointsPerParameter = 3;
constexpr double kDecade = 10;
constexpr double kOutlier = 6;           // standard deviations
constexpr double kLeastOutlier = 0.001;  // of the loss: below, it is rounding
// Tokens per parameter at which compute is best spent where no law says: Hoffmann et al., table 3.
constexpr double kTokensPerParameter = 20;
// A run is under-trained with less than this share of the compute-optimal tokens per parameter.
constexpr double kUnderTrained = 0.25;

void WarnOfFewPoints(const ScalingLaw& law, std::vector<ScalingWarning>& warnings) {
  const size_t parameters = law.parameters.size(), points = law.points.size();
  if (points >= kPointsPerParameter * parameters) return;
  warnings.push_back(
      {Code::kFewPoints,
       absl::StrFormat(
           "%d points for %d parameters leave %d to judge the noise by: the intervals are "
           "wide, and their form cannot be checked; %d points or more are better",
           points, parameters, points - parameters, kPointsPerParameter * parameters)});
}

// An exponent that may be zero, or a positive parameter known to no more than a factor of a
// thousand (A and B are extrapolated to one parameter and one token, so tens are usual).
bool IsUnidentified(const LawParameter& parameter, bool is_exponent) {
  const Interval& interval = parameter.interval;
  if (!std::isfinite(interval.upper)) return true;
  return is_exponent ? interval.lower <= 0 : interval.upper > 1000 * interval.lower;
}

void WarnOfUnidentified(const ScalingLaw& law, std::vector<ScalingWarning>& warnings) {
  std::vector<std::string> names;
  for (const LawParameter& parameter : law.parameters) {
    const bool is_exponent = parameter.name.starts_with("alpha") || parameter.name == "beta";
    if (IsUnidentified(parameter, is_exponent)) names.push_back(parameter.name);
  }
  if (names.empty()) return;
  warnings.push_back(
      {Code::kUnidentified,
       absl::StrFormat("the points do not determine %s: add runs over a wider range, "
                       "or fit a form with fewer parameters",
                       absl::StrJoin(names, ", "))});
}

void WarnOfOutliers(const ScalingLaw& law, std::vector<ScalingWarning>& warnings) {
  // A fit to few points passes through some of them, and the others look far.
  if (law.points.size() < kPointsPerParameter * law.parameters.size()) return;
  const PowerLawData data = DataOf(law.points, {law.form, law.variables});
  std::vector<double> distances;
  for (size_t i = 0; i < data.size(); ++i) {
    distances.push_back(
        std::abs(data.log_loss[i] - law.law.LogLoss(data.row(i, law.law.form.num_terms))));
  }
  std::vector<double> sorted = distances;
  std::sort(sorted.begin(), sorted.end());
  // Of Gaussian noise, half lie within 0.6745 standard deviations.
  const double deviation = sorted[sorted.size() / 2] / 0.6745;
  std::vector<std::string> names;
  for (size_t i = 0; i < distances.size(); ++i) {
    if (distances[i] > kOutlier * deviation && distances[i] > kLeastOutlier) {
      names.push_back(absl::StrFormat("%d", i + 1));
    }
  }
  if (names.empty()) return;
  const size_t shown = std::min<size_t>(names.size(), 10);
  const std::string list =
      absl::StrJoin(names.begin(), names.begin() + static_cast<ptrdiff_t>(shown), ", ");
  warnings.push_back(
      {Code::kOutliers,
       absl::StrFormat(
           "%d of %d points lie more than %g times as far from the law as noise would put "
           "them (points %s%s): they draw the law to them; leave them out if those runs "
           "went wrong",
           names.size(), law.points.size(), kOutlier, list, shown < names.size() ? ", ..." : "")});
}

// D/N at which the compute of the run would have been spent best.
double OptimalRatio(const ScalingLaw& law, const ScalingPoint& point) {
  if (law.form != ScalingForm::kChinchilla) return kTokensPerParameter;
  const ComputeSplit split =
      SplitCompute(law.law, std::log(kFlopsPerParameterToken) + std::log(point.parameters) +
                                std::log(point.tokens));
  return FromLog(split.log_tokens - split.log_parameters);
}

void WarnOfUnderTrained(const ScalingLaw& law, std::vector<ScalingWarning>& warnings) {
  size_t count = 0, known = 0, worst = 0;
  double worst_share = kUnderTrained;
  for (size_t i = 0; i < law.points.size(); ++i) {
    const ScalingPoint& point = law.points[i];
    if (point.parameters == 0 || point.tokens == 0) continue;
    ++known;
    const double share = point.tokens / point.parameters / OptimalRatio(law, point);
    if (share >= kUnderTrained) continue;
    ++count;
    if (share < worst_share) worst = i, worst_share = share;
  }
  // The law in N and D needs runs on both sides of the optimum, so there only a majority is a
  // fault.
  const bool two = law.form == ScalingForm::kChinchilla;
  if (count == 0 || (two && 2 * count <= known)) return;
  const ScalingPoint& point = law.points[worst];
  warnings.push_back(
      {Code::kUnderTrained,
       absl::StrFormat(
           "%d of %d runs are under-trained: fewer than a quarter of the compute-optimal "
           "tokens per parameter; point %d has %.2g where %.2g are optimal. Their loss "
           "says more of too few tokens than of size: train them longer or leave them out",
           count, known, worst + 1, point.tokens / point.parameters, OptimalRatio(law, point))});
}

}  // namespace

std::vector<ScalingWarning> WarningsOf(const ScalingLaw& law) {
  std::vector<ScalingWarning> warnings;
  WarnOfFewPoints(law, warnings);
  WarnOfUnidentified(law, warnings);
  WarnOfOutliers(law, warnings);
  WarnOfUnderTrained(law, warnings);
  return warnings;
}

std::optional<ScalingWarning> ExtrapolationWarning(const ScalingLaw& law, ScalingVariable variable,
                                                   double value, std::string_view what) {
  const ScalingRange& range = law.range(variable);
  if (range.max == 0) return std::nullopt;
  const bool above = value > kDecade * range.max;
  if (!above && value >= range.min / kDecade) return std::nullopt;
  const double decades = std::log10(above ? value / range.max : range.min / value);
  return ScalingWarning{
      Code::kExtrapolation,
      absl::StrFormat("%s, %s = %.3g, is %.1f decades %s all points (%.3g to %.3g): the intervals "
                      "assume that the law still holds there",
                      what, SymbolOf(variable), value, decades, above ? "above" : "below",
                      range.min, range.max)};
}

}  // namespace lorad
