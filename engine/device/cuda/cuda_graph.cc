#include "engine/device/cuda/cuda_graph.h"

#include "absl/cleanup/cleanup.h"
#include "absl/memory/memory.h"
#include "engine/core/status_macros.h"
#include "engine/device/cuda/cuda_error.h"
#include "engine/device/cuda/cuda_stream.h"

namespace lorad::cuda {

absl::StatusOr<std::unique_ptr<CudaGraph>> CudaGraph::Record(
    int device, Stream& stream, absl::FunctionRef<absl::Status()> queue) {
  RETURN_IF_ERROR(ToStatus(cudaSetDevice(device), "cudaSetDevice"));
  RETURN_IF_ERROR(ToStatus(cudaStreamBeginCapture(Handle(stream), cudaStreamCaptureModeThreadLocal),
                           "cudaStreamBeginCapture"));
  const absl::Status queued = queue();
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(Handle(stream), &graph);
  const auto destroy = absl::MakeCleanup([graph] {
    if (graph != nullptr) LogIfError(cudaGraphDestroy(graph), "cudaGraphDestroy");
  });
  if (!queued.ok() || ended != cudaSuccess) (void)cudaGetLastError();  // not the next launch's
  RETURN_IF_ERROR(queued);
  RETURN_IF_ERROR(ToStatus(ended, "cudaStreamEndCapture"));
  cudaGraphExec_t handle = nullptr;
  RETURN_IF_ERROR(ToStatus(cudaGraphInstantiate(&handle, graph, 0), "cudaGraphInstantiate"));
  return absl::WrapUnique(new CudaGraph(device, handle));
}

CudaGraph::~CudaGraph() { LogIfError(cudaGraphExecDestroy(handle_), "cudaGraphExecDestroy"); }

absl::Status CudaGraph::Launch(Stream& stream) {
  RETURN_IF_ERROR(ToStatus(cudaSetDevice(device_), "cudaSetDevice"));
  return ToStatus(cudaGraphLaunch(handle_, Handle(stream)), "cudaGraphLaunch");
}

}  // namespace lorad::cuda
