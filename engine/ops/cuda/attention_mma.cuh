// The instructions that the attention kernels are built from: copies into shared memory that run in
// the background, loads of 8 x 8 matrices, and the tensor cores' bf16 product. Shared memory is
// named by its 32-bit address. All exist from compute capability 8.0 on.
//
// Fragments of mma.m16n8k16, with group g = lane / 4 and position t = lane % 4:
//   a[0..3]  A (16 x 16): (row g, columns 2t, 2t+1), (g+8, same), (g, columns 2t+8, 2t+9),
//            (g+8, columns 2t+8, 2t+9); the lower column in the lower half of the word
//   b0, b1   B (16 x 8): (rows 2t, 2t+1 of column g), (rows 2t+8, 2t+9 of column g)
//   c[0..3]  C (16 x 8): (row g, columns 2t, 2t+1), (row g+8, columns 2t, 2t+1)
// So two neighbouring C tiles, rounded to bf16, are an A fragment without any exchange.
#ifndef LORAD_ENGINE_OPS_CUDA_ATTENTION_MMA_CUH_
#define LORAD_ENGINE_OPS_CUDA_ATTENTION_MMA_CUH_

#include <cuda_runtime.h>

#include <cstdint>

namespace lorad::cuda {

// Address of the block's dynamic shared memory, a multiple of 1024.
__device__ __forceinline__ uint32_t DynamicSharedMemory() {
  extern __shared__ __align__(1024) unsigned char dynamic_shared_memory[];
  return static_cast<uint32_t>(__cvta_generic_to_shared(dynamic_shared_memory));
}

// Starts a copy of 16 bytes, or fills with zeros without reading `from`.
__device__ __forceinline__ void CopyAsync16(uint32_t to, const void* from, bool read) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from),
               "r"(read ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void CopyAsync8(uint32_t to, const void* from, bool read) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;\n" ::"r"(to), "l"(from),
               "r"(read ? 8 : 0)
               : "memory");
}
// Ends a group of copies: this thread's since the last call, perhaps none.
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
// Waits for this thread's groups but the `kPending` youngest. Others see them after a barrier.
template <int kPending>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

__device__ __forceinline__ void StoreShared(uint32_t to, uint32_t word) {
  asm volatile("st.shared.b32 [%0], %1;\n" ::"r"(to), "r"(word) : "memory");
}
__device__ __forceinline__ void StoreShared(uint32_t to, uint4 words) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};\n" ::"r"(to), "r"(words.x), "r"(words.y),
               "r"(words.z), "r"(words.w)
               : "memory");
}
__device__ __forceinline__ uint4 LoadShared16(uint32_t from) {
  uint4 words;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
               : "r"(from)
               : "memory");
  return words;
}

// Four 8 x 8 matrices of bf16; lane 8 i + j gives the address of row j of matrix i (16 bytes).
// matrices[i] holds (row g, columns 2t, 2t+1) of matrix i; transposed, (rows 2t, 2t+1, column g).
__device__ __forceinline__ void LoadMatrices(uint32_t (&matrices)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(row));
}
__device__ __forceinline__ void LoadTransposed(uint32_t (&matrices)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(row));
}

// c += A B
__device__ __forceinline__ void MultiplyAdd(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                            uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two numbers rounded to bf16, to nearest even.
__device__ __forceinline__ uint32_t RoundPair(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// 2^x, within 2 units in the last place; 2^0 is 1 and 2^-inf is 0.
__device__ __forceinline__ float Exp2(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(power) : "f"(x));
  return power;
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ATTENTION_MMA_CUH_
