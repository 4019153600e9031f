#include "engine/device/cuda/cuda_allocator.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/device/cuda/cuda_error.h"

namespace lorad::cuda {

absl::StatusOr<DeviceBuffer> CudaAllocator::Allocate(int64_t bytes, MemoryTag tag) {
  RETURN_IF_ERROR(Account(bytes, tag));
  absl::StatusOr<void*> block = Take(bytes, tag);
  if (!block.ok()) {
    Unaccount(bytes, tag);
    return block.status();
  }
  return DeviceBuffer(*block, bytes, [this, bytes, tag](void* data) { Free(data, bytes, tag); });
}

absl::Status CudaAllocator::Account(int64_t bytes, MemoryTag tag) {
  absl::MutexLock lock(&mutex_);
  MemoryUsage& usage = usage_[static_cast<int>(tag)];
  if (usage.limit_bytes > 0 && bytes > usage.limit_bytes - usage.used_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(Name(tag), " memory: ", bytes, " bytes needed, ",
                     usage.limit_bytes - usage.used_bytes, " of ", usage.limit_bytes, " free"));
  }
  usage.used_bytes += bytes;
  usage.peak_bytes = std::max(usage.peak_bytes, usage.used_bytes);
  return absl::OkStatus();
}

void CudaAllocator::Unaccount(int64_t bytes, MemoryTag tag) {
  absl::MutexLock lock(&mutex_);
  usage_[static_cast<int>(tag)].used_bytes -= bytes;
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
  Unaccount(bytes, tag);
}

MemoryUsage CudaAllocator::Usage(MemoryTag tag) const {
  absl::MutexLock lock(&mutex_);
  return usage_[static_cast<int>(tag)];
}

void CudaAllocator::SetLimit(MemoryTag tag, int64_t limit_bytes) {
  absl::MutexLock lock(&mutex_);
  usage_[static_cast<int>(tag)].limit_bytes = limit_bytes;
}

}  // namespace lorad::cuda
