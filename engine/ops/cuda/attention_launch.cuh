// What the attention launchers share: alignment, and blocks with more than 48 KiB of shared memory.
#ifndef LORAD_ENGINE_OPS_CUDA_ATTENTION_LAUNCH_CUH_
#define LORAD_ENGINE_OPS_CUDA_ATTENTION_LAUNCH_CUH_

#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>

namespace lorad::cuda {

inline constexpr int kMaxDevicesRemembered = 64;

// Whether a head can be read in chunks of 16 bytes.
inline bool HasAlignedRows(const void* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % 8 == 0;
}

// Bytes of shared memory that a block of the current device can have.
inline cudaError_t GetMaxSharedBytes(int* bytes) {
  static std::atomic<int> known[kMaxDevicesRemembered];
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  if (device < kMaxDevicesRemembered && (*bytes = known[device].load()) != 0) return cudaSuccess;
  const cudaError_t error =
      cudaDeviceGetAttribute(bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error == cudaSuccess && device < kMaxDevicesRemembered) known[device].store(*bytes);
  return error;
}

// Launches a kernel that is an instance of its own for each Shape (which sets kThreads and
// kSharedBytes), on a one-dimensional grid. The kernel is told once a device what it may use.
template <typename Shape, typename... Params>
cudaError_t LaunchShape(void (*kernel)(Params...), int64_t blocks, cudaStream_t stream,
                        const Params&... params) {
  static std::atomic<uint64_t> allowed{0};  // a bit for each device
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  const uint64_t bit = device < kMaxDevicesRemembered ? uint64_t{1} << device : 0;
  if ((allowed.load() & bit) == 0) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kSharedBytes);
    if (error != cudaSuccess) return error;
    allowed.fetch_or(bit);
  }
  kernel<<<static_cast<unsigned>(blocks), Shape::kThreads, Shape::kSharedBytes, stream>>>(
      params...);
  return cudaGetLastError();
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ATTENTION_LAUNCH_CUH_
