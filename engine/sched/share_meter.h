#ifndef LORAD_ENGINE_SCHED_SHARE_METER_H_
#define LORAD_ENGINE_SCHED_SHARE_METER_H_

#include <array>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace lorad {

// What share of the last seconds something took. Thread-safe.
class ShareMeter {
 public:
  static constexpr int kParts = 10;
  static constexpr absl::Duration kPart = absl::Milliseconds(500);
  static constexpr absl::Duration kWindow = absl::Milliseconds(500 * kParts);

  // It took `busy` up to `end`. Times ascend.
  void Add(absl::Time end, absl::Duration busy);
  // Of the window that ends at `now`, to a tenth of it: 0 to 1.
  double Share(absl::Time now) const;

 private:
  static int64_t PartOf(absl::Time time) { return (time - absl::UnixEpoch()) / kPart; }

  struct Part {
    int64_t index = -1;  // since the epoch
    absl::Duration busy;
  };
  mutable absl::Mutex mu_;
  std::array<Part, kParts> parts_ ABSL_GUARDED_BY(mu_);  // a ring
};

}  // namespace lorad

#endif  // LORAD_ENGINE_SCHED_SHARE_METER_H_
