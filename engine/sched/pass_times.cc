#include "engine/sched/pass_times.h"

#include <algorithm>

namespace lorad {
namespace {

// A pass of twice the rows takes less than twice as long: the weights are read once.
constexpr double kShareOfRows = 0.5;

}  // namespace

int PassTimes::SizeOf(int64_t rows) {
  int size = 0;
  while (size + 1 < kNumSizes && RowsOf(size) < rows) ++size;
  return size;
}

absl::Duration PassTimes::Expected(int size) const {
  if (Known(size)) return times_[size].high();
  int below = size - 1, above = size + 1;
  while (below >= 0 && !Known(below)) --below;
  while (above < kNumSizes && !Known(above)) ++above;
  const bool bounded = above < kNumSizes;
  if (below < 0) return bounded ? times_[above].high() : absl::InfiniteDuration();
  const absl::Duration at = times_[below].high();
  const auto rows = [](int of) { return static_cast<double>(RowsOf(of)); };
  const absl::Duration per_row =
      bounded ? std::max((times_[above].high() - at) / (rows(above) - rows(below)),
                         absl::ZeroDuration())
              : at / rows(below) * kShareOfRows;
  return at + per_row * (rows(size) - rows(below));
}

int PassTimes::LargestUnknown(int64_t least, int64_t most) const {
  for (int size = kNumSizes - 1; size >= 0 && RowsOf(size) >= least; --size)
    if (RowsOf(size) <= most && !Known(size)) return size;
  return -1;
}

}  // namespace lorad
