// SwiGLU and its gradient.
//
//   out = silu(gate) * up,  silu(g) = g * s,  s = 1 / (1 + exp(-g))
//   dup = dout * gate * s,  dgate = dout * up * s * (1 + gate * (1 - s))
//
// All bf16 [rows, n], each with its own row stride: gate and up are usually the halves of one
// buffer [rows, 2 n]. Outputs may alias inputs: a thread reads element (t, i) of every input before
// it writes element (t, i) of any output, and no other thread touches it.
//
// A thread takes one pack of 8 columns; blocks of up to 256 threads tile the row, blockIdx.y is the
// row. Bound by memory: 6 * rows * n bytes forward, 10 backward. Per element one exponential and
// one approximate reciprocal, a third of what the special-function units can do meanwhile.
//
// Shazeer, "GLU Variants Improve Transformer", 2020.
#include "engine/ops/cuda/chained_launch.cuh"
#include "engine/ops/cuda/elementwise.h"
#include "engine/ops/cuda/swiglu.cuh"
#include "engine/ops/cuda/vector_access.cuh"

namespace lorad::cuda {
namespace {

struct Forward {
  const __nv_bfloat16* gate;
  int64_t gate_stride;
  const __nv_bfloat16* up;
  int64_t up_stride;
  __nv_bfloat16* out;
  int64_t out_stride;
  int64_t rows;
  int64_t n;
};

struct Backward {
  const __nv_bfloat16* dout;
  int64_t dout_stride;
  const __nv_bfloat16* gate;
  int64_t gate_stride;
  const __nv_bfloat16* up;
  int64_t up_stride;
  __nv_bfloat16* dgate;
  int64_t dgate_stride;
  __nv_bfloat16* dup;
  int64_t dup_stride;
  int64_t rows;
  int64_t n;
};

template <int kWidth>
__global__ void __launch_bounds__(256) SwiGluKernel(const Forward p) {
  LetNextKernelBegin();
  WaitForEarlierKernels();
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kWidth;
  if (column >= p.n) return;
  for (int64_t row = blockIdx.y; row < p.rows; row += gridDim.y) {
    float gate[kWidth], up[kWidth];
    LoadValues(p.gate + row * p.gate_stride + column, gate);
    LoadValues(p.up + row * p.up_stride + column, up);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) gate[i] = SwiGlu(gate[i], up[i]);
    StoreRounded(gate, p.out + row * p.out_stride + column);
  }
}

template <int kWidth>
__global__ void __launch_bounds__(256) SwiGluBackwardKernel(const Backward p) {
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kWidth;
  if (column >= p.n) return;
  for (int64_t row = blockIdx.y; row < p.rows; row += gridDim.y) {
    float dout[kWidth], gate[kWidth], up[kWidth];
    LoadValues(p.dout + row * p.dout_stride + column, dout);
    LoadValues(p.gate + row * p.gate_stride + column, gate);
    LoadValues(p.up + row * p.up_stride + column, up);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float d = dout[i], g = gate[i], u = up[i], s = Sigmoid(g);
      gate[i] = d * u * (s * (1.0f + g * (1.0f - s)));
      up[i] = d * g * s;
    }
    StoreRounded(gate, p.dgate + row * p.dgate_stride + column);
    StoreRounded(up, p.dup + row * p.dup_stride + column);
  }
}

}  // namespace

cudaError_t LaunchSwiGlu(const BFloat16* gate, int64_t gate_stride, const BFloat16* up,
                         int64_t up_stride, BFloat16* out, int64_t out_stride, int64_t rows,
                         int64_t n, cudaStream_t stream) {
  if (rows == 0 || n == 0) return cudaSuccess;
  const Forward p = {reinterpret_cast<const __nv_bfloat16*>(gate),
                     gate_stride,
                     reinterpret_cast<const __nv_bfloat16*>(up),
                     up_stride,
                     reinterpret_cast<__nv_bfloat16*>(out),
                     out_stride,
                     rows,
                     n};
  if (IsAligned(gate, gate_stride) && IsAligned(up, up_stride) && IsAligned(out, out_stride) &&
      n % kVectorWidth == 0) {
    const RowGrid grid = CoverRows(rows, n / kVectorWidth, 1);
    return LaunchChained(SwiGluKernel<kVectorWidth>, grid.blocks, grid.threads, 0, p, stream);
  } else {
    const RowGrid grid = CoverRows(rows, n, 1);
    return LaunchChained(SwiGluKernel<1>, grid.blocks, grid.threads, 0, p, stream);
  }
}

cudaError_t LaunchSwiGluBackward(const BFloat16* dout, int64_t dout_stride, const BFloat16* gate,
                                 int64_t gate_stride, const BFloat16* up, int64_t up_stride,
                                 BFloat16* dgate, int64_t dgate_stride, BFloat16* dup,
                                 int64_t dup_stride, int64_t rows, int64_t n, cudaStream_t stream) {
  if (rows == 0 || n == 0) return cudaSuccess;
  const Backward p = {reinterpret_cast<const __nv_bfloat16*>(dout),
                      dout_stride,
                      reinterpret_cast<const __nv_bfloat16*>(gate),
                      gate_stride,
                      reinterpret_cast<const __nv_bfloat16*>(up),
                      up_stride,
                      reinterpret_cast<__nv_bfloat16*>(dgate),
                      dgate_stride,
                      reinterpret_cast<__nv_bfloat16*>(dup),
                      dup_stride,
                      rows,
                      n};
  const bool aligned = IsAligned(dout, dout_stride) && IsAligned(gate, gate_stride) &&
                       IsAligned(up, up_stride) && IsAligned(dgate, dgate_stride) &&
                       IsAligned(dup, dup_stride) && n % kVectorWidth == 0;
  if (aligned) {
    const RowGrid grid = CoverRows(rows, n / kVectorWidth, 1);
    SwiGluBackwardKernel<kVectorWidth><<<grid.blocks, grid.threads, 0, stream>>>(p);
  } else {
    const RowGrid grid = CoverRows(rows, n, 1);
    SwiGluBackwardKernel<1><<<grid.blocks, grid.threads, 0, stream>>>(p);
  }
  return cudaGetLastError();
}

}  // namespace lorad::cuda
