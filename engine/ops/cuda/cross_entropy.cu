// Softmax with cross-entropy over rows of logits; the gradient replaces the logits.
//
//   loss[r] = log(sum_j exp(logits[r, j])) - logits[r, labels[r]]
//   logits[r, j] <- bf16(grad_scale * (softmax(logits[r, :])[j] - (j == labels[r])))
//   labels[r] == kIgnoreLabel: loss[r] = 0, logits[r, :] <- 0
//
// logits: bf16 [rows, vocab], rows a stride apart; columns from vocab to the stride stay as they
// are. labels int32 [rows], loss fp32 [rows].
//
// A block takes a row. First pass: each thread keeps the largest logit it has met and the sum of
// exponentials relative to it, corrected once per batch of packs when a larger one comes; the block
// then agrees on both. Second pass: the gradient. In between, as much of the row as fits stays in
// shared memory (all of it up to vocabularies of 113 thousand where 227 KiB can be had); the rest
// is read again, a few MiB over all running blocks, so from L2. Exponentials are taken twice, which
// is cheaper than keeping them.
//
// Bound by memory: 4 * rows * vocab bytes, 2 for the loss alone. Two exponentials per element are
// half of what the special-function units can do in that time on an H200.
//
// Online softmax: Milakov & Gimelshein, "Online normalizer calculation for softmax", 2018.
#include <cfloat>

#include "engine/ops/cuda/elementwise.h"
#include "engine/ops/cuda/vector_access.cuh"

namespace lorad::cuda {
namespace {

constexpr int kIgnored = -100;  // kIgnoreLabel of engine/ops/cross_entropy.h
constexpr int kBatch = 4;       // packs that a thread loads before it uses the first
constexpr int kMaxThreads = 1024;

struct Rows {
  __nv_bfloat16* logits;
  int64_t stride;
  const int32_t* labels;
  float* loss;
  float grad_scale;
  bool gradient;
  int vocab;
  int num_kept;  // the first packs of a row, which stay in shared memory
};

// exp(x - shift), within 2^-21 relative of it; 0 below 2^-126. The subtraction comes first: it is
// exact for most pairs of bf16 numbers, x * log2(e) - shift * log2(e) would err by their size.
__device__ __forceinline__ float ExpFrom(float x, float shift) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"((x - shift) * 1.4426950408889634f));
  return result;
}

__device__ __forceinline__ float Largest(const Pack<1>& pack) {
  float values[1];
  Unpack(pack, values);
  return values[0];
}
__device__ __forceinline__ float Largest(const Pack<8>& pack) {
  const __nv_bfloat162* pairs = reinterpret_cast<const __nv_bfloat162*>(&pack.bits);
  const __nv_bfloat162 pair = __hmax2(__hmax2(pairs[0], pairs[1]), __hmax2(pairs[2], pairs[3]));
  return fmaxf(__low2float(pair), __high2float(pair));
}

// Minus infinity: no part of any maximum or sum.
__device__ __forceinline__ void Clear(Pack<1>& pack) { pack.bits = 0xff80u; }
__device__ __forceinline__ void Clear(Pack<8>& pack) {
  pack.bits = make_uint4(0xff80ff80u, 0xff80ff80u, 0xff80ff80u, 0xff80ff80u);
}

// The largest of the logits seen, and the sum of exp(logit - largest).
struct Running {
  float largest = MaxOf::kIdentity;
  float sum = 0.0f;

  template <int kWidth, int kPacks>
  __device__ __forceinline__ void Add(const Pack<kWidth> (&packs)[kPacks]) {
    float now = largest;
#pragma unroll
    for (int k = 0; k < kPacks; ++k) now = fmaxf(now, Largest(packs[k]));
    float even = sum * ExpFrom(largest, now), odd = 0.0f;
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      float values[kWidth];
      Unpack(packs[k], values);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        float& part = i % 2 == 0 ? even : odd;
        part += ExpFrom(values[i], now);
      }
    }
    largest = now;
    sum = even + odd;
  }
};

// First pass over the row; what fits is left in `kept`.
template <int kWidth>
__device__ __forceinline__ Running Scan(const __nv_bfloat16* logits, int vocab, int num_kept,
                                        uint4* kept) {
  Running running;
  const int packs = vocab / kWidth;
  for (int base = threadIdx.x; base < packs; base += kBatch * blockDim.x) {
    Pack<kWidth> batch[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const int i = base + k * blockDim.x;
      Clear(batch[k]);
      if (i < packs) batch[k] = Load<kWidth>(logits + static_cast<int64_t>(i) * kWidth);
    }
    if constexpr (kWidth == kVectorWidth) {
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        const int i = base + k * blockDim.x;
        if (i < num_kept) kept[i] = batch[k].bits;
      }
    }
    running.Add(batch);
  }
  const int last = packs * kWidth + threadIdx.x;  // at most kWidth - 1 are left
  if (last < vocab) {
    const Pack<1> single[1] = {Load<1>(logits + last)};
    running.Add(single);
  }
  return running;
}

// Second pass: factor * exp(logit - largest) in place of each logit.
template <int kWidth>
__device__ __forceinline__ void WriteGradient(__nv_bfloat16* logits, int vocab, int num_kept,
                                              const uint4* kept, float largest, float factor) {
  const int packs = vocab / kWidth;
  for (int base = threadIdx.x; base < packs; base += kBatch * blockDim.x) {
    Pack<kWidth> batch[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const int i = base + k * blockDim.x;
      if constexpr (kWidth == kVectorWidth) {
        if (i < num_kept) {
          batch[k].bits = kept[i];
          continue;
        }
      }
      if (i < packs) batch[k] = Load<kWidth>(logits + static_cast<int64_t>(i) * kWidth);
    }
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const int i = base + k * blockDim.x;
      if (i >= packs) break;
      float values[kWidth];
      Unpack(batch[k], values);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) values[j] = factor * ExpFrom(values[j], largest);
      StoreRounded(values, logits + static_cast<int64_t>(i) * kWidth);
    }
  }
  const int last = packs * kWidth + threadIdx.x;
  if (last < vocab) {
    float values[1];
    LoadValues(logits + last, values);
    values[0] = factor * ExpFrom(values[0], largest);
    StoreRounded(values, logits + last);
  }
}

template <int kWidth>
__device__ __forceinline__ void WriteZeros(__nv_bfloat16* logits, int vocab) {
  const int packs = vocab / kWidth;
  for (int i = threadIdx.x; i < packs; i += blockDim.x) {
    Store<kWidth>(Pack<kWidth>{}, logits + static_cast<int64_t>(i) * kWidth);
  }
  const int last = packs * kWidth + threadIdx.x;
  if (last < vocab) Store<1>(Pack<1>{}, logits + last);
}

template <int kWidth>
__global__ void __launch_bounds__(kMaxThreads) SoftmaxCrossEntropyKernel(const Rows p) {
  extern __shared__ uint4 kept[];
  __shared__ float partial_max[kMaxWarps], partial_sum[kMaxWarps];
  const int64_t row = blockIdx.x;
  __nv_bfloat16* logits = p.logits + row * p.stride;
  const int label = p.labels[row];
  if (label == kIgnored) {
    if (threadIdx.x == 0) p.loss[row] = 0.0f;
    if (p.gradient) WriteZeros<kWidth>(logits, p.vocab);
    return;
  }
  // Before the reductions' barriers, after which the row is overwritten.
  const float target = threadIdx.x == 0 ? __bfloat162float(logits[label]) : 0.0f;
  const Running mine = Scan<kWidth>(logits, p.vocab, p.num_kept, kept);
  const float largest = BlockReduce<MaxOf>(mine.largest, partial_max);
  const float sum = BlockReduce<SumOf>(mine.sum * ExpFrom(mine.largest, largest), partial_sum);
  if (threadIdx.x == 0) p.loss[row] = (largest - target) + logf(sum);
  if (!p.gradient) return;
  const float factor = p.grad_scale / sum;
  WriteGradient<kWidth>(logits, p.vocab, p.num_kept, kept, largest, factor);
  __syncthreads();  // the label's element is written twice, this time last
  if (threadIdx.x == 0) {
    logits[label] = __float2bfloat16_rn(factor * ExpFrom(target, largest) - p.grad_scale);
  }
}

// Shared memory that a block of this kernel can have beside its static part.
cudaError_t MaxKeptBytes(int64_t* bytes) {
  constexpr int kReserved = 1024;
  int device = 0, most = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  *bytes = most - kReserved;
  return error;
}

unsigned Threads(int64_t packs) {
  if (packs >= 8192) return kMaxThreads;  // a row that fills shared memory has the SM for itself
  return packs >= 1024 ? 512 : 128;
}

cudaError_t LaunchVector(Rows p, int64_t rows, cudaStream_t stream) {
  const int64_t packs = p.vocab / kVectorWidth;
  int64_t shared = 0;
  if (p.gradient) {
    if (const cudaError_t error = MaxKeptBytes(&shared); error != cudaSuccess) return error;
    p.num_kept = static_cast<int>(std::min<int64_t>(packs, shared / sizeof(uint4)));
    shared = p.num_kept * static_cast<int64_t>(sizeof(uint4));
    const cudaError_t error =
        cudaFuncSetAttribute(SoftmaxCrossEntropyKernel<kVectorWidth>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  SoftmaxCrossEntropyKernel<kVectorWidth>
      <<<static_cast<unsigned>(rows), Threads(packs), shared, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchSoftmaxCrossEntropy(BFloat16* logits, const int32_t* labels, float* loss,
                                      float grad_scale, bool gradient, int64_t rows, int64_t vocab,
                                      int64_t stride, cudaStream_t stream) {
  if (rows == 0 || vocab == 0) return cudaSuccess;
  const Rows p = {reinterpret_cast<__nv_bfloat16*>(logits),
                  stride,
                  labels,
                  loss,
                  grad_scale,
                  gradient,
                  static_cast<int>(vocab),
                  /*num_kept=*/0};
  if (IsAligned(logits, stride)) return LaunchVector(p, rows, stream);
  SoftmaxCrossEntropyKernel<1><<<static_cast<unsigned>(rows), Threads(vocab), 0, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace lorad::cuda
