// The driver's count of free memory.
#include <cuda_runtime_api.h>

#include "tests/bench/bench_train_memory.h"

namespace lorad::bench {

int64_t FreeDeviceBytes(int device) {
  size_t free = 0, total = 0;
  if (cudaSetDevice(device) != cudaSuccess || cudaMemGetInfo(&free, &total) != cudaSuccess)
    return -1;
  return static_cast<int64_t>(free);
}

}  // namespace lorad::bench
