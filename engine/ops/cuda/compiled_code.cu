#include <cuda_runtime_api.h>

#include "engine/ops/cuda/compiled_code.h"
#include "engine/ops/cuda/wgmma.cuh"

namespace lorad::cuda {
namespace {

__global__ void ReportKernel(CompiledCode* code) {
#ifdef __CUDA_ARCH__
  code->architecture = __CUDA_ARCH__;
#endif
  code->has_wgmma = LORAD_HAS_WGMMA != 0;
}

CompiledCode Ask() {
  CompiledCode code;
  void* on_device = nullptr;
  if (cudaMalloc(&on_device, sizeof(code)) == cudaSuccess) {
    ReportKernel<<<1, 1>>>(static_cast<CompiledCode*>(on_device));
    if (cudaGetLastError() != cudaSuccess ||
        cudaMemcpy(&code, on_device, sizeof(code), cudaMemcpyDeviceToHost) != cudaSuccess) {
      code = {};
    }
    cudaFree(on_device);
  }
  (void)cudaGetLastError();  // whoever launches next must not take it for its own
  return code;
}

}  // namespace

const CompiledCode& RunningCode() {
  static const CompiledCode code = Ask();
  return code;
}

}  // namespace lorad::cuda
