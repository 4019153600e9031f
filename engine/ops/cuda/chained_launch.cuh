// Launching kernels one after the other without a gap: programmatic dependent launch. A kernel that
// is launched so may begin while the one before it on the stream still runs, and does what needs
// nothing of it: tables, weights. Then it waits. CUDA C++ Programming Guide, "Programmatic
// Dependent Launch"; compute capability 9.0 and up, an ordinary launch below.
#ifndef LORAD_ENGINE_OPS_CUDA_CHAINED_LAUNCH_CUH_
#define LORAD_ENGINE_OPS_CUDA_CHAINED_LAUNCH_CUH_

#include <cuda_runtime.h>

#include <cstddef>

#include "engine/ops/cuda/compiled_code.h"

namespace lorad::cuda {

// Every kernel that LaunchChained launches calls this before it reads what an earlier kernel wrote
// and before it writes anything at all. All earlier kernels are then done.
__device__ __forceinline__ void WaitForEarlierKernels() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}

// The next kernel may begin as soon as every block has called this or ended. It is about when the
// next one's blocks take their places, not about data.
__device__ __forceinline__ void LetNextKernelBegin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}

// Whether kernels wait for earlier ones by themselves: compiled for less, they do not.
inline bool CanChainLaunches() { return RunningCode().architecture >= 900; }

struct LaunchOptions {
  // The percentage of a multiprocessor's memory that is to be shared memory, the rest being
  // first-level cache, through which every load passes that does not go to shared memory.
  // Negative: as the driver likes, which leaves it as the kernel before had it.
  int carveout = -1;
  unsigned cluster = 1;  // blocks of a cluster
};

template <typename Args>
cudaError_t LaunchChained(void (*kernel)(Args), dim3 blocks, dim3 threads, size_t shared_bytes,
                          const Args& args, cudaStream_t stream,
                          const LaunchOptions& options = {}) {
  cudaLaunchAttribute attributes[3] = {};
  unsigned count = 0;
  if (CanChainLaunches()) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (options.carveout >= 0) {
    attributes[count].id = cudaLaunchAttributePreferredSharedMemoryCarveout;
    attributes[count++].val.sharedMemCarveout = static_cast<unsigned>(options.carveout);
  }
  if (options.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = options.cluster;
    attributes[count].val.clusterDim.y = attributes[count].val.clusterDim.z = 1;
    ++count;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks;
  config.blockDim = threads;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = count;
  return cudaLaunchKernelEx(&config, kernel, args);
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_CHAINED_LAUNCH_CUH_
