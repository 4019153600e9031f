// A CUDA stream, and what the ops keep for each.
#ifndef LORAD_ENGINE_DEVICE_CUDA_CUDA_STREAM_H_
#define LORAD_ENGINE_DEVICE_CUDA_CUDA_STREAM_H_

#include <cuda_runtime_api.h>

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/backend.h"

namespace lorad::cuda {

// What ops hold for one stream between calls: libraries' handles and scratch that two streams must
// not share. Made by engine/ops/cuda when the stream first needs it.
class StreamState {
 public:
  virtual ~StreamState() = default;
};

class CudaStream final : public Stream {
 public:
  static absl::StatusOr<std::unique_ptr<CudaStream>> Create(int device, StreamPriority priority);
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;
  ~CudaStream() override;

  absl::Status Synchronize() override;
  cudaStream_t handle() const { return handle_; }
  std::unique_ptr<StreamState>& state() { return state_; }

 private:
  CudaStream(int device, cudaStream_t handle) : device_(device), handle_(handle) {}

  const int device_;
  const cudaStream_t handle_;  // owned
  std::unique_ptr<StreamState> state_;
};

class CudaEvent final : public Event {
 public:
  static absl::StatusOr<std::unique_ptr<CudaEvent>> Create(int device);
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;
  ~CudaEvent() override;

  absl::Status Record(Stream& stream) override;
  absl::Status Synchronize() override;
  absl::StatusOr<absl::Duration> Since(Event& earlier) override;
  absl::Status Wait(Stream& stream) override;
  absl::StatusOr<bool> Done() override;

 private:
  explicit CudaEvent(cudaEvent_t handle) : handle_(handle) {}
  const cudaEvent_t handle_;  // owned
};

// REQUIRES: a stream of the CUDA backend.
inline CudaStream& AsCuda(Stream& stream) { return static_cast<CudaStream&>(stream); }
inline cudaStream_t Handle(Stream& stream) { return AsCuda(stream).handle(); }

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_DEVICE_CUDA_CUDA_STREAM_H_
