#ifndef LORAD_ENGINE_TRAIN_SLICE_MARKS_H_
#define LORAD_ENGINE_TRAIN_SLICE_MARKS_H_

#include <array>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/device/backend.h"
#include "engine/train/sliced_job.h"

namespace lorad {

// Marks in a stream where slices begin and end, so that each can be waited for and timed on its
// own. Thread-compatible.
class SliceMarks {
 public:
  static absl::StatusOr<SliceMarks> Create(Backend& backend);

  // Waits for the oldest where kMaxQueuedSlices are queued.
  absl::Status Begin(Stream& stream);
  absl::Status End(Stream& stream);
  // Blocks until the device has done the oldest slice that was not waited for; its time there.
  // REQUIRES: there is one.
  absl::StatusOr<absl::Duration> AwaitOldest();

 private:
  struct Mark {
    std::unique_ptr<Event> begin, end;
  };

  std::array<Mark, SlicedJob::kMaxQueuedSlices> marks_;  // a ring
  int64_t queued_ = 0, done_ = 0;                        // slices since the start
};

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_SLICE_MARKS_H_
