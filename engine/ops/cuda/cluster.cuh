// Clusters: blocks that run at the same time on neighbouring multiprocessors and read each other's
// shared memory. Compute capability 9.0; nothing here may run below it. PTX ISA, "barrier.cluster",
// "mapa" and "ld.shared::cluster".
#ifndef LORAD_ENGINE_OPS_CUDA_CLUSTER_CUH_
#define LORAD_ENGINE_OPS_CUDA_CLUSTER_CUH_

#include <cuda_runtime.h>

#include <cstdint>

namespace lorad::cuda {

// All threads of all blocks of the cluster: what was written to shared memory before ClusterArrive
// is seen after ClusterWait. No block may end while others still read its shared memory.
__device__ __forceinline__ void ClusterArrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\n" ::: "memory");
#endif
}
__device__ __forceinline__ void ClusterWait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;\n" ::: "memory");
#endif
}

// What block `rank` of the cluster has at the place of `*own`, which is in shared memory.
__device__ __forceinline__ float LoadOfBlock(const float* own, int rank) {
  float value = 0;
#if __CUDA_ARCH__ >= 900
  uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;\n"
      : "=r"(address)
      : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(own))), "r"(rank));
  asm volatile("ld.shared::cluster.f32 %0, [%1];\n" : "=f"(value) : "r"(address) : "memory");
#endif
  return value;
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_CLUSTER_CUH_
