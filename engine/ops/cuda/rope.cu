// Rotary position embedding, in place, in the Hugging Face layout.
//
//   (x[i], x[i + D/2]) <- (x[i] cos a - x[i + D/2] sin a, x[i + D/2] cos a + x[i] sin a),
//   a = positions[t] * inv_freq[i] in fp32,  i in [0, D/2);  -a for the inverse
//
// x: bf16 [tokens, heads, D] with a stride from token to token: q, k, or both where k's heads
// follow q's. positions int32 [tokens], inv_freq fp32 [D/2].
//
// A block takes a token. Its threads first compute the token's D/2 cosines and sines once, in
// shared memory; a thread (x, y) then keeps those of its pack of frequencies x in registers and
// rotates the heads y, y + blockDim.y, ... The first heads are loaded before the angles are
// computed, which hides sincosf: the accurate one, since positions reach 131072 and the fast one
// reduces its argument badly.
//
// Bound by memory: 4 * tokens * heads * D bytes.
//
// Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021.
#include "engine/ops/cuda/chained_launch.cuh"
#include "engine/ops/cuda/elementwise.h"
#include "engine/ops/cuda/rope.cuh"
#include "engine/ops/cuda/vector_access.cuh"

namespace lorad::cuda {
namespace {

constexpr int kMaxThreads = 256;
constexpr int kMaxHeadDim =
    2 * kMaxThreads;               // a thread for each frequency where rows are unaligned
constexpr int kHeadsPerBatch = 2;  // per thread: 64 bytes of loads in flight

struct Rotation {
  __nv_bfloat16* x;
  int64_t stride;
  int heads;
  const int32_t* positions;
  const float* inv_freq;
  int half;  // of the head dimension
  bool inverse;
};

// The head's first element of this token.
__device__ __forceinline__ __nv_bfloat16* HeadAt(const Rotation& p, int64_t token, int head) {
  return p.x + token * p.stride + static_cast<int64_t>(head) * (2 * p.half);
}

// A thread's part of kHeadsPerBatch heads, blockDim.y apart.
template <int kWidth>
struct Batch {
  Pack<kWidth> first[kHeadsPerBatch], second[kHeadsPerBatch];

  __device__ __forceinline__ void LoadHeads(const Rotation& p, int64_t token, int head,
                                            int column) {
#pragma unroll
    for (int b = 0; b < kHeadsPerBatch; ++b, head += blockDim.y) {
      if (head >= p.heads) continue;
      const __nv_bfloat16* x = HeadAt(p, token, head) + column;
      first[b] = Load<kWidth>(x);
      second[b] = Load<kWidth>(x + p.half);
    }
  }

  __device__ __forceinline__ void StoreRotated(const Rotation& p, int64_t token, int head,
                                               int column, const float (&cosine)[kWidth],
                                               const float (&sine)[kWidth]) const {
#pragma unroll
    for (int b = 0; b < kHeadsPerBatch; ++b, head += blockDim.y) {
      if (head >= p.heads) continue;
      float low[kWidth], high[kWidth];
      Unpack(first[b], low);
      Unpack(second[b], high);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) Rotate(cosine[i], sine[i], low[i], high[i]);
      __nv_bfloat16* x = HeadAt(p, token, head) + column;
      StoreRounded(low, x);
      StoreRounded(high, x + p.half);
    }
  }
};

// REQUIRES: blockDim.x * kWidth == half.
template <int kWidth>
__global__ void __launch_bounds__(kMaxThreads) RopeKernel(const Rotation p) {
  extern __shared__ float angles[];  // cosines [half], sines [half]
  LetNextKernelBegin();
  WaitForEarlierKernels();
  const int64_t token = blockIdx.x;
  const int column = threadIdx.x * kWidth;
  int head = threadIdx.y;
  Batch<kWidth> batch;
  batch.LoadHeads(p, token, head, column);

  const float position = static_cast<float>(p.positions[token]);
  for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < p.half; i += blockDim.x * blockDim.y) {
    const Angle angle = AngleAt(position, p.inv_freq[i]);
    angles[i] = angle.cosine;
    angles[p.half + i] = p.inverse ? -angle.sine : angle.sine;
  }
  __syncthreads();
  float cosine[kWidth], sine[kWidth];
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    cosine[i] = angles[column + i];
    sine[i] = angles[p.half + column + i];
  }
  while (true) {
    batch.StoreRotated(p, token, head, column, cosine, sine);
    head += kHeadsPerBatch * blockDim.y;
    if (head >= p.heads) return;
    batch.LoadHeads(p, token, head, column);
  }
}

template <int kWidth>
cudaError_t Launch(const Rotation& p, int64_t tokens, cudaStream_t stream) {
  const int threads_x = p.half / kWidth;
  // As few rounds over the heads as the block allows, each about equally full.
  const int64_t most = kMaxThreads / threads_x;
  const int64_t rounds = CeilDiv(p.heads, most * kHeadsPerBatch);
  const int64_t threads_y = CeilDiv(p.heads, rounds * kHeadsPerBatch);
  const dim3 block(threads_x, static_cast<unsigned>(threads_y));
  const size_t shared = 2 * sizeof(float) * p.half;
  return LaunchChained(RopeKernel<kWidth>, dim3(static_cast<unsigned>(tokens)), block, shared, p,
                       stream);
}

}  // namespace

cudaError_t LaunchRope(BFloat16* x, int64_t x_stride, const int32_t* positions,
                       const float* inv_freq, int64_t tokens, int64_t heads, int64_t head_dim,
                       bool inverse, cudaStream_t stream) {
  if (head_dim % 2 != 0 || head_dim > kMaxHeadDim) return cudaErrorInvalidValue;
  if (tokens == 0 || heads == 0 || head_dim == 0) return cudaSuccess;
  const Rotation p = {
      reinterpret_cast<__nv_bfloat16*>(x), x_stride, static_cast<int>(heads), positions, inv_freq,
      static_cast<int>(head_dim / 2),      inverse};
  const bool aligned = IsAligned(x, x_stride) && p.half % kVectorWidth == 0;
  return aligned ? Launch<kVectorWidth>(p, tokens, stream) : Launch<1>(p, tokens, stream);
}

}  // namespace lorad::cuda
