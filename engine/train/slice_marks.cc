#include "engine/train/slice_marks.h"

#include "engine/core/check.h"
#include "engine/core/status_macros.h"

namespace lorad {

absl::StatusOr<SliceMarks> SliceMarks::Create(Backend& backend) {
  SliceMarks marks;
  for (Mark& mark : marks.marks_) {
    ASSIGN_OR_RETURN(mark.begin, backend.CreateEvent());
    ASSIGN_OR_RETURN(mark.end, backend.CreateEvent());
  }
  return marks;
}

absl::Status SliceMarks::Begin(Stream& stream) {
  if (queued_ - done_ == SlicedJob::kMaxQueuedSlices) RETURN_IF_ERROR(AwaitOldest().status());
  return marks_[queued_ % SlicedJob::kMaxQueuedSlices].begin->Record(stream);
}

absl::Status SliceMarks::End(Stream& stream) {
  return marks_[queued_++ % SlicedJob::kMaxQueuedSlices].end->Record(stream);
}

absl::StatusOr<absl::Duration> SliceMarks::AwaitOldest() {
  LORAD_CHECK(done_ < queued_);
  Mark& mark = marks_[done_++ % SlicedJob::kMaxQueuedSlices];
  RETURN_IF_ERROR(mark.end->Synchronize());
  return mark.end->Since(*mark.begin);
}

}  // namespace lorad
