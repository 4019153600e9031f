#include "engine/device/cuda/cuda_allocator.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/device/cuda/cuda_error.h"

namespace lorad::cuda {

absl::StatusOr<DeviceBuffer> CudaAllocator::Allocate(int64_t bytes, MemoryTag tag) {
  RETURN_IF_ERROR(accounts_.Enter(bytes, tag));
  absl::StatusOr<void*> block = Take(bytes, tag);
  if (!block.ok()) {
    accounts_.Leave(bytes, tag);
    return block.status();
  }
  return DeviceBuffer(*block, bytes, [this, bytes, tag](void* data) { Free(data, bytes, tag); });
}

absl::StatusOr<void*> CudaAllocator::Take(int64_t bytes, MemoryTag tag) {
  RETURN_IF_ERROR(ToStatus(cudaSetDevice(device_), "cudaSetDevice"));
  const auto size = static_cast<size_t>(std::max<int64_t>(bytes, 1));
  void* block = nullptr;
  if (tag == MemoryTag::kPinned) {
    RETURN_IF_ERROR(
        ToStatus(cudaHostAlloc(&block, size, cudaHostAllocMapped | cudaHostAllocPortable),
                 absl::StrCat(Name(tag), " memory: page-locking ", bytes, " bytes of the host")));
    return block;
  }
  const cudaError_t error = cudaMalloc(&block, size);
  if (error == cudaSuccess) return block;
  size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) free = 0;
  return ToStatus(error, absl::StrCat(Name(tag), " memory: ", bytes, " bytes needed, ", free,
                                      " free on the device"));
}

void CudaAllocator::Free(void* block, int64_t bytes, MemoryTag tag) {
  LogIfError(cudaSetDevice(device_), "cudaSetDevice");
  LogIfError(tag == MemoryTag::kPinned ? cudaFreeHost(block) : cudaFree(block), "cudaFree");
  accounts_.Leave(bytes, tag);
}

}  // namespace lorad::cuda
