#include "engine/sched/pass_times.h"

#include <algorithm>

namespace lorad {

int PassTimes::SizeOf(int64_t rows) {
  int size = 0;
  while (size + 1 < kNumSizes && RowsOf(size) < rows) ++size;
  return size;
}

absl::Duration PassTimes::Expected(int size) const {
  if (Known(size)) return times_[size].high();
  absl::Duration least = absl::InfiniteDuration();
  for (int larger = size + 1; larger < kNumSizes; ++larger)
    if (Known(larger)) least = std::min(least, times_[larger].high());
  int below = size - 1;
  while (below >= 0 && !Known(below)) --below;
  if (below < 0) return least;
  int further = below - 1;
  while (further >= 0 && !Known(further)) --further;
  const absl::Duration at = times_[below].high();
  const double rows = static_cast<double>(RowsOf(below));
  absl::Duration per_row = at / rows;
  if (further >= 0) {
    const absl::Duration rise =
        (at - times_[further].high()) / (rows - static_cast<double>(RowsOf(further)));
    per_row = std::clamp(rise, absl::ZeroDuration(), per_row);
  }
  return std::min(least, at + per_row * (static_cast<double>(RowsOf(size)) - rows));
}

int PassTimes::LargestUnknown(int64_t least, int64_t most) const {
  for (int size = kNumSizes - 1; size >= 0 && RowsOf(size) >= least; --size)
    if (RowsOf(size) <= most && !Known(size)) return size;
  return -1;
}

}  // namespace lorad
