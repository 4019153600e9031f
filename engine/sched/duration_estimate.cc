#include "engine/sched/duration_estimate.h"

#include <algorithm>
#include <cmath>

namespace lorad {

void DurationEstimate::Observe(absl::Duration sample) {
  constexpr int kBeginning = 3;
  const double seconds = absl::ToDoubleSeconds(sample);
  if (samples_ < kBeginning) {
    mean_ = samples_ == 0 ? seconds : std::min(mean_, seconds);
    ++samples_;
    return;
  }
  const double bounded = mean_ > 0 ? std::min(seconds, 2 * mean_) : seconds;
  deviation_ += (std::abs(bounded - mean_) - deviation_) / 4;
  mean_ += (bounded - mean_) / 8;
}

}  // namespace lorad
