// What a pass over rows costs, learned from those that have run.
#ifndef LORAD_ENGINE_SCHED_PASS_TIMES_H_
#define LORAD_ENGINE_SCHED_PASS_TIMES_H_

#include <array>
#include <cstdint>

#include "absl/time/time.h"
#include "engine/sched/duration_estimate.h"

namespace lorad {

// Passes of PassKind::kRowInvariant come in sizes: 1 row, 2, 4 and so on; one between two sizes
// counts as the larger, as kernels take rows in tiles. Thread-compatible.
class PassTimes {
 public:
  static constexpr int kNumSizes = 16;  // the last holds whatever is more
  static int64_t RowsOf(int size) { return int64_t{1} << size; }

  void Observe(int64_t rows, absl::Duration took) { times_[SizeOf(rows)].Observe(took); }
  bool Known(int size) const { return times_[size].known(); }

  // A time that a pass of that size seldom exceeds. What has not run is on the line through the two
  // sizes below it, of one in proportion, and no longer than a larger one. Infinite when nothing
  // is known.
  absl::Duration Expected(int size) const;
  // The largest size of `least` to `most` rows that has not run; -1: all have.
  int LargestUnknown(int64_t least, int64_t most) const;

 private:
  static int SizeOf(int64_t rows);

  std::array<DurationEstimate, kNumSizes> times_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_SCHED_PASS_TIMES_H_
