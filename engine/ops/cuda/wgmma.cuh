// Products of a warpgroup of 128 threads on the tensor cores of compute capability 9.0a; compiled
// for others, nothing here does anything. PTX ISA, "Asynchronous Warpgroup Level Matrix
// Instructions".
//
// D (64 x N, fp32) = A (64 x 16, bf16, registers) B (16 x N, bf16, shared memory) + D. Warp w of
// the four has rows [16 w, 16 w + 16) of A and D, in the fragments of mma.m16n8k16
// (attention_mma.cuh): N / 8 of D. B lies in core matrices of 8 columns of B x 8 rows, 128 bytes,
// of which 16 are one column: those of neighbouring columns follow one another, and `core_stride`
// bytes on come those of the next 8 rows.
#ifndef LORAD_ENGINE_OPS_CUDA_WGMMA_CUH_
#define LORAD_ENGINE_OPS_CUDA_WGMMA_CUH_

#include <cuda_runtime.h>

#include <cstdint>

namespace lorad::cuda {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LORAD_HAS_WGMMA 1
#else
#define LORAD_HAS_WGMMA 0
#endif

inline constexpr int kCoreBytes = 128;

// Of B at `address` in shared memory, a multiple of 16. The address is in the low bits, in units of
// 16 bytes: a sum of a descriptor and offset / 16 is that of a matrix further on.
__device__ __forceinline__ uint64_t MatrixDescriptor(uint32_t address, uint32_t core_stride) {
  return uint64_t{(address & 0x3ffff) >> 4} | uint64_t{core_stride >> 4} << 16 |
         uint64_t{kCoreBytes >> 4} << 32;
}

// Before the first product after registers of A or D were written.
__device__ __forceinline__ void FenceProductRegisters() {
#if LORAD_HAS_WGMMA
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
#endif
}
__device__ __forceinline__ void CommitProducts() {
#if LORAD_HAS_WGMMA
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
#endif
}

// d (+)= A B; the caller fences, commits and waits. Without kAdd what d held does not matter.
template <bool kAdd>
__device__ __forceinline__ void StartProduct(float (&d)[4][4], const uint32_t (&a)[4], uint64_t b) {
#if LORAD_HAS_WGMMA
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %21, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
      "{%16, %17, %18, %19}, %20, add, 1, 1, 0;\n}\n"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),
        "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),
        "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(int{kAdd}));
#endif
}
template <bool kAdd>
__device__ __forceinline__ void StartProduct(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b) {
#if LORAD_HAS_WGMMA
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, add, 1, 1, 0;\n}\n"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),
        "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),
        "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),
        "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),
        "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),
        "+f"(d[7][2]), "+f"(d[7][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(int{kAdd}));
#endif
}

// Until all committed products are done. `d` is named so that nothing reads it before.
template <int kTiles>
__device__ __forceinline__ void WaitForProducts(float (&d)[kTiles][4]) {
#if LORAD_HAS_WGMMA
  asm volatile("wgmma.wait_group.sync.aligned 0;\n" ::: "memory");
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
    asm volatile("" : "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])::"memory");
#endif
}

// Makes this thread's stores to shared memory visible to products that a barrier orders after it.
__device__ __forceinline__ void FenceStoresForProducts() {
#if LORAD_HAS_WGMMA
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
#endif
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_WGMMA_CUH_
