// A device as the engine sees it: memory, ordered work, ops.
#ifndef LORAD_ENGINE_DEVICE_BACKEND_H_
#define LORAD_ENGINE_DEVICE_BACKEND_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/device/memory.h"

namespace lorad {

class FlopCounter;  // engine/core/flop_counter.h
class Ops;          // engine/ops/ops.h

// Ordered, asynchronous queue of device work. Thread-compatible.
class Stream {
 public:
  virtual ~Stream() = default;
  // Blocks until all queued work is done; reports the first error it hit.
  virtual absl::Status Synchronize() = 0;
};

// Which stream's work the device takes first where several have work ready. kHigh: what somebody
// waits for. Work that has begun is not interrupted. The CPU works at the call and knows none.
enum class StreamPriority : uint8_t { kNormal, kHigh };

// A point in a stream that another stream, or the host, can wait for or ask about.
// Thread-compatible.
class Event {
 public:
  virtual ~Event() = default;
  virtual absl::Status Record(Stream& stream) = 0;
  // Blocks until the recorded point is reached; at once if none was recorded. Reports the device's
  // error if there is one.
  virtual absl::Status Synchronize() = 0;
  // The time from `earlier` to this one on the device's clock, to a microsecond.
  // REQUIRES: both were recorded, and Synchronize() has returned for both.
  virtual absl::StatusOr<absl::Duration> Since(Event& earlier) = 0;
  // Work queued on `stream` from now on starts after the recorded point.
  virtual absl::Status Wait(Stream& stream) = 0;
  // Whether the work before the recorded point is done; true if nothing was recorded. Does not
  // block. Reports the error that the work hit.
  virtual absl::StatusOr<bool> Done() = 0;
};

// Work that was recorded once, to be queued again as one piece, which takes the host and the device
// less than piece by piece. Thread-compatible.
class Graph {
 public:
  virtual ~Graph() = default;  // REQUIRES: nothing of it is queued
  // Queues all of it. It reads and writes the memory that it was recorded with.
  virtual absl::Status Launch(Stream& stream) = 0;
};

struct DeviceInfo {
  std::string name;          // "cpu", "NVIDIA H200"
  std::string kind;          // "cpu" or "cuda"
  int64_t memory_bytes = 0;  // of the device, or of the host for cpu
};

// Thread-compatible: one thread queues work on a Backend and its streams. allocator() is
// thread-safe.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual const DeviceInfo& info() const = 0;
  // Element type of activations: kF32 on the CPU, kBF16 on CUDA, kF64 where gradients are checked.
  virtual DType activation_dtype() const = 0;
  // Element type of LoRA weights, their gradients and moments: kF32; kF64 where gradients are
  // checked.
  virtual DType adapter_dtype() const = 0;

  virtual Allocator& allocator() = 0;
  absl::StatusOr<std::unique_ptr<Stream>> CreateStream(
      StreamPriority priority = StreamPriority::kNormal) {
    return MakeStream(priority);
  }
  virtual absl::StatusOr<std::unique_ptr<Event>> CreateEvent() = 0;
  // Queues a copy; host and device pointers may be on either side.
  virtual absl::Status Copy(void* to, const void* from, int64_t bytes, Stream& stream) = 0;
  // Page-locked host memory that the device addresses by the same pointer, counted under kPinned.
  absl::StatusOr<DeviceBuffer> AllocatePinned(int64_t bytes) {
    return allocator().Allocate(bytes, MemoryTag::kPinned);
  }
  // Queues setting `bytes` bytes to zero.
  virtual absl::Status Zero(void* data, int64_t bytes, Stream& stream) = 0;
  virtual Ops& ops() = 0;
  // What `queue` queues on `stream`, recorded and not carried out. The same work must have been
  // carried out before: nothing may be allocated while it is recorded. Errors of `queue`;
  // kUnimplemented: the device records nothing. After any error nothing is queued.
  virtual absl::StatusOr<std::unique_ptr<Graph>> Record(
      [[maybe_unused]] Stream& stream, [[maybe_unused]] absl::FunctionRef<absl::Status()> queue) {
    return absl::UnimplementedError(info().name + " records no work");
  }

 protected:
  virtual absl::StatusOr<std::unique_ptr<Stream>> MakeStream(StreamPriority priority) = 0;
};

struct CpuBackendOptions {
  bool double_precision = false;  // activations and adapters in kF64, for finite differences
  int num_threads = 0;            // 0: all cores
  FlopCounter* flops = nullptr;   // not owned: counts what ops compute; null: nobody counts
};
std::unique_ptr<Backend> CreateCpuBackend(const CpuBackendOptions& options = {});

// kUnimplemented in a build without CUDA; kUnavailable if no device or driver is found.
absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(int device);

}  // namespace lorad

#endif  // LORAD_ENGINE_DEVICE_BACKEND_H_
