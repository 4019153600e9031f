// Barriers in shared memory at which some arrive and others wait, so that warps need not wait for
// each other. Compute capability 9.0; nothing here may run below it. PTX ISA, "mbarrier".
#ifndef LORAD_ENGINE_OPS_CUDA_SHARED_BARRIER_CUH_
#define LORAD_ENGINE_OPS_CUDA_SHARED_BARRIER_CUH_

#include <cuda_runtime.h>

#include <cstdint>

namespace lorad::cuda {

// Rounds of arrivals. One thread calls Init, before a barrier of all who use it. A round is over
// when all arrivals are there; what was written before an arrival is seen after Wait.
class SharedBarrier {
 public:
  __device__ __forceinline__ void Init(uint32_t arrivals) {
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(address()), "r"(arrivals)
                 : "memory");
#endif
  }
  __device__ __forceinline__ void Arrive() {
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(address()) : "memory");
#endif
  }
  // Until the round of this parity (0 for the first, 1 for the second, ...) is over.
  __device__ __forceinline__ void Wait(uint32_t parity) {
#if __CUDA_ARCH__ >= 900
    asm volatile(
        "{\n.reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n}\n" ::"r"(address()),
        "r"(parity)
        : "memory");
#endif
  }

 private:
  __device__ __forceinline__ uint32_t address() {
    return static_cast<uint32_t>(__cvta_generic_to_shared(&word_));
  }
  alignas(8) uint64_t word_;
};

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_SHARED_BARRIER_CUH_
