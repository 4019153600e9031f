#ifndef LORAD_ENGINE_DEVICE_CUDA_CUDA_ALLOCATOR_H_
#define LORAD_ENGINE_DEVICE_CUDA_CUDA_ALLOCATOR_H_

#include "engine/device/memory_accounts.h"

namespace lorad::cuda {

// Blocks of plain device memory, and under kPinned of page-locked host memory that the device
// addresses by the same pointer. Thread-safe.
class CudaAllocator final : public Allocator {
 public:
  explicit CudaAllocator(int device) : device_(device) {}

  absl::StatusOr<DeviceBuffer> Allocate(int64_t bytes, MemoryTag tag) override;
  MemoryUsage Usage(MemoryTag tag) const override { return accounts_.Usage(tag); }
  void SetLimit(MemoryTag tag, int64_t limit_bytes) override {
    accounts_.SetLimit(tag, limit_bytes);
  }
  void Retag(int64_t bytes, MemoryTag from, MemoryTag to) override {
    accounts_.Move(bytes, from, to);
  }

 private:
  absl::StatusOr<void*> Take(int64_t bytes, MemoryTag tag);
  void Free(void* block, int64_t bytes, MemoryTag tag);

  const int device_;
  MemoryAccounts accounts_;
};

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_DEVICE_CUDA_CUDA_ALLOCATOR_H_
