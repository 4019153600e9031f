// RMSNorm and its gradient.
//
//   inv_rms[t] = 1 / sqrt(mean(x[t, :]^2) + eps),  y[t, :] = gamma * (x[t, :] * inv_rms[t])
//   dx[t, :] (+)= inv_rms[t] * (dy[t, :] * gamma - x[t, :] * shift[t]),
//   shift[t] = inv_rms[t]^2 * mean(dy[t, :] * gamma * x[t, :])
//
// x, y, dy, dx: bf16 [rows, hidden], rows a stride apart; gamma fp32 [hidden]; inv_rms fp32 [rows].
// y may alias x; dx may alias dy when nothing is accumulated: a thread has read all the elements
// that it writes.
//
// A block takes a row. Up to 16384 columns the row stays in registers between the reduction and the
// output, as packs of 8 bf16 that lie a block's width apart; a wider row, or one that is not
// aligned, is read twice, the second time mostly from L2.
//
// Bound by memory: 4 * rows * hidden bytes forward, 6 backward, 8 when accumulating. gamma comes
// from L1. A block of 128 threads with 4 packs each keeps 8 KiB (backward 16 to 24 KiB) of loads in
// flight, and several of them share an SM, so that loads of one row cover the reduction of another.
//
// Zhang & Sennrich, "Root Mean Square Layer Normalization", 2019.
#include "engine/ops/cuda/chained_launch.cuh"
#include "engine/ops/cuda/elementwise.h"
#include "engine/ops/cuda/vector_access.cuh"

namespace lorad::cuda {
namespace {

constexpr int kPacksManyRows = 4;     // per thread: bytes in flight come from many small blocks
constexpr int kPacksFewRows = 1;      // per thread: as many threads as the row has packs
constexpr int64_t kFewRows = 512;     // about what fits on the GPU at once
constexpr int kMaxThreadsKept = 512;  // 512 * 4 packs of 8: 16384 columns
constexpr int kMaxThreadsFewRows = 1024;
constexpr int kThreadsReread = 256;

struct Forward {
  const __nv_bfloat16* x;
  int64_t x_stride;
  const float* gamma;
  __nv_bfloat16* y;
  int64_t y_stride;
  float* inv_rms;  // or null
  int hidden;
  float eps;
};

struct Backward {
  const __nv_bfloat16* dy;
  int64_t dy_stride;
  const __nv_bfloat16* x;
  int64_t x_stride;
  const float* gamma;
  const float* inv_rms;
  __nv_bfloat16* dx;
  int64_t dx_stride;
  bool accumulate;
  int hidden;
};

template <int kWidth>
__device__ __forceinline__ float SumSquares(const Pack<kWidth>& pack) {
  float values[kWidth], sum = 0.0f;
  Unpack(pack, values);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) sum += values[i] * values[i];
  return sum;
}

template <int kWidth>
__device__ __forceinline__ Pack<kWidth> Normed(const Pack<kWidth>& pack, float inv_rms,
                                               const float (&gamma)[kWidth]) {
  float values[kWidth];
  Unpack(pack, values);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) values[i] = gamma[i] * (values[i] * inv_rms);
  return Rounded(values);
}

// The block's inv_rms from each thread's sum of squares; thread 0 stores it.
__device__ __forceinline__ float InvRms(const Forward& p, int64_t row, float squares,
                                        float* partial) {
  const float mean = BlockReduce<SumOf>(squares, partial) / static_cast<float>(p.hidden);
  const float inv_rms = 1.0f / sqrtf(mean + p.eps);
  if (p.inv_rms != nullptr && threadIdx.x == 0) p.inv_rms[row] = inv_rms;
  return inv_rms;
}

template <int kPacks>
__global__ void __launch_bounds__(kPacks == kPacksFewRows ? kMaxThreadsFewRows : kMaxThreadsKept)
    RmsNormKernel(const Forward p) {
  LetNextKernelBegin();
  __shared__ float partial[kMaxWarps];
  const int64_t row = blockIdx.x;
  const __nv_bfloat16* x = p.x + row * p.x_stride;
  constexpr bool kEarlyGamma = kPacks == kPacksFewRows;
  float gamma[8] = {};
  if (kEarlyGamma && threadIdx.x * 8 < p.hidden) LoadConstant(p.gamma + threadIdx.x * 8, gamma);
  WaitForEarlierKernels();
  Pack<8> kept[kPacks];
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int column = (threadIdx.x + k * blockDim.x) * 8;
    kept[k].bits = make_uint4(0, 0, 0, 0);
    if (column < p.hidden) kept[k] = Load<8>(x + column);
  }
  float squares = 0.0f;
#pragma unroll
  for (int k = 0; k < kPacks; ++k) squares += SumSquares(kept[k]);
  const float inv_rms = InvRms(p, row, squares, partial);
  __nv_bfloat16* y = p.y + row * p.y_stride;
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int column = (threadIdx.x + k * blockDim.x) * 8;
    if (column >= p.hidden) break;
    if constexpr (!kEarlyGamma) LoadConstant(p.gamma + column, gamma);
    Store<8>(Normed(kept[k], inv_rms, gamma), y + column);
  }
}

template <int kWidth>
__global__ void __launch_bounds__(kThreadsReread) RmsNormRereadKernel(const Forward p) {
  LetNextKernelBegin();
  WaitForEarlierKernels();
  __shared__ float partial[kMaxWarps];
  const int64_t row = blockIdx.x;
  const __nv_bfloat16* x = p.x + row * p.x_stride;
  const int first = threadIdx.x * kWidth, step = blockDim.x * kWidth;
  float squares = 0.0f;
#pragma unroll 4
  for (int i = first; i < p.hidden; i += step) squares += SumSquares(Load<kWidth>(x + i));
  const float inv_rms = InvRms(p, row, squares, partial);
  __nv_bfloat16* y = p.y + row * p.y_stride;
  for (int i = first; i < p.hidden; i += step) {
    float gamma[kWidth];
    LoadConstant(p.gamma + i, gamma);
    Store<kWidth>(Normed(Load<kWidth>(x + i), inv_rms, gamma), y + i);
  }
}

// sum of dy * gamma * x
template <int kWidth>
__device__ __forceinline__ float Dot(const Pack<kWidth>& dy_pack, const Pack<kWidth>& x_pack,
                                     const float* gamma) {
  float dy[kWidth], x[kWidth], weight[kWidth], sum = 0.0f;
  Unpack(dy_pack, dy);
  Unpack(x_pack, x);
  LoadConstant(gamma, weight);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) sum += dy[i] * weight[i] * x[i];
  return sum;
}

// inv_rms^2 * mean(dy * gamma * x) from each thread's sum.
__device__ __forceinline__ float Shift(const Backward& p, float inv_rms, float dot,
                                       float* partial) {
  const float mean = BlockReduce<SumOf>(dot, partial) / static_cast<float>(p.hidden);
  return mean * inv_rms * inv_rms;
}

// `before`: what dx held, zeros unless accumulating.
template <int kWidth>
__device__ __forceinline__ void StoreGradient(const Pack<kWidth>& dy_pack,
                                              const Pack<kWidth>& x_pack,
                                              const Pack<kWidth>& before_pack, float inv_rms,
                                              float shift, const float* gamma, __nv_bfloat16* dx) {
  float dy[kWidth], x[kWidth], before[kWidth], weight[kWidth];
  Unpack(dy_pack, dy);
  Unpack(x_pack, x);
  Unpack(before_pack, before);
  LoadConstant(gamma, weight);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    dy[i] = before[i] + inv_rms * (dy[i] * weight[i] - x[i] * shift);
  }
  StoreRounded(dy, dx);
}

template <int kPacks>
__global__ void __launch_bounds__(kPacks == kPacksFewRows ? kMaxThreadsFewRows : kMaxThreadsKept)
    RmsNormBackwardKernel(const Backward p) {
  __shared__ float partial[kMaxWarps];
  const int64_t row = blockIdx.x;
  const __nv_bfloat16* dy = p.dy + row * p.dy_stride;
  const __nv_bfloat16* x = p.x + row * p.x_stride;
  __nv_bfloat16* dx = p.dx + row * p.dx_stride;
  Pack<8> kept_dy[kPacks], kept_x[kPacks], before[kPacks];
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int column = (threadIdx.x + k * blockDim.x) * 8;
    kept_dy[k].bits = kept_x[k].bits = before[k].bits = make_uint4(0, 0, 0, 0);
    if (column >= p.hidden) continue;
    kept_dy[k] = Load<8>(dy + column);
    kept_x[k] = Load<8>(x + column);
    if (p.accumulate) before[k] = Load<8>(dx + column);
  }
  const float inv_rms = p.inv_rms[row];
  float dot = 0.0f;
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int column = (threadIdx.x + k * blockDim.x) * 8;
    if (column < p.hidden) dot += Dot(kept_dy[k], kept_x[k], p.gamma + column);
  }
  const float shift = Shift(p, inv_rms, dot, partial);
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int column = (threadIdx.x + k * blockDim.x) * 8;
    if (column < p.hidden) {
      StoreGradient(kept_dy[k], kept_x[k], before[k], inv_rms, shift, p.gamma + column,
                    dx + column);
    }
  }
}

template <int kWidth>
__global__ void __launch_bounds__(kThreadsReread) RmsNormBackwardRereadKernel(const Backward p) {
  __shared__ float partial[kMaxWarps];
  const int64_t row = blockIdx.x;
  const __nv_bfloat16* dy = p.dy + row * p.dy_stride;
  const __nv_bfloat16* x = p.x + row * p.x_stride;
  __nv_bfloat16* dx = p.dx + row * p.dx_stride;
  const int first = threadIdx.x * kWidth, step = blockDim.x * kWidth;
  float dot = 0.0f;
#pragma unroll 2
  for (int i = first; i < p.hidden; i += step) {
    dot += Dot(Load<kWidth>(dy + i), Load<kWidth>(x + i), p.gamma + i);
  }
  const float inv_rms = p.inv_rms[row];
  const float shift = Shift(p, inv_rms, dot, partial);
  for (int i = first; i < p.hidden; i += step) {
    Pack<kWidth> before = {};
    if (p.accumulate) before = Load<kWidth>(dx + i);
    StoreGradient(Load<kWidth>(dy + i), Load<kWidth>(x + i), before, inv_rms, shift, p.gamma + i,
                  dx + i);
  }
}

// How a row is spread over its block.
struct Plan {
  bool aligned;
  int packs_per_thread;  // 0: the row is read twice
  unsigned threads;
};

Plan MakePlan(int64_t rows, int64_t hidden, bool aligned) {
  const int64_t packs = CeilDiv(hidden, kVectorWidth);
  const bool few = rows <= kFewRows && packs <= kMaxThreadsFewRows;
  const int per_thread = few ? kPacksFewRows : kPacksManyRows;
  const int64_t threads = CeilDiv(packs, per_thread * kWarpSize) * kWarpSize;
  aligned = aligned && hidden % kVectorWidth == 0;
  if (!aligned || (!few && threads > kMaxThreadsKept)) return {aligned, 0, kThreadsReread};
  return {true, per_thread, static_cast<unsigned>(threads)};
}

}  // namespace

cudaError_t LaunchRmsNorm(const BFloat16* x, int64_t x_stride, const float* gamma, BFloat16* y,
                          int64_t y_stride, float* inv_rms, int64_t rows, int64_t hidden, float eps,
                          cudaStream_t stream) {
  if (rows == 0 || hidden == 0) return cudaSuccess;
  const Plan plan =
      MakePlan(rows, hidden, IsAligned(x, x_stride) && IsAligned(y, y_stride) && IsAligned(gamma));
  const Forward p = {reinterpret_cast<const __nv_bfloat16*>(x),
                     x_stride,
                     gamma,
                     reinterpret_cast<__nv_bfloat16*>(y),
                     y_stride,
                     inv_rms,
                     static_cast<int>(hidden),
                     eps};
  const unsigned blocks = static_cast<unsigned>(rows);
  const auto kernel = plan.packs_per_thread == kPacksFewRows    ? RmsNormKernel<kPacksFewRows>
                      : plan.packs_per_thread == kPacksManyRows ? RmsNormKernel<kPacksManyRows>
                      : plan.aligned                            ? RmsNormRereadKernel<kVectorWidth>
                                                                : RmsNormRereadKernel<1>;
  return LaunchChained(kernel, dim3(blocks), dim3(plan.threads), 0, p, stream);
}

cudaError_t LaunchRmsNormBackward(const BFloat16* dy, int64_t dy_stride, const BFloat16* x,
                                  int64_t x_stride, const float* gamma, const float* inv_rms,
                                  BFloat16* dx, int64_t dx_stride, bool accumulate, int64_t rows,
                                  int64_t hidden, cudaStream_t stream) {
  if (rows == 0 || hidden == 0) return cudaSuccess;
  const Plan plan = MakePlan(rows, hidden,
                             IsAligned(dy, dy_stride) && IsAligned(x, x_stride) &&
                                 IsAligned(dx, dx_stride) && IsAligned(gamma));
  const Backward p = {reinterpret_cast<const __nv_bfloat16*>(dy),
                      dy_stride,
                      reinterpret_cast<const __nv_bfloat16*>(x),
                      x_stride,
                      gamma,
                      inv_rms,
                      reinterpret_cast<__nv_bfloat16*>(dx),
                      dx_stride,
                      accumulate,
                      static_cast<int>(hidden)};
  const unsigned blocks = static_cast<unsigned>(rows);
  if (plan.packs_per_thread == kPacksFewRows) {
    RmsNormBackwardKernel<kPacksFewRows><<<blocks, plan.threads, 0, stream>>>(p);
  } else if (plan.packs_per_thread == kPacksManyRows) {
    RmsNormBackwardKernel<kPacksManyRows><<<blocks, plan.threads, 0, stream>>>(p);
  } else if (plan.aligned) {
    RmsNormBackwardRereadKernel<kVectorWidth><<<blocks, plan.threads, 0, stream>>>(p);
  } else {
    RmsNormBackwardRereadKernel<1><<<blocks, plan.threads, 0, stream>>>(p);
  }
  return cudaGetLastError();
}

}  // namespace lorad::cuda
