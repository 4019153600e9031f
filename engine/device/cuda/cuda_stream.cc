#include "engine/device/cuda/cuda_stream.h"

#include "absl/memory/memory.h"
#include "engine/core/status_macros.h"
#include "engine/device/cuda/cuda_error.h"

namespace lorad::cuda {

absl::StatusOr<std::unique_ptr<CudaStream>> CudaStream::Create(int device,
                                                               StreamPriority priority) {
  RETURN_IF_ERROR(ToStatus(cudaSetDevice(device), "cudaSetDevice"));
  int least = 0, greatest = 0;  // the greatest is the lower number
  RETURN_IF_ERROR(ToStatus(cudaDeviceGetStreamPriorityRange(&least, &greatest),
                           "cudaDeviceGetStreamPriorityRange"));
  cudaStream_t handle = nullptr;
  RETURN_IF_ERROR(
      ToStatus(cudaStreamCreateWithPriority(&handle, cudaStreamNonBlocking,
                                            priority == StreamPriority::kHigh ? greatest : least),
               "cudaStreamCreateWithPriority"));
  return absl::WrapUnique(new CudaStream(device, handle));
}

CudaStream::~CudaStream() {
  // Queued work may still use the state.
  LogIfError(cudaStreamSynchronize(handle_), "cudaStreamSynchronize");
  state_.reset();
  LogIfError(cudaStreamDestroy(handle_), "cudaStreamDestroy");
}

absl::Status CudaStream::Synchronize() {
  RETURN_IF_ERROR(ToStatus(cudaSetDevice(device_), "cudaSetDevice"));
  return ToStatus(cudaStreamSynchronize(handle_), "cudaStreamSynchronize");
}

absl::StatusOr<std::unique_ptr<CudaEvent>> CudaEvent::Create(int device) {
  RETURN_IF_ERROR(ToStatus(cudaSetDevice(device), "cudaSetDevice"));
  cudaEvent_t handle = nullptr;
  RETURN_IF_ERROR(ToStatus(cudaEventCreate(&handle), "cudaEventCreate"));
  return absl::WrapUnique(new CudaEvent(handle));
}

CudaEvent::~CudaEvent() { LogIfError(cudaEventDestroy(handle_), "cudaEventDestroy"); }

absl::Status CudaEvent::Record(Stream& stream) {
  return ToStatus(cudaEventRecord(handle_, Handle(stream)), "cudaEventRecord");
}

absl::Status CudaEvent::Synchronize() {
  return ToStatus(cudaEventSynchronize(handle_), "cudaEventSynchronize");
}

absl::StatusOr<absl::Duration> CudaEvent::Since(Event& earlier) {
  float milliseconds = 0;
  RETURN_IF_ERROR(ToStatus(
      cudaEventElapsedTime(&milliseconds, static_cast<CudaEvent&>(earlier).handle_, handle_),
      "cudaEventElapsedTime"));
  return absl::Milliseconds(double{milliseconds});
}

absl::Status CudaEvent::Wait(Stream& stream) {
  return ToStatus(cudaStreamWaitEvent(Handle(stream), handle_, 0), "cudaStreamWaitEvent");
}

absl::StatusOr<bool> CudaEvent::Done() {
  const cudaError_t error = cudaEventQuery(handle_);
  if (error == cudaErrorNotReady) {
    (void)cudaGetLastError();  // not an error: the next launch must not report it
    return false;
  }
  RETURN_IF_ERROR(ToStatus(error, "cudaEventQuery"));
  return true;
}

}  // namespace lorad::cuda
