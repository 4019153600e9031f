#include "engine/sched/share_meter.h"

#include <algorithm>

namespace lorad {

void ShareMeter::Add(absl::Time end, absl::Duration busy) {
  absl::MutexLock lock(&mu_);
  // What began in an earlier part counts there.
  for (absl::Time at = end; busy > absl::ZeroDuration() && end - at < kWindow;) {
    const int64_t index = PartOf(at);
    const absl::Time begin = absl::UnixEpoch() + index * kPart;
    const absl::Duration here = std::min(busy, at - begin);
    Part& part = parts_[index % kParts];
    if (part.index < index) part = {index, absl::ZeroDuration()};
    if (part.index == index) part.busy += here;
    busy -= here;
    at = begin - absl::Nanoseconds(1);
  }
}

double ShareMeter::Share(absl::Time now) const {
  const int64_t last = PartOf(now);
  absl::MutexLock lock(&mu_);
  absl::Duration busy = absl::ZeroDuration();
  for (const Part& part : parts_)
    if (part.index > last - kParts && part.index <= last) busy += part.busy;
  const absl::Duration seen = (kParts - 1) * kPart + (now - (absl::UnixEpoch() + last * kPart));
  return std::min(1.0, absl::FDivDuration(busy, seen));
}

}  // namespace lorad
