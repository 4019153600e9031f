// AdamW with moments in fp32 or in 8 bits, and the sum of squares that the gradient norm needs.
//
//   m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2,  g = grad * grad_scale
//   p = p * decay - step_size * m / (sqrt(v) / root + eps)
//
// param, grad: fp32. m, v: fp32; or uint8 codes with an fp32 scale for each 256 elements, in device
// memory or in pinned host memory. No buffer overlaps another. Every operation is rounded by itself
// (the _rn intrinsics are never fused), so the bits are those of the CPU's definition.
//
// The tensors of a launch are cut into chunks that are numbered through. fp32: a block of 256
// threads takes a chunk of 1024 elements, a thread four neighbours. 8 bits: a warp takes a chunk of
// 256 elements, which is one block of codes, so its scale is a reduction over the warp; a lane
// takes twice four neighbours. A code is found by a search of eight steps through the midpoints,
// laid out as a tree level by level: lanes of a warp meet in few banks. Squares: blocks stride
// over chunks of 4096, a thread takes four times four neighbours, partial sums of blocks go to
// memory, one block adds them up.
//
// Bound by memory, per element: 28 bytes (fp32), 16 (8 bits), 4 (squares). Paged moments move 8 of
// the 28, or 2 of the 16, over the bus in each direction, and are bound by that.
//
// Loshchilov & Hutter, "Decoupled Weight Decay Regularization", 2019; Dettmers et al., "8-bit
// Optimizers via Block-wise Quantization", 2022, and "QLoRA", 2023 (paged optimisers).
#include <cuda_runtime.h>

#include <algorithm>

#include "engine/ops/cuda/optimizer.h"

namespace lorad::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kWidth = 4;  // floats in a 16-byte access
constexpr int64_t kChunk = kThreads * kWidth;
constexpr int kSquaresGroups = 4;  // accesses of a thread in a chunk of squares
constexpr int64_t kSquaresChunk = kSquaresGroups * kChunk;
constexpr int64_t kCodeBlock = 256;                  // elements that share a scale
constexpr int kGroups = kCodeBlock / (32 * kWidth);  // accesses of a lane in a block of codes
constexpr int kCodes = 256;
// Enough to fill any GPU; each block of threads reads the code tables once.
constexpr int64_t kMaxCodeGrid = 4096;

// The tensors of one launch. Chunk c belongs to tensor t with first_chunk[t] <= c <
// first_chunk[t + 1].
template <typename Tensor>
struct Table {
  Tensor tensors[kTensorsPerLaunch];
  int64_t first_chunk[kTensorsPerLaunch + 1];
  int64_t chunks;
};

template <typename Tensor>
Table<Tensor> MakeTable(const Tensor* tensors, int count, int64_t chunk_elements) {
  Table<Tensor> table{};
  for (int t = 0; t < count; ++t) {
    table.tensors[t] = tensors[t];
    table.first_chunk[t] = table.chunks;
    table.chunks += (tensors[t].num_elements + chunk_elements - 1) / chunk_elements;
  }
  for (int t = count; t <= kTensorsPerLaunch; ++t) table.first_chunk[t] = table.chunks;
  return table;
}

// REQUIRES: chunk < table.chunks.
template <typename Tensor>
__device__ __forceinline__ int TensorOf(const Table<Tensor>& table, int64_t chunk) {
  // The last tensor that begins at or before the chunk: one without elements never is.
  int t = 0;
#pragma unroll
  for (int step = 32; step > 0; step /= 2) {
    if (t + step < kTensorsPerLaunch && table.first_chunk[t + step] <= chunk) t += step;
  }
  return t;
}

__device__ __forceinline__ bool IsAligned(const void* data, int bytes) {
  return reinterpret_cast<uintptr_t>(data) % bytes == 0;
}

// Four neighbours, of which `valid` (any number) are there; the others read as 0 and are not
// written. `wide`: aligned for one access.
__device__ __forceinline__ void LoadFour(const float* from, int64_t valid, bool wide,
                                         float (&values)[kWidth]) {
  if (wide && valid >= kWidth) {
    const float4 four = *reinterpret_cast<const float4*>(from);
    values[0] = four.x, values[1] = four.y, values[2] = four.z, values[3] = four.w;
    return;
  }
#pragma unroll
  for (int j = 0; j < kWidth; ++j) values[j] = j < valid ? from[j] : 0.0f;
}
__device__ __forceinline__ void StoreFour(const float (&values)[kWidth], int64_t valid, bool wide,
                                          float* to) {
  if (wide && valid >= kWidth) {
    *reinterpret_cast<float4*>(to) = make_float4(values[0], values[1], values[2], values[3]);
    return;
  }
#pragma unroll
  for (int j = 0; j < kWidth; ++j)
    if (j < valid) to[j] = values[j];
}

// The same for codes: byte j of the word is code j.
__device__ __forceinline__ uint32_t LoadFourCodes(const uint8_t* from, int64_t valid, bool wide) {
  if (wide && valid >= kWidth) return *reinterpret_cast<const uint32_t*>(from);
  uint32_t word = 0;
#pragma unroll
  for (int j = 0; j < kWidth; ++j)
    if (j < valid) word |= static_cast<uint32_t>(from[j]) << (8 * j);
  return word;
}
__device__ __forceinline__ void StoreFourCodes(uint32_t word, int64_t valid, bool wide,
                                               uint8_t* to) {
  if (wide && valid >= kWidth) {
    *reinterpret_cast<uint32_t*>(to) = word;
    return;
  }
#pragma unroll
  for (int j = 0; j < kWidth; ++j)
    if (j < valid) to[j] = static_cast<uint8_t>(word >> (8 * j));
}

// Updates m and v and returns the new parameter.
__device__ __forceinline__ float UpdateElement(const AdamWScalars<float>& s, float param,
                                               float grad, float& m, float& v) {
  const float g = __fmul_rn(grad, s.grad_scale);
  m = __fadd_rn(__fmul_rn(s.beta1, m), __fmul_rn(s.one_minus_beta1, g));
  v = __fadd_rn(__fmul_rn(s.beta2, v), __fmul_rn(__fmul_rn(s.one_minus_beta2, g), g));
  const float divisor = __fadd_rn(__fdiv_rn(__fsqrt_rn(v), s.root), s.eps);
  return __fsub_rn(__fmul_rn(param, s.decay), __fdiv_rn(__fmul_rn(s.step_size, m), divisor));
}

__global__ void __launch_bounds__(kThreads)
    AdamWKernel(const __grid_constant__ Table<AdamWBuffers> table,
                const AdamWScalars<float> scalars) {
  const int64_t chunk = blockIdx.x;
  const int t = TensorOf(table, chunk);
  const AdamWBuffers tensor = table.tensors[t];
  const int64_t at = (chunk - table.first_chunk[t]) * kChunk + threadIdx.x * kWidth;
  const int64_t valid = tensor.num_elements - at;
  if (valid <= 0) return;
  float* m_at = static_cast<float*>(tensor.m) + at;
  float* v_at = static_cast<float*>(tensor.v) + at;
  const bool wide = IsAligned(tensor.param, 16) && IsAligned(tensor.grad, 16) &&
                    IsAligned(tensor.m, 16) && IsAligned(tensor.v, 16);
  float param[kWidth], grad[kWidth], m[kWidth], v[kWidth];
  LoadFour(m_at, valid, wide, m);
  LoadFour(v_at, valid, wide, v);
  LoadFour(tensor.grad + at, valid, wide, grad);
  LoadFour(tensor.param + at, valid, wide, param);
#pragma unroll
  for (int j = 0; j < kWidth; ++j) param[j] = UpdateElement(scalars, param[j], grad[j], m[j], v[j]);
  StoreFour(m, valid, wide, m_at);
  StoreFour(v, valid, wide, v_at);
  StoreFour(param, valid, wide, tensor.param + at);
}

// The values of the codes, and the midpoints between them as a tree: node i has children 2 i (below
// or at the midpoint) and 2 i + 1 (above); node 0 is not used.
struct SharedCode {
  float values[kCodes];
  float tree[kCodes];
};

// REQUIRES: kCodes threads, which then wait for each other.
__device__ __forceinline__ void FillCode(const float* code, SharedCode& shared) {
  static_assert(kThreads == kCodes);
  const int node = threadIdx.x;
  shared.values[node] = code[node];
  if (node == 0) return;
  const int level = 31 - __clz(node);
  const int below = (2 * (node - (1 << level)) + 1) * (kCodes / 2 >> level) - 1;
  shared.tree[node] = __fmul_rn(__fadd_rn(code[below], code[below + 1]), 0.5f);
}

// The number of midpoints below `value`.
__device__ __forceinline__ uint32_t Nearest(const SharedCode& code, float value) {
  int node = 1;
#pragma unroll
  for (int level = 0; level < 8; ++level) node = 2 * node + (value > code.tree[node] ? 1 : 0);
  return node - kCodes;
}

__device__ __forceinline__ void DecodeFour(const SharedCode& code, uint32_t word, float scale,
                                           int64_t valid, float (&moments)[kWidth]) {
#pragma unroll
  for (int j = 0; j < kWidth; ++j)
    moments[j] = j < valid ? __fmul_rn(code.values[(word >> (8 * j)) & 0xff], scale) : 0.0f;
}
__device__ __forceinline__ uint32_t EncodeFour(const SharedCode& code,
                                               const float (&moments)[kWidth], float scale) {
  uint32_t word = 0;
#pragma unroll
  for (int j = 0; j < kWidth; ++j)
    word |= Nearest(code, scale > 0 ? __fdiv_rn(moments[j], scale) : 0.0f) << (8 * j);
  return word;
}

// The largest magnitude that a lane of the warp holds.
__device__ __forceinline__ float WarpAbsMax(const float (&values)[kGroups][kWidth]) {
  float largest = 0;
#pragma unroll
  for (int g = 0; g < kGroups; ++g)
#pragma unroll
    for (int j = 0; j < kWidth; ++j) largest = fmaxf(largest, fabsf(values[g][j]));
#pragma unroll
  for (int step = 16; step > 0; step /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, step));
  return largest;
}

// One block of codes of one tensor, by one warp.
__device__ __forceinline__ void UpdateCodeBlock(const AdamWBuffers& tensor, int64_t block,
                                                const AdamWScalars<float>& scalars,
                                                const SharedCode& m_code,
                                                const SharedCode& v_code) {
  uint8_t* m_codes = static_cast<uint8_t*>(tensor.m);
  uint8_t* v_codes = static_cast<uint8_t*>(tensor.v);
  const bool wide = IsAligned(tensor.param, 16) && IsAligned(tensor.grad, 16) &&
                    IsAligned(m_codes, 4) && IsAligned(v_codes, 4);
  const float old_m_scale = tensor.m_scales[block], old_v_scale = tensor.v_scales[block];
  const int64_t begin = block * kCodeBlock + threadIdx.x % 32 * kWidth;
  // All loads come before the first store: the compiler cannot know that nothing overlaps.
  uint32_t m_words[kGroups], v_words[kGroups];
  float param[kGroups][kWidth], grad[kGroups][kWidth];
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const int64_t at = begin + g * 32 * kWidth, valid = tensor.num_elements - at;
    m_words[g] = LoadFourCodes(m_codes + at, valid, wide);
    v_words[g] = LoadFourCodes(v_codes + at, valid, wide);
    LoadFour(tensor.grad + at, valid, wide, grad[g]);
    LoadFour(tensor.param + at, valid, wide, param[g]);
  }
  float m[kGroups][kWidth], v[kGroups][kWidth];
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const int64_t at = begin + g * 32 * kWidth, valid = tensor.num_elements - at;
    DecodeFour(m_code, m_words[g], old_m_scale, valid, m[g]);
    DecodeFour(v_code, v_words[g], old_v_scale, valid, v[g]);
#pragma unroll
    for (int j = 0; j < kWidth; ++j)
      param[g][j] = UpdateElement(scalars, param[g][j], grad[g][j], m[g][j], v[g][j]);
    StoreFour(param[g], valid, wide, tensor.param + at);
  }
  const float m_scale = WarpAbsMax(m), v_scale = WarpAbsMax(v);
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const int64_t at = begin + g * 32 * kWidth, valid = tensor.num_elements - at;
    StoreFourCodes(EncodeFour(m_code, m[g], m_scale), valid, wide, m_codes + at);
    StoreFourCodes(EncodeFour(v_code, v[g], v_scale), valid, wide, v_codes + at);
  }
  if (threadIdx.x % 32 == 0) {
    tensor.m_scales[block] = m_scale;
    tensor.v_scales[block] = v_scale;
  }
}

// Told of three blocks on an SM, the compiler gets by with registers for four; told nothing, it
// spills.
__global__ void __launch_bounds__(kThreads, 3)
    AdamW8BitKernel(const __grid_constant__ Table<AdamWBuffers> table,
                    const AdamWScalars<float> scalars, const float* m_code, const float* v_code) {
  __shared__ SharedCode m_shared, v_shared;
  FillCode(m_code, m_shared);
  FillCode(v_code, v_shared);
  __syncthreads();
  // Whole warps go on together: their shuffles need all lanes.
  for (int64_t chunk = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32; chunk < table.chunks;
       chunk += int64_t{gridDim.x} * kWarps) {
    const int t = TensorOf(table, chunk);
    const AdamWBuffers tensor = table.tensors[t];
    UpdateCodeBlock(tensor, chunk - table.first_chunk[t], scalars, m_shared, v_shared);
  }
}

// The block's sum in thread 0, in an order that depends on nothing.
__device__ __forceinline__ double BlockSum(double value) {
  __shared__ double partial[kWarps];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  value = 0;
  for (int w = 0; w < kWarps; ++w) value += partial[w];
  return value;
}

// partials[blockIdx.x] = the sum over chunks blockIdx.x, blockIdx.x + gridDim.x, ..
__global__ void __launch_bounds__(kThreads)
    PartialSquaresKernel(const __grid_constant__ Table<SumSquaresInput> table, double* partials) {
  double sums[kWidth] = {};
  for (int64_t chunk = blockIdx.x; chunk < table.chunks; chunk += gridDim.x) {
    const int t = TensorOf(table, chunk);
    const SumSquaresInput tensor = table.tensors[t];
    const bool wide = IsAligned(tensor.values, 16);
    const int64_t begin = (chunk - table.first_chunk[t]) * kSquaresChunk + threadIdx.x * kWidth;
    float values[kSquaresGroups][kWidth];
#pragma unroll
    for (int g = 0; g < kSquaresGroups; ++g) {
      const int64_t at = begin + g * kChunk;
      LoadFour(tensor.values + at, tensor.num_elements - at, wide, values[g]);
    }
#pragma unroll
    for (int g = 0; g < kSquaresGroups; ++g) {
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        const double value = values[g][j];  // its square is exact
        sums[j] = fma(value, value, sums[j]);
      }
    }
  }
  const double sum = BlockSum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

// out[0] (+)= the sum of partials.
__global__ void __launch_bounds__(kThreads)
    AddPartialsKernel(const double* partials, int count, bool accumulate, double* out) {
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += kThreads) sum += partials[i];
  sum = BlockSum(sum);
  if (threadIdx.x == 0) out[0] = accumulate ? out[0] + sum : sum;
}

// Calls launch(first tensor, number of tensors) for each launch's tensors.
template <typename Launch>
cudaError_t ForEachLaunch(int64_t count, const Launch& launch) {
  for (int64_t begin = 0; begin < count; begin += kTensorsPerLaunch) {
    launch(begin, static_cast<int>(std::min<int64_t>(kTensorsPerLaunch, count - begin)));
    if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t LaunchAdamW(const AdamWBuffers* tensors, int64_t count,
                        const AdamWScalars<float>& scalars, cudaStream_t stream) {
  return ForEachLaunch(count, [&](int64_t begin, int some) {
    const Table<AdamWBuffers> table = MakeTable(tensors + begin, some, kChunk);
    if (table.chunks == 0) return;
    AdamWKernel<<<static_cast<unsigned>(table.chunks), kThreads, 0, stream>>>(table, scalars);
  });
}

cudaError_t LaunchAdamW8Bit(const AdamWBuffers* tensors, int64_t count,
                            const AdamWScalars<float>& scalars, const float* m_code,
                            const float* v_code, cudaStream_t stream) {
  return ForEachLaunch(count, [&](int64_t begin, int some) {
    const Table<AdamWBuffers> table = MakeTable(tensors + begin, some, kCodeBlock);
    if (table.chunks == 0) return;
    const int64_t blocks = std::min((table.chunks + kWarps - 1) / kWarps, kMaxCodeGrid);
    AdamW8BitKernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(table, scalars, m_code,
                                                                            v_code);
  });
}

cudaError_t LaunchSumSquares(const SumSquaresInput* tensors, int64_t count, double* partials,
                             double* out, cudaStream_t stream) {
  // Without tensors out[0] is 0: a launch of its own.
  return ForEachLaunch(std::max<int64_t>(count, 1), [&](int64_t begin, int some) {
    const int here = count == 0 ? 0 : some;
    const Table<SumSquaresInput> table = MakeTable(tensors + begin, here, kSquaresChunk);
    const int blocks = static_cast<int>(std::min<int64_t>(table.chunks, kSumSquaresPartials));
    if (blocks > 0) PartialSquaresKernel<<<blocks, kThreads, 0, stream>>>(table, partials);
    AddPartialsKernel<<<1, kThreads, 0, stream>>>(partials, blocks, begin > 0, out);
  });
}

}  // namespace lorad::cuda
