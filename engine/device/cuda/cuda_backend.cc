// An NVIDIA GPU of compute capability 8.0 or newer.
#include <cuda_runtime_api.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/device/backend.h"
#include "engine/device/cuda/cuda_allocator.h"
#include "engine/device/cuda/cuda_error.h"
#include "engine/device/cuda/cuda_graph.h"
#include "engine/device/cuda/cuda_stream.h"
#include "engine/ops/cuda/cuda_ops.h"

namespace lorad {
namespace {

using cuda::Handle;
using cuda::ToStatus;

// mma.sync on bf16 and cp.async, which every kernel may use.
constexpr int kLeastMajor = 8;

class CudaBackend final : public Backend {
 public:
  static absl::StatusOr<std::unique_ptr<Backend>> Create(int device);

  const DeviceInfo& info() const override { return info_; }
  DType activation_dtype() const override { return DType::kBF16; }
  DType adapter_dtype() const override { return DType::kF32; }
  Allocator& allocator() override { return allocator_; }

  absl::StatusOr<std::unique_ptr<Event>> CreateEvent() override {
    return cuda::CudaEvent::Create(device_);
  }
  absl::Status Copy(void* to, const void* from, int64_t bytes, Stream& stream) override {
    if (bytes == 0) return absl::OkStatus();
    RETURN_IF_ERROR(ToStatus(cudaSetDevice(device_), "cudaSetDevice"));
    return ToStatus(
        cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, Handle(stream)),
        "cudaMemcpyAsync");
  }
  absl::Status Zero(void* data, int64_t bytes, Stream& stream) override {
    if (bytes == 0) return absl::OkStatus();
    RETURN_IF_ERROR(ToStatus(cudaSetDevice(device_), "cudaSetDevice"));
    return ToStatus(cudaMemsetAsync(data, 0, static_cast<size_t>(bytes), Handle(stream)),
                    "cudaMemsetAsync");
  }
  Ops& ops() override { return *ops_; }
  absl::StatusOr<std::unique_ptr<Graph>> Record(Stream& stream,
                                                absl::FunctionRef<absl::Status()> queue) override {
    return cuda::CudaGraph::Record(device_, stream, queue);
  }

 private:
  absl::StatusOr<std::unique_ptr<Stream>> MakeStream(StreamPriority priority) override {
    return cuda::CudaStream::Create(device_, priority);
  }

  CudaBackend(int device, DeviceInfo info)
      : device_(device), info_(std::move(info)), allocator_(device) {}

  const int device_;
  const DeviceInfo info_;
  cuda::CudaAllocator allocator_;
  std::unique_ptr<Ops> ops_;
};

absl::Status CheckDevice(int device, int count, const cudaDeviceProp& properties) {
  if (properties.major >= kLeastMajor) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "GPU ", device, " of ", count, ", ", properties.name, ", has compute capability ",
      properties.major, ".", properties.minor, "; lorad needs ", kLeastMajor,
      ".0 or newer: choose another one with --device=cuda:N, or use --device=cpu"));
}

absl::StatusOr<std::unique_ptr<Backend>> CudaBackend::Create(int device) {
  int count = 0;
  RETURN_IF_ERROR(ToStatus(cudaGetDeviceCount(&count), "no usable NVIDIA driver"));
  if (device < 0 || device >= count) {
    return absl::UnavailableError(absl::StrCat("there is no GPU ", device, ": this machine has ",
                                               count, "; they are numbered from 0"));
  }
  cudaDeviceProp properties;
  RETURN_IF_ERROR(
      ToStatus(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties"));
  RETURN_IF_ERROR(CheckDevice(device, count, properties));
  RETURN_IF_ERROR(ToStatus(cudaSetDevice(device), "cudaSetDevice"));
  size_t free = 0, total = 0;
  RETURN_IF_ERROR(ToStatus(cudaMemGetInfo(&free, &total), "cudaMemGetInfo"));
  // What other processes hold is not lorad's to plan with.
  std::unique_ptr<CudaBackend> backend(new CudaBackend(
      device,
      {.name = properties.name, .kind = "cuda", .memory_bytes = static_cast<int64_t>(free)}));
  ASSIGN_OR_RETURN(backend->ops_, cuda::CreateCudaOps(device, backend->allocator_));
  return backend;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(int device) {
  return CudaBackend::Create(device);
}

}  // namespace lorad
