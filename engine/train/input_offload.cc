#include "engine/train/input_offload.h"

#include "absl/memory/memory.h"
#include "engine/core/check.h"
#include "engine/core/status_macros.h"

namespace lorad {

absl::StatusOr<std::unique_ptr<InputOffload>> InputOffload::Create(Backend& backend,
                                                                   int64_t segments,
                                                                   int64_t input_bytes) {
  auto offload = absl::WrapUnique(new InputOffload(backend, Count(segments), input_bytes));
  ASSIGN_OR_RETURN(offload->host_, backend.AllocatePinned(Count(segments) * input_bytes));
  ASSIGN_OR_RETURN(offload->stream_, backend.CreateStream());
  ASSIGN_OR_RETURN(offload->ready_, backend.CreateEvent());
  for (std::unique_ptr<Event>& event : offload->done_) {
    ASSIGN_OR_RETURN(event, backend.CreateEvent());
  }
  return offload;
}

void* InputOffload::Place(int64_t segment) const {
  LORAD_CHECK(0 <= segment && segment < count_);
  return static_cast<char*>(host_.data()) + segment * input_bytes_;
}

absl::Status InputOffload::Copy(int64_t segment, void* to, const void* from, int64_t bytes,
                                Stream& stream) {
  LORAD_CHECK(bytes <= input_bytes_);
  RETURN_IF_ERROR(ready_->Record(stream));
  RETURN_IF_ERROR(ready_->Wait(*stream_));
  RETURN_IF_ERROR(backend_.Copy(to, from, bytes, *stream_));
  return done_[segment % 2]->Record(*stream_);
}

absl::Status InputOffload::Store(int64_t segment, ConstTensorView x, Stream& stream) {
  return Copy(segment, Place(segment), x.data, x.size_bytes(), stream);
}

absl::Status InputOffload::Fetch(int64_t segment, TensorView x, Stream& stream) {
  return Copy(segment, x.data, Place(segment), x.size_bytes(), stream);
}

absl::Status InputOffload::Wait(int64_t segment, Stream& stream) {
  return done_[segment % 2]->Wait(stream);
}

}  // namespace lorad
