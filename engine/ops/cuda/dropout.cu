// Inverted dropout:  out[t, i] (+)= keep(t, i) ? x[t, i] / (1 - p) : 0,  where keep(t, i) is
// UniformFloat(Philox4x32(seed, step, module, key low, (key high << 14) ^ (i / 4)).words[i % 4])
// >= p and `key` is token_keys[t]: the mask of engine/ops/linear.h, bit for bit.
//
//   x, out  bf16 [rows, columns], strided rows; out may be x
//
// A thread masks 8 columns (two counters, one 16-byte access), a row in gridDim.x. Bound by
// memory, 4 bytes an element (6 when adding), and close to the integer units: a counter is 40
// multiplications. Srivastava et al., "Dropout", 2014; random numbers: Salmon et al., SC 2011.
#include <cuda_bf16.h>

#include "engine/core/checked_math.h"
#include "engine/core/philox.h"
#include "engine/ops/cuda/dropout.h"

namespace lorad::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kVector = 8;

struct DropArgs {
  DropoutMask mask;
  float keep_scale;
  const __nv_bfloat16* x;
  int64_t x_stride;
  __nv_bfloat16* out;
  int64_t out_stride;
  int64_t columns;
};

__device__ __forceinline__ bool IsAligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

__device__ __forceinline__ void Load(const __nv_bfloat16* from, int width,
                                     __nv_bfloat16 (&values)[kVector]) {
  if (width == kVector && IsAligned(from)) {
    const uint4 bits = *reinterpret_cast<const uint4*>(from);
    memcpy(values, &bits, sizeof(bits));
    return;
  }
#pragma unroll
  for (int j = 0; j < kVector; ++j) values[j] = j < width ? from[j] : __nv_bfloat16{};
}

__device__ __forceinline__ void Store(const __nv_bfloat16 (&values)[kVector], int width,
                                      __nv_bfloat16* to) {
  if (width == kVector && IsAligned(to)) {
    uint4 bits;
    memcpy(&bits, values, sizeof(bits));
    *reinterpret_cast<uint4*>(to) = bits;
    return;
  }
#pragma unroll
  for (int j = 0; j < kVector; ++j) {
    if (j < width) to[j] = values[j];
  }
}

template <bool kAdd>
__global__ void __launch_bounds__(kThreads) DropoutKernel(const DropArgs args) {
  const int64_t row = blockIdx.x;
  const int64_t column = (int64_t{blockIdx.y} * kThreads + threadIdx.x) * kVector;
  if (column >= args.columns) return;
  const int width =
      static_cast<int>(args.columns - column < kVector ? args.columns - column : kVector);
  const uint64_t key = __ldg(args.mask.token_keys + row);
  const uint32_t low = static_cast<uint32_t>(key);
  const uint32_t high = static_cast<uint32_t>(key >> 32) << 14;
  const uint32_t counter = static_cast<uint32_t>(column / 4);

  __nv_bfloat16* to = args.out + row * args.out_stride + column;
  __nv_bfloat16 x[kVector], out[kVector];
  Load(args.x + row * args.x_stride + column, width, x);
  if constexpr (kAdd) Load(to, width, out);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const PhiloxBlock block =
        Philox4x32(args.mask.seed, args.mask.step, args.mask.module, low, high ^ (counter + half));
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const bool kept = UniformFloat(block.words[j]) >= args.mask.probability;
      const int i = 4 * half + j;
      const float value = kept ? __fmul_rn(__bfloat162float(x[i]), args.keep_scale) : 0.0f;
      out[i] = __float2bfloat16_rn(kAdd ? __fadd_rn(__bfloat162float(out[i]), value) : value);
    }
  }
  Store(out, width, to);
}

template <bool kAdd>
cudaError_t Launch(const DropoutMask& mask, const BFloat16* x, int64_t x_stride, int64_t rows,
                   int64_t columns, BFloat16* out, int64_t out_stride, cudaStream_t stream) {
  if (rows == 0 || columns == 0) return cudaSuccess;
  const int64_t column_blocks = CeilDiv(columns, kThreads * kVector);
  // Limits of a grid, far above any layer.
  if (rows > INT32_MAX || column_blocks > UINT16_MAX) return cudaErrorInvalidValue;
  const DropArgs args = {
      mask,     1.0f / (1.0f - mask.probability),      reinterpret_cast<const __nv_bfloat16*>(x),
      x_stride, reinterpret_cast<__nv_bfloat16*>(out), out_stride,
      columns};
  const dim3 grid(static_cast<unsigned>(rows), static_cast<unsigned>(column_blocks));
  DropoutKernel<kAdd><<<grid, kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchDropout(const DropoutMask& mask, const BFloat16* x, int64_t x_stride,
                          int64_t rows, int64_t columns, BFloat16* out, int64_t out_stride,
                          cudaStream_t stream) {
  return Launch<false>(mask, x, x_stride, rows, columns, out, out_stride, stream);
}

cudaError_t LaunchDropoutAdd(const DropoutMask& mask, const BFloat16* x, int64_t x_stride,
                             int64_t rows, int64_t columns, BFloat16* out, int64_t out_stride,
                             cudaStream_t stream) {
  return Launch<true>(mask, x, x_stride, rows, columns, out, out_stride, stream);
}

}  // namespace lorad::cuda
