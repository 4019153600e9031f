// Device memory: who took how much of it, and for what.
#ifndef LORAD_ENGINE_DEVICE_MEMORY_H_
#define LORAD_ENGINE_DEVICE_MEMORY_H_

#include <cstdint>
#include <functional>
#include <utility>

#include "absl/status/statusor.h"
#include "engine/core/tensor_view.h"

namespace lorad {

// What memory is for. Every byte on a device bears one of these; the gauges are per tag. kPinned is
// page-locked host memory that the device reads and writes over the bus; on the CPU, plain memory.
enum class MemoryTag : uint8_t { kWeights, kKvCache, kAdapters, kTraining, kWorkspace, kPinned };
inline constexpr int kNumMemoryTags = 6;
// "weights", "kv_cache", "adapters", "training", "workspace", "pinned".
const char* Name(MemoryTag tag);

struct MemoryUsage {
  int64_t used_bytes = 0;
  int64_t peak_bytes = 0;
  int64_t limit_bytes = 0;  // 0: no limit of its own
};

// Owns a block of a device's memory. Move-only. Must not outlive its Allocator, nor be destroyed
// while queued work uses it.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(void* data, int64_t size_bytes, std::function<void(void*)> free)
      : data_(data), size_bytes_(size_bytes), free_(std::move(free)) {}
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_bytes_, other.size_bytes_);
    std::swap(free_, other.free_);
    return *this;
  }
  ~DeviceBuffer() {
    if (data_ != nullptr) free_(data_);
  }

  void* data() const { return data_; }
  int64_t size_bytes() const { return size_bytes_; }
  // REQUIRES: dtype and shape fit the block.
  TensorView View(DType dtype, const Shape& shape) const { return {data_, dtype, shape}; }

 private:
  void* data_ = nullptr;
  int64_t size_bytes_ = 0;
  std::function<void(void*)> free_;
};

// Thread-safe: usage is read by the metrics thread while the engine thread allocates.
class Allocator {
 public:
  virtual ~Allocator() = default;
  // A block aligned to 256 bytes. kResourceExhausted names the tag, the needed and the free bytes.
  // REQUIRES: bytes >= 0.
  virtual absl::StatusOr<DeviceBuffer> Allocate(int64_t bytes, MemoryTag tag) = 0;
  virtual MemoryUsage Usage(MemoryTag tag) const = 0;
  // Bounds what `tag` may hold from now on. 0 removes the bound.
  virtual void SetLimit(MemoryTag tag, int64_t limit_bytes) = 0;
  // `bytes` of a block that was taken under `from` serve `to` from now on, whatever its limit. They
  // must be moved back before the block is freed.
  virtual void Retag(int64_t bytes, MemoryTag from, MemoryTag to) = 0;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_DEVICE_MEMORY_H_
