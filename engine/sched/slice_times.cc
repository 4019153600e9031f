#include "engine/sched/slice_times.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace lorad {

int SliceTimes::SizeOf(int64_t tokens) {
  const auto count = static_cast<uint64_t>(std::max<int64_t>(tokens, 1));
  const int octave = std::bit_width(count) - 1;
  const int half = octave == 0 ? 0 : static_cast<int>((count >> (octave - 1)) & 1);
  return std::min(2 * octave + half, kNumSizes - 1);
}

void SliceTimes::Observe(const Slice& slice, absl::Duration took) {
  times_[static_cast<int>(slice.kind)][SizeOf(slice.tokens)].Observe(took);
}

bool SliceTimes::Known(const Slice& slice) const {
  double scale;
  return Nearest(slice.kind, SizeOf(slice.tokens), &scale) != nullptr;
}

const DurationEstimate* SliceTimes::Nearest(SliceKind kind, int size, double* scale) const {
  const auto& sizes = times_[static_cast<int>(kind)];
  *scale = 1;
  for (int larger = size; larger < kNumSizes; ++larger)
    if (sizes[larger].known()) return &sizes[larger];
  for (int smaller = size - 1; smaller >= 0; --smaller) {
    if (!sizes[smaller].known()) continue;
    *scale = std::exp2((size - smaller + 1) / 2.0);  // to the end of the size, to be safe
    return &sizes[smaller];
  }
  return nullptr;
}

absl::Duration SliceTimes::Expected(const Slice& slice) const {
  const int size = SizeOf(slice.tokens);
  double scale = 1;
  if (const DurationEstimate* known = Nearest(slice.kind, size, &scale); known != nullptr)
    return known->high() * scale;
  absl::Duration longest = absl::ZeroDuration();
  for (int kind = 0; Computes(slice.kind) && kind < kNumSliceKinds; ++kind) {
    if (!Computes(static_cast<SliceKind>(kind))) continue;
    const DurationEstimate* other = Nearest(static_cast<SliceKind>(kind), size, &scale);
    if (other != nullptr) longest = std::max(longest, other->high() * scale);
  }
  return longest;
}

}  // namespace lorad
