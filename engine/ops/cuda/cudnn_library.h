// cuDNN, opened at run time: lorad neither links it nor needs its headers, and runs without it.
#ifndef LORAD_ENGINE_OPS_CUDA_CUDNN_LIBRARY_H_
#define LORAD_ENGINE_OPS_CUDA_CUDNN_LIBRARY_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/ops/cuda/cudnn_api.h"

namespace lorad::cuda {

// Oldest version whose attention is used: 9.10.0 and 9.10.1 have wrong results, and before them a
// masked score has to be the lowest finite number instead of minus infinity.
inline constexpr int64_t kMinCudnnVersion = 91002;

// The entry points of the backend graph API. Const and so thread-safe; calls with one cudnnHandle_t
// are not.
class CudnnLibrary {
 public:
  // Opens the library on the first call and keeps it until the process ends. kUnavailable says why
  // there is none.
  static absl::StatusOr<const CudnnLibrary*> Get();

  // 91900 is 9.19.0.
  int64_t version() const { return version_; }
  // OK, or the error with cuDNN's own explanation. `what` was being done.
  absl::Status Check(cudnnStatus_t status, const std::string& what) const;

  CudnnCreate create = nullptr;
  CudnnDestroy destroy = nullptr;
  CudnnSetStream set_stream = nullptr;
  CudnnCreateDescriptor create_descriptor = nullptr;
  CudnnDestroyDescriptor destroy_descriptor = nullptr;
  CudnnFinalize finalize = nullptr;
  CudnnSetAttribute set_attribute = nullptr;
  CudnnGetAttribute get_attribute = nullptr;
  CudnnExecute execute = nullptr;

 private:
  CudnnLibrary() = default;
  static absl::StatusOr<const CudnnLibrary*> Open();
  absl::Status Resolve(void* library);

  CudnnGetVersion get_version_ = nullptr;
  CudnnGetLastErrorString get_last_error_ = nullptr;
  int64_t version_ = 0;
};

// cuDNN's context for one stream of one device. Making one takes milliseconds, the first of a
// process a tenth of a second: keep it as long as the stream. Not thread-safe.
class CudnnHandle {
 public:
  // `stream` outlives the handle. Makes `device` the calling thread's.
  static absl::StatusOr<std::unique_ptr<CudnnHandle>> Create(int device, cudaStream_t stream);
  CudnnHandle(const CudnnHandle&) = delete;
  CudnnHandle& operator=(const CudnnHandle&) = delete;
  ~CudnnHandle();

  cudnnHandle_t get() const { return handle_; }
  cudaStream_t stream() const { return stream_; }

 private:
  CudnnHandle(const CudnnLibrary& library, cudnnHandle_t handle, cudaStream_t stream)
      : library_(library), handle_(handle), stream_(stream) {}

  const CudnnLibrary& library_;
  const cudnnHandle_t handle_;  // owned
  const cudaStream_t stream_;
};

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_CUDNN_LIBRARY_H_
