// What the memory-bound kernels share: rows of bf16 read and written 16 bytes at a time, reductions
// over a thread block, and launch grids over rows.
#ifndef LORAD_ENGINE_OPS_CUDA_VECTOR_ACCESS_CUH_
#define LORAD_ENGINE_OPS_CUDA_VECTOR_ACCESS_CUH_

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "engine/core/checked_math.h"

namespace lorad::cuda {

inline constexpr int kVectorWidth = 8;  // bf16 numbers in the widest access, 16 bytes
inline constexpr int kWarpSize = 32;
inline constexpr int kMaxWarps = 32;  // in a block

// kWidth neighbouring bf16 numbers as memory holds them: 8, or 1 where rows are not aligned.
template <int kWidth>
struct Pack {
  static_assert(kWidth == kVectorWidth || kWidth == 1);
  using Bits = std::conditional_t<kWidth == 1, uint16_t, uint4>;
  Bits bits;
};

// REQUIRES: `from` is aligned to the pack's size.
template <int kWidth>
__device__ __forceinline__ Pack<kWidth> Load(const __nv_bfloat16* from) {
  return {*reinterpret_cast<const typename Pack<kWidth>::Bits*>(from)};
}
template <int kWidth>
__device__ __forceinline__ void Store(const Pack<kWidth>& pack, __nv_bfloat16* to) {
  *reinterpret_cast<typename Pack<kWidth>::Bits*>(to) = pack.bits;
}

// The two numbers of a word, the one at the lower address first.
__device__ __forceinline__ float2 UnpackWord(uint32_t word) {
  return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
}
__device__ __forceinline__ uint32_t PackWord(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

__device__ __forceinline__ void Unpack(const Pack<1>& pack, float (&values)[1]) {
  values[0] = __uint_as_float(static_cast<uint32_t>(pack.bits) << 16);
}
__device__ __forceinline__ void Unpack(const Pack<8>& pack, float (&values)[8]) {
  const uint32_t words[4] = {pack.bits.x, pack.bits.y, pack.bits.z, pack.bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = UnpackWord(words[i]);
    values[2 * i] = pair.x;
    values[2 * i + 1] = pair.y;
  }
}

// Rounds to nearest even.
__device__ __forceinline__ Pack<1> Rounded(const float (&values)[1]) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(values[0]))};
}
__device__ __forceinline__ Pack<8> Rounded(const float (&values)[8]) {
  return {make_uint4(PackWord(values[0], values[1]), PackWord(values[2], values[3]),
                     PackWord(values[4], values[5]), PackWord(values[6], values[7]))};
}

template <int kWidth>
__device__ __forceinline__ void LoadValues(const __nv_bfloat16* from, float (&values)[kWidth]) {
  Unpack(Load<kWidth>(from), values);
}
template <int kWidth>
__device__ __forceinline__ void StoreRounded(const float (&values)[kWidth], __nv_bfloat16* to) {
  Store<kWidth>(Rounded(values), to);
}

// Parameters, which no kernel writes while another reads them. REQUIRES: aligned to 16 bytes for 8.
__device__ __forceinline__ void LoadConstant(const float* from, float (&values)[1]) {
  values[0] = __ldg(from);
}
__device__ __forceinline__ void LoadConstant(const float* from, float (&values)[8]) {
  const float4 low = __ldg(reinterpret_cast<const float4*>(from));
  const float4 high = __ldg(reinterpret_cast<const float4*>(from) + 1);
  values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
  values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
}

struct SumOf {
  static constexpr float kIdentity = 0.0f;
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct MaxOf {
  static constexpr float kIdentity = -3.402823466e+38f;
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// Over a warp: the same bits in every lane.
template <typename Op>
__device__ __forceinline__ float WarpReduce(float value, Op op = {}) {
#pragma unroll
  for (int step = kWarpSize / 2; step > 0; step /= 2)
    value = op(value, __shfl_xor_sync(0xffffffffu, value, step));
  return value;
}

// The reduction of `value` over the block: the same bits in every thread, in an order that depends
// on the number of threads alone. Waits for the whole block. REQUIRES: a one-dimensional block of
// whole warps; no other call uses `partial` [kMaxWarps], in shared memory.
template <typename Op>
__device__ __forceinline__ float BlockReduce(float value, float* partial, Op op = {}) {
  value = WarpReduce(value, op);
  const int lane = threadIdx.x % kWarpSize, warps = blockDim.x / kWarpSize;
  if (lane == 0) partial[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  return WarpReduce(lane < warps ? partial[lane] : Op::kIdentity, op);
}

// Whether rows `stride` elements apart from `data` on can be read as packs of 8 bf16 (for fp32
// parameters, pass no stride). Null is aligned.
inline bool IsAligned(const void* data, int64_t stride = 0) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % kVectorWidth == 0;
}

// blockIdx.x counts the blocks along a row, blockIdx.y the rows, in steps of gridDim.y.
struct RowGrid {
  dim3 blocks;
  unsigned threads = 0;
};

// Covers rows of `packs` packs; a thread takes `packs_per_thread` of them, a block's width apart.
inline RowGrid CoverRows(int64_t rows, int64_t packs, int packs_per_thread) {
  constexpr int64_t kMaxThreads = 256, kMaxRows = 65535;  // gridDim.y ends there
  const int64_t blocks = CeilDiv(packs, kMaxThreads * packs_per_thread);
  const int64_t threads = CeilDiv(packs, blocks * packs_per_thread);
  return {dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(std::min(rows, kMaxRows))),
          static_cast<unsigned>(CeilDiv(threads, kWarpSize) * kWarpSize)};
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_VECTOR_ACCESS_CUH_
