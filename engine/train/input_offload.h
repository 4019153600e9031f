// The inputs of layer segments in pinned host memory while nobody needs them.
#ifndef LORAD_ENGINE_TRAIN_INPUT_OFFLOAD_H_
#define LORAD_ENGINE_TRAIN_INPUT_OFFLOAD_H_

#include <array>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/core/tensor_view.h"
#include "engine/device/backend.h"

namespace lorad {

// Segment s uses window s % 2 of device memory. The inputs of the last two segments stay there;
// those before them go out while the next segment runs forward, and come back while the segment
// after them runs backward, on a stream of their own. Thread-compatible.
class InputOffload {
 public:
  // Inputs that go out, of `segments` in all.
  static int64_t Count(int64_t segments) { return segments > 2 ? segments - 2 : 0; }

  // `input_bytes` is of the largest input. kResourceExhausted when the host has no such memory.
  static absl::StatusOr<std::unique_ptr<InputOffload>> Create(Backend& backend, int64_t segments,
                                                              int64_t input_bytes);

  bool GoesOut(int64_t segment) const { return segment < count_; }

  // REQUIRES, for all: GoesOut(segment). `x` is dense, in the segment's window.
  // Starts the way out of what `stream` has written to x.
  absl::Status Store(int64_t segment, ConstTensorView x, Stream& stream);
  // Starts the way back into x, which what `stream` has queued so far may still use.
  absl::Status Fetch(int64_t segment, TensorView x, Stream& stream);
  // What is queued on `stream` from now on comes after the segment's last copy: after Store it may
  // write to the window, after Fetch it finds the input there.
  absl::Status Wait(int64_t segment, Stream& stream);

 private:
  InputOffload(Backend& backend, int64_t count, int64_t input_bytes)
      : backend_(backend), count_(count), input_bytes_(input_bytes) {}

  void* Place(int64_t segment) const;
  absl::Status Copy(int64_t segment, void* to, const void* from, int64_t bytes, Stream& stream);

  Backend& backend_;
  const int64_t count_, input_bytes_;
  DeviceBuffer host_;               // [count, input_bytes]; outlives the stream's copies
  std::unique_ptr<Stream> stream_;  // of the copies
  std::unique_ptr<Event> ready_;    // the caller's stream: the window may be copied
  std::array<std::unique_ptr<Event>, 2> done_;  // of each window: its last copy has ended
};

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_INPUT_OFFLOAD_H_
