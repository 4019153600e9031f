// Decoding k-bit weights:  out[row_offset + r, c] = bf16(code_book[code(i)] * absmax(i / block)),
// i = r * columns + c, with absmax(b) = scales[b], or, doubly quantised,
// nested_code[scales_u8[b]] * nested_scales[b / 256] + nested_offset, the product rounded first.
//
//   codes   4-bit: two to a byte, the high nibble first; 8-bit: a byte each    flat, row-major
//   scales  one per block of the flattened matrix
//   out     bf16 (or fp32, fp64) [.., ld], must not overlap the inputs
//
// Fast kernel (bf16 out, columns a multiple of 8): a thread decodes kWords words of 8 weights,
// 256 words apart, so that a warp reads 128 (or 256) contiguous bytes and writes 512: full lines
// both ways. All words are in flight before the first is decoded. The 4-bit book is looked up in
// shared memory, one bank per lane, so that no two lanes ever conflict. A block belongs to one
// weight; the weights of a batch follow one another in the grid. Blocks live shortly: a persistent
// grid was slower.
// Tiled kernel (WeightView::tiled): a warp takes 16 rows x 256 columns, 2 KB of codes in four loads
// of 16 bytes a lane. A lane has 16 columns of two rows; neighbours exchange half of them, so that
// every store fills sectors of 32 bytes.
// Element kernel (odd shapes, wider outputs): a thread an element, a row in gridDim.x. Weights that
// are bf16 already are copied row by row.
//
// Bound by memory: 0.5 + 1/64 + 4 / (64 * 256) bytes in (nf4, block 64, double) and 2 bytes out a
// weight. Formats: Dettmers et al., "QLoRA", 2023.
#include <cuda_bf16.h>

#include <bit>
#include <type_traits>

#include "engine/core/checked_math.h"
#include "engine/ops/cuda/dequantize.h"
#include "engine/ops/cuda/elementwise.h"
#include "engine/ops/cuda/weight_decode.cuh"

namespace lorad::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWordWeights = 8;  // 16 bytes of bf16: one store
constexpr int kWords = 4;        // 2 to 4 were equally fast, 8 slower: too many registers

// n / divisor for n < 2^31 by a multiplication. Granlund and Montgomery, "Division by invariant
// integers using multiplication", 1994.
struct Divisor {
  uint32_t divisor = 1, magic = 1, shift = 0;
  __device__ uint32_t Divide(uint32_t n) const { return (__umulhi(n, magic) + n) >> shift; }
};

Divisor MakeDivisor(uint32_t divisor) {
  uint32_t shift = 0;
  while ((uint64_t{1} << shift) < divisor) ++shift;
  const uint64_t magic = (((uint64_t{1} << shift) - divisor) << 32) / divisor + 1;
  return {divisor, static_cast<uint32_t>(magic), shift};
}

// Units are words of 8 weights; of a tiled weight, groups of 16 rows x 256 columns.
struct Source {
  PackedWeight weight;
  uint32_t first_block = 0;  // of the grid
  uint32_t units = 0;
  int32_t block_shift = 0;  // log2(words of a quantisation block)
  Divisor units_per_row;    // or per strip
};

struct Batch {
  Source sources[kMaxDequantizeWeights];
  int count = 0;
  __nv_bfloat16* out = nullptr;
  int64_t ld = 0;
};

__device__ __forceinline__ const Source& SourceOfBlock(const Batch& batch) {
  int index = 0;
  while (index + 1 < batch.count && blockIdx.x >= batch.sources[index + 1].first_block) ++index;
  return batch.sources[index];
}

template <int kBits>
__global__ void __launch_bounds__(kThreads) DequantizeKernel(const __grid_constant__ Batch batch) {
  using Word = std::conditional_t<kBits == 4, uint32_t, uint2>;
  // 4 bits: entry e of lane l at e * kBookLanes + l.
  __shared__ float book[kBits == 4 ? 16 * kBookLanes : 256];
  __shared__ float nested_code[256];
  const Source& source = SourceOfBlock(batch);
  const PackedWeight& weight = source.weight;
  const bool nested = weight.scales_u8 != nullptr;
  const Word* words_in = static_cast<const Word*>(weight.codes);
  const uint32_t first = (blockIdx.x - source.first_block) * (kThreads * kWords) + threadIdx.x;

  Word words[kWords];
  float scales[kWords];
  uint32_t scale_codes[kWords];
#pragma unroll
  for (int u = 0; u < kWords; ++u) {
    const uint32_t i = first + u * kThreads;
    words[u] = Word{};
    scales[u] = 0;
    scale_codes[u] = 0;
    if (i >= source.units) continue;
    const uint32_t block = i >> source.block_shift;
    words[u] = __ldg(words_in + i);
    if (nested) {
      scale_codes[u] = __ldg(weight.scales_u8 + block);
      scales[u] = __ldg(weight.nested_scales + (block >> kNestedShift));
    } else {
      scales[u] = __ldg(weight.scales + block);
    }
  }

  if constexpr (kBits == 4) {
    for (int i = threadIdx.x; i < 16 * kBookLanes; i += kThreads) {
      book[i] = __ldg(weight.code_book + i / kBookLanes);
    }
  } else {
    book[threadIdx.x] = __ldg(weight.code_book + threadIdx.x);
  }
  if (nested) nested_code[threadIdx.x] = __ldg(weight.nested_code + threadIdx.x);
  __syncthreads();

  const float* lane_book = kBits == 4 ? book + threadIdx.x % kBookLanes : book;
#pragma unroll
  for (int u = 0; u < kWords; ++u) {
    const uint32_t i = first + u * kThreads;
    if (i >= source.units) break;
    const float scale =
        nested ? NestedScale(nested_code[scale_codes[u]], scales[u], weight.nested_offset)
               : scales[u];
    const uint32_t row = source.units_per_row.Divide(i);
    const uint32_t column = (i - row * source.units_per_row.divisor) * kWordWeights;
    __nv_bfloat16* to = batch.out + (weight.row_offset + row) * batch.ld + column;
    *reinterpret_cast<uint4*>(to) = DecodeEight(words[u], lane_book, scale);
  }
}
static_assert(kThreads == 256, "a thread fills one entry of the tables of 256");

// Of two lanes the even one keeps its first eight columns and takes its neighbour's first eight,
// the odd one likewise with the second: then both store 16 bytes of one sector twice.
__device__ __forceinline__ void Exchange(uint4& first, uint4& second) {
  const bool odd = threadIdx.x % 2 != 0;
  uint32_t* const a[4] = {&first.x, &first.y, &first.z, &first.w};
  uint32_t* const b[4] = {&second.x, &second.y, &second.z, &second.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t got = __shfl_xor_sync(0xffffffffu, odd ? *a[i] : *b[i], 1);
    (odd ? *a[i] : *b[i]) = got;
  }
}

constexpr int kTileBlocks = 4;  // of a group
constexpr int kTileGroup = kTileBlocks * kTileColumns;
constexpr int kWarps = kThreads / 32;

__global__ void __launch_bounds__(kThreads)
    TiledDequantizeKernel(const __grid_constant__ Batch batch) {
  __shared__ float book[16 * kBookLanes];
  __shared__ float nested_code[256];
  const Source& source = SourceOfBlock(batch);
  const PackedWeight& weight = source.weight;
  const uint32_t unit = (blockIdx.x - source.first_block) * kWarps + threadIdx.x / 32;
  const bool inside = unit < source.units;  // the same for all lanes of a warp
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t groups = source.units_per_row.divisor;
  const uint32_t strip = source.units_per_row.Divide(unit), group = unit - strip * groups;

  uint4 codes[kTileBlocks];
  uint2 scale_codes;
  float nested_scales[2];
  if (inside) {
    const uint4* from = static_cast<const uint4*>(weight.codes) + int64_t{unit} * kTileBlocks * 32;
#pragma unroll
    for (int b = 0; b < kTileBlocks; ++b) codes[b] = __ldg(from + b * 32 + lane);
    scale_codes = __ldg(reinterpret_cast<const uint2*>(weight.scales_u8) + int64_t{unit} * 8 + g);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int64_t row = int64_t{strip} * kStripRows + g + 8 * r;
      nested_scales[r] =
          __ldg(weight.nested_scales + ((row * groups + group) * kTileBlocks >> kNestedShift));
    }
  }
  for (int i = threadIdx.x; i < 16 * kBookLanes; i += kThreads)
    book[i] = __ldg(weight.code_book + i / kBookLanes);
  nested_code[threadIdx.x] = __ldg(weight.nested_code + threadIdx.x);
  __syncthreads();
  if (!inside) return;

  const float* lane_book = book + lane;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int64_t row = int64_t{strip} * kStripRows + g + 8 * r;
    __nv_bfloat16* to = batch.out + (weight.row_offset + row) * batch.ld + group * kTileGroup +
                        t / 2 * 32 + t % 2 * 8;
    const uint32_t row_scales = r == 0 ? scale_codes.x : scale_codes.y;
#pragma unroll
    for (int b = 0; b < kTileBlocks; ++b) {
      const float scale = NestedScale(nested_code[row_scales >> 8 * b & 255], nested_scales[r],
                                      weight.nested_offset);
      uint4 first = DecodeEight(r == 0 ? codes[b].x : codes[b].z, lane_book, scale);
      uint4 second = DecodeEight(r == 0 ? codes[b].y : codes[b].w, lane_book, scale);
      Exchange(first, second);
      // Even lanes now have columns [0, 8) and [16, 24) of the pair's 32, odd ones the others.
      uint4* at = reinterpret_cast<uint4*>(to + b * kTileColumns);
      at[0] = first;
      at[2] = second;
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    ElementsKernel(const __grid_constant__ PackedWeight weight, T* out, int64_t ld) {
  const int64_t row = blockIdx.x;
  const int64_t column = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (column >= weight.columns) return;
  const uint32_t bits = ElementBits(weight, row * weight.columns + column);
  T* to = out + (weight.row_offset + row) * ld + column;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    *to = __ushort_as_bfloat16(static_cast<uint16_t>(bits));
  } else {
    *to = static_cast<T>(__uint_as_float(bits << 16));
  }
}

template <typename T>
cudaError_t LaunchElements(const PackedWeight& weight, T* out, int64_t ld, cudaStream_t stream) {
  if (weight.rows == 0 || weight.columns == 0) return cudaSuccess;
  const int64_t column_blocks = CeilDiv(weight.columns, kThreads);
  // Limits of a grid, far above any layer.
  if (weight.rows > INT32_MAX || column_blocks > UINT16_MAX) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(weight.rows), static_cast<unsigned>(column_blocks));
  ElementsKernel<T><<<grid, kThreads, 0, stream>>>(weight, out, ld);
  return cudaGetLastError();
}

bool Aligned(const void* pointer, uintptr_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

bool IsFast(const PackedWeight& weight, const BFloat16* out, int64_t ld) {
  if (weight.bits != 4 && weight.bits != 8) return false;
  // A word is as many bytes as a code has bits. Words are counted in 31 bits.
  if (weight.tiled && !Aligned(weight.scales_u8, 8)) return false;
  return weight.columns % kWordWeights == 0 && ld % kWordWeights == 0 && Aligned(out, 16) &&
         Aligned(weight.codes, weight.tiled ? 16 : weight.bits) &&
         weight.rows * weight.columns / kWordWeights <= INT32_MAX - kThreads * kWords;
}

cudaError_t LaunchFast(const PackedWeight* weights, int count, BFloat16* out, int64_t ld,
                       cudaStream_t stream) {
  Batch batch;
  batch.out = reinterpret_cast<__nv_bfloat16*>(out);
  batch.ld = ld;
  int64_t blocks = 0;
  for (int i = 0; i < count; ++i) {
    const PackedWeight& weight = weights[i];
    const bool tiled = weight.tiled;
    const int64_t units =
        weight.rows * weight.columns / (tiled ? kStripRows * kTileGroup : kWordWeights);
    if (units == 0) continue;
    Source& source = batch.sources[batch.count++];
    source.weight = weight;
    source.first_block = static_cast<uint32_t>(blocks);
    source.units = static_cast<uint32_t>(units);
    source.block_shift = std::countr_zero(static_cast<uint32_t>(weight.block / kWordWeights));
    source.units_per_row =
        MakeDivisor(static_cast<uint32_t>(weight.columns / (tiled ? kTileGroup : kWordWeights)));
    blocks += CeilDiv(units, tiled ? kWarps : kThreads * kWords);
  }
  if (blocks == 0) return cudaSuccess;
  const auto kernel = weights[0].tiled       ? TiledDequantizeKernel
                      : weights[0].bits == 4 ? DequantizeKernel<4>
                                             : DequantizeKernel<8>;
  kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(batch);
  return cudaGetLastError();
}

cudaError_t LaunchOne(const PackedWeight& weight, BFloat16* out, int64_t ld, cudaStream_t stream) {
  if (weight.bits == 16) {
    return LaunchCopyRows(static_cast<const BFloat16*>(weight.codes), weight.columns,
                          out + weight.row_offset * ld, ld, weight.rows, weight.columns, stream);
  }
  if (IsFast(weight, out, ld)) return LaunchFast(&weight, 1, out, ld, stream);
  return LaunchElements(weight, reinterpret_cast<__nv_bfloat16*>(out), ld, stream);
}

}  // namespace

cudaError_t LaunchDequantize(const PackedWeight* weights, int count, BFloat16* out, int64_t ld,
                             cudaStream_t stream) {
  if (count <= 0) return cudaSuccess;
  if (count > kMaxDequantizeWeights) return cudaErrorInvalidValue;
  bool together = true;
  for (int i = 0; i < count; ++i) {
    together &= IsFast(weights[i], out, ld) && weights[i].bits == weights[0].bits &&
                weights[i].tiled == weights[0].tiled;
  }
  if (together) return LaunchFast(weights, count, out, ld, stream);
  for (int i = 0; i < count; ++i) {
    const cudaError_t error = LaunchOne(weights[i], out, ld, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t LaunchDequantize(const PackedWeight& weight, float* out, int64_t ld,
                             cudaStream_t stream) {
  return LaunchElements(weight, out, ld, stream);
}
cudaError_t LaunchDequantize(const PackedWeight& weight, double* out, int64_t ld,
                             cudaStream_t stream) {
  return LaunchElements(weight, out, ld, stream);
}

}  // namespace lorad::cuda
