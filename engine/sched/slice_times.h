// What a slice of training costs, learned from those that have run.
#ifndef LORAD_ENGINE_SCHED_SLICE_TIMES_H_
#define LORAD_ENGINE_SCHED_SLICE_TIMES_H_

#include <array>
#include <cstdint>

#include "absl/time/time.h"
#include "engine/sched/duration_estimate.h"
#include "engine/train/slice.h"

namespace lorad {

// One estimate for each kind of slice and size; sizes are half octaves of its tokens.
// Thread-compatible.
class SliceTimes {
 public:
  void Observe(const Slice& slice, absl::Duration took);
  // A slice of its kind has run.
  bool Known(const Slice& slice) const;

  // A time that such a slice seldom exceeds. A size that has not run takes the time of the next
  // larger one, or that of the next smaller one in proportion. A kind that has not run takes the
  // longest of all that compute; those that do not, and the very first, take none.
  absl::Duration Expected(const Slice& slice) const;

 private:
  static constexpr int kNumSizes = 64;
  static int SizeOf(int64_t tokens);

  const DurationEstimate* Nearest(SliceKind kind, int size, double* scale) const;

  std::array<std::array<DurationEstimate, kNumSizes>, kNumSliceKinds> times_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_SCHED_SLICE_TIMES_H_
