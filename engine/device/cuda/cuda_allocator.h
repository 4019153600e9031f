#ifndef LORAD_ENGINE_DEVICE_CUDA_CUDA_ALLOCATOR_H_
#define LORAD_ENGINE_DEVICE_CUDA_CUDA_ALLOCATOR_H_

#include <array>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "engine/device/memory.h"

namespace lorad::cuda {

// Blocks of plain device memory, and under kPinned of page-locked host memory that the device
// addresses by the same pointer. Thread-safe.
class CudaAllocator final : public Allocator {
 public:
  explicit CudaAllocator(int device) : device_(device) {}

  absl::StatusOr<DeviceBuffer> Allocate(int64_t bytes, MemoryTag tag) override;
  MemoryUsage Usage(MemoryTag tag) const override;
  void SetLimit(MemoryTag tag, int64_t limit_bytes) override;

 private:
  absl::Status Account(int64_t bytes, MemoryTag tag);
  void Unaccount(int64_t bytes, MemoryTag tag);
  absl::StatusOr<void*> Take(int64_t bytes, MemoryTag tag);
  void Free(void* block, int64_t bytes, MemoryTag tag);

  const int device_;
  mutable absl::Mutex mutex_;
  std::array<MemoryUsage, kNumMemoryTags> usage_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_DEVICE_CUDA_CUDA_ALLOCATOR_H_
