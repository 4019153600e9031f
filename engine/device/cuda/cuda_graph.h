// Recorded CUDA work. CUDA C++ Programming Guide, "CUDA Graphs".
#ifndef LORAD_ENGINE_DEVICE_CUDA_CUDA_GRAPH_H_
#define LORAD_ENGINE_DEVICE_CUDA_CUDA_GRAPH_H_

#include <cuda_runtime_api.h>

#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/backend.h"

namespace lorad::cuda {

class CudaGraph final : public Graph {
 public:
  // As Backend::Record has it. Other threads may use the device meanwhile.
  static absl::StatusOr<std::unique_ptr<CudaGraph>> Record(int device, Stream& stream,
                                                           absl::FunctionRef<absl::Status()> queue);
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;
  ~CudaGraph() override;

  absl::Status Launch(Stream& stream) override;

 private:
  CudaGraph(int device, cudaGraphExec_t handle) : device_(device), handle_(handle) {}

  const int device_;
  const cudaGraphExec_t handle_;  // owned
};

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_DEVICE_CUDA_CUDA_GRAPH_H_
