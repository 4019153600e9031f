// What a pass over rows costs, learned from those that have run.
#ifndef LORAD_ENGINE_SCHED_PASS_TIMES_H_
#define LORAD_ENGINE_SCHED_PASS_TIMES_H_

#include <array>
#include <cstdint>

#include "absl/time/time.h"
#include "engine/sched/duration_estimate.h"

namespace lorad {

// Passes of PassKind::kRowInvariant come in sizes: 1 row, 2, 3, 4, 6, 8, 12 and so on; one between
// two sizes counts as the larger, as kernels take rows in tiles. Thread-compatible.
class PassTimes {
 public:
  static constexpr int kNumSizes = 32;  // the last holds whatever is more
  static int64_t RowsOf(int size) {
    return size == 0 ? 1 : int64_t{size % 2 == 1 ? 2 : 3} << ((size - 1) / 2);
  }

  // The least that holds `rows`.
  static int SizeOf(int64_t rows);

  void Observe(int64_t rows, absl::Duration took) { times_[SizeOf(rows)].Observe(took); }
  bool Known(int size) const { return times_[size].known(); }

  // A time that a pass of that size seldom exceeds, once it has run a few times. What has not run
  // is on the line between the next smaller and the next larger size that have; of the largest,
  // half as many rows more take a quarter more. Infinite when nothing is known.
  absl::Duration Expected(int size) const;
  // The largest size of `least` to `most` rows that has not run; -1: all have.
  int LargestUnknown(int64_t least, int64_t most) const;

 private:
  std::array<DurationEstimate, kNumSizes> times_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_SCHED_PASS_TIMES_H_
