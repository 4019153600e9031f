// A duration that is measured again and again, and how long it seldom exceeds.
#ifndef LORAD_ENGINE_SCHED_DURATION_ESTIMATE_H_
#define LORAD_ENGINE_SCHED_DURATION_ESTIMATE_H_

#include "absl/time/time.h"

namespace lorad {

// A running mean and mean deviation. Source: RFC 6298, gains 1/8 and 1/4. The shortest of the first
// three samples begins it, because a first call may load code; a later sample counts as twice the
// mean at most unless that is 0, so that one stall does not stay in memory. Thread-compatible.
class DurationEstimate {
 public:
  // `sample` >= 0.
  void Observe(absl::Duration sample);

  bool known() const { return samples_ > 0; }
  // The mean and three deviations: of normal noise 99 % lie below. Zero before the first sample.
  absl::Duration high() const { return absl::Seconds(mean_ + 3 * deviation_); }

 private:
  int samples_ = 0;                  // counted to the end of the beginning
  double mean_ = 0, deviation_ = 0;  // seconds
};

}  // namespace lorad

#endif  // LORAD_ENGINE_SCHED_DURATION_ESTIMATE_H_
