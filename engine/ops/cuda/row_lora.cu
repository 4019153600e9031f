// LoRA of segments of rows:  xa[t, k] = sum over c of x[t, c] A[k, c],
//                            y[t, n] += scaling * sum over k of xa[t, k] B[n, k].
//
//   x [rows, in], xa [rows, rank], y [rows, out] bf16    A [rank, in], B [out, rank] bf16 or fp32
//
// Shrink: a block of 512 threads takes a row of A, or 4 where that leaves enough blocks, and up to
// 8 rows of x; thread i takes columns [4 i, 4 i + 4) of each 2048, one after the other; then a tree
// over the block. Expand: a thread
// takes one row of B and up to 8 rows of y, the ranks one after the other; xa in shared memory.
// Each order depends on `in` or on the rank alone, so neither the rows beside a row nor its place
// among the 8 show in its bits. Segments follow one another in the grid. xa is rounded to bf16
// between the two, as the backward pass reads it.
//
// Bound by latency for few adapters, 2 rank (in + out) bytes of each and layer in bf16, an eighth
// of a megabyte or two; by memory for many. Hu et al., "LoRA", 2021; adapters of different rows in
// one launch: Chen et al., "Punica", 2023.
#include <cuda_bf16.h>

#include <algorithm>

#include "engine/core/checked_math.h"
#include "engine/ops/cuda/chained_launch.cuh"
#include "engine/ops/cuda/row_lora.h"

namespace lorad::cuda {
namespace {

constexpr int kTileRows = 8;
constexpr int kShrinkThreads = 512;
constexpr int kShrinkWarps = kShrinkThreads / 32;
constexpr int kManyRanks = 4;       // of a shrinking block, where there are blocks enough
constexpr int kEnoughBlocks = 256;  // to fill the device
constexpr int kVector = 4;          // values of a load
constexpr int kExpandThreads = 128;
constexpr int kRankPart = 64;  // ranks in shared memory at a time

struct Entry {
  RowLoraSegment segment;
  uint32_t first_block = 0;  // of the grid
  bool aligned = false;
};

// Most launches have few segments, and what a launch is given is copied each time.
constexpr int kFewSegments = 24;
template <int kCapacity>
struct Args {
  Entry entries[kCapacity];
  int count = 0;
};
static_assert(sizeof(Args<kFewSegments>) <= 4096);
static_assert(sizeof(Args<kRowLoraSegmentsPerLaunch>) <= 32764, "kernel arguments end there");

__device__ __forceinline__ const __nv_bfloat16* Native(const BFloat16* pointer) {
  return reinterpret_cast<const __nv_bfloat16*>(pointer);
}
__device__ __forceinline__ __nv_bfloat16* Native(BFloat16* pointer) {
  return reinterpret_cast<__nv_bfloat16*>(pointer);
}

template <int kCapacity>
__device__ __forceinline__ const Entry& EntryOfBlock(const Args<kCapacity>& args) {
  int low = 0, high = args.count;  // the entry is in [low, high)
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (blockIdx.x >= args.entries[middle].first_block ? low : high) = middle;
  }
  return args.entries[low];
}

// The first `width` of 4 neighbouring values, zeros after them.
template <bool kAligned>
__device__ __forceinline__ void LoadFour(const float* from, int64_t width, float (&values)[4]) {
  if constexpr (kAligned) {
    const float4 four = __ldg(reinterpret_cast<const float4*>(from));
    values[0] = four.x, values[1] = four.y, values[2] = four.z, values[3] = four.w;
  } else {
#pragma unroll
    for (int j = 0; j < kVector; ++j) values[j] = j < width ? __ldg(from + j) : 0.0f;
  }
}
template <bool kAligned>
__device__ __forceinline__ void LoadFour(const __nv_bfloat16* from, int64_t width,
                                         float (&values)[4]) {
  if constexpr (kAligned) {
    const uint2 words = *reinterpret_cast<const uint2*>(from);
    values[0] = __uint_as_float(words.x << 16), values[1] = __uint_as_float(words.x & 0xffff0000u);
    values[2] = __uint_as_float(words.y << 16), values[3] = __uint_as_float(words.y & 0xffff0000u);
  } else {
#pragma unroll
    for (int j = 0; j < kVector; ++j) values[j] = j < width ? __bfloat162float(from[j]) : 0.0f;
  }
}

// A thread's part of the products of `ranks` rows of A with `count` rows of x.
template <bool kAligned, typename Element, int kRanks>
__device__ __forceinline__ void ShrinkPart(const RowLoraSegment& segment, int64_t rank, int ranks,
                                           int64_t row, int count,
                                           float (&sums)[kTileRows][kRanks]) {
  const Element* a = static_cast<const Element*>(segment.a) + rank * segment.a_stride;
  const __nv_bfloat16* x = Native(segment.x) + row * segment.x_stride;
  for (int64_t c = threadIdx.x * kVector; c < segment.in; c += kShrinkThreads * kVector) {
    float weights[kRanks][kVector] = {};
#pragma unroll
    for (int k = 0; k < kRanks; ++k) {
      if (k < ranks) LoadFour<kAligned>(a + k * segment.a_stride + c, segment.in - c, weights[k]);
    }
#pragma unroll
    for (int r = 0; r < kTileRows; ++r) {
      if (r >= count) break;
      float values[kVector];
      LoadFour<kAligned>(x + r * segment.x_stride + c, segment.in - c, values);
#pragma unroll
      for (int k = 0; k < kRanks; ++k) {
#pragma unroll
        for (int j = 0; j < kVector; ++j)
          sums[r][k] = __fmaf_rn(values[j], weights[k][j], sums[r][k]);
      }
    }
  }
}

template <typename Element, int kRanks, int kCapacity>
__global__ void __launch_bounds__(kShrinkThreads)
    ShrinkKernel(const __grid_constant__ Args<kCapacity> args) {
  __shared__ float partial[kShrinkWarps][kTileRows][kRanks];
  LetNextKernelBegin();
  const Entry& entry = EntryOfBlock(args);
  const RowLoraSegment& segment = entry.segment;
  const uint32_t block = blockIdx.x - entry.first_block;
  const auto parts = static_cast<uint32_t>((segment.rank + kRanks - 1) / kRanks);
  const int64_t rank = int64_t{block % parts} * kRanks;
  const int64_t row = int64_t{block / parts} * kTileRows;
  const auto least = [](int64_t left, int most) {
    return static_cast<int>(left < most ? left : most);
  };
  const int count = least(segment.rows - row, kTileRows);
  const int ranks = least(segment.rank - rank, kRanks);
  float sums[kTileRows][kRanks] = {};
  WaitForEarlierKernels();
  if (entry.aligned) {
    ShrinkPart<true, Element, kRanks>(segment, rank, ranks, row, count, sums);
  } else {
    ShrinkPart<false, Element, kRanks>(segment, rank, ranks, row, count, sums);
  }
#pragma unroll
  for (int r = 0; r < kTileRows; ++r) {
    if (r >= count) break;
#pragma unroll
    for (int k = 0; k < kRanks; ++k) {
#pragma unroll
      for (int step = 16; step > 0; step /= 2)
        sums[r][k] += __shfl_xor_sync(0xffffffffu, sums[r][k], step);
      if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32][r][k] = sums[r][k];
    }
  }
  __syncthreads();
  const int r = threadIdx.x / kRanks, k = threadIdx.x % kRanks;
  if (r >= count || k >= ranks) return;
  float sum = partial[0][r][k];
#pragma unroll
  for (int w = 1; w < kShrinkWarps; ++w) sum += partial[w][r][k];
  Native(segment.xa)[(row + r) * segment.xa_stride + rank + k] = __float2bfloat16_rn(sum);
}

// sums[r] += xa[r, :] . b over `ranks` ranks.
template <bool kAligned, typename Element>
__device__ __forceinline__ void ExpandPart(const float (&xa)[kTileRows][kRankPart],
                                           const Element* b, int ranks, float (&sums)[kTileRows]) {
#pragma unroll 4
  for (int k = 0; k < ranks; k += kVector) {
    float weights[kVector];
    LoadFour<kAligned>(b + k, ranks - k, weights);
#pragma unroll
    for (int r = 0; r < kTileRows; ++r) {
#pragma unroll
      for (int j = 0; j < kVector; ++j) sums[r] = __fmaf_rn(xa[r][k + j], weights[j], sums[r]);
    }
  }
}

template <typename Element, int kCapacity>
__global__ void __launch_bounds__(kExpandThreads)
    ExpandKernel(const __grid_constant__ Args<kCapacity> args) {
  __shared__ float xa[kTileRows][kRankPart];  // zeros beyond the rows and the ranks
  LetNextKernelBegin();
  const Entry& entry = EntryOfBlock(args);
  const RowLoraSegment& segment = entry.segment;
  const uint32_t block = blockIdx.x - entry.first_block;
  const uint32_t columns =
      static_cast<uint32_t>((segment.out + kExpandThreads - 1) / kExpandThreads);
  const int64_t n = int64_t{block % columns} * kExpandThreads + threadIdx.x;
  const int64_t row = int64_t{block / columns} * kTileRows;
  float sums[kTileRows] = {};
  WaitForEarlierKernels();
  for (int64_t first = 0; first < segment.rank; first += kRankPart) {
    const int ranks =
        static_cast<int>(segment.rank - first < kRankPart ? segment.rank - first : kRankPart);
    for (int i = threadIdx.x; i < kTileRows * kRankPart; i += kExpandThreads) {
      const int r = i / kRankPart, k = i % kRankPart;
      const bool inside = row + r < segment.rows && k < ranks;
      xa[r][k] =
          inside ? __bfloat162float(Native(segment.xa)[(row + r) * segment.xa_stride + first + k])
                 : 0.0f;
    }
    __syncthreads();
    if (n < segment.out) {
      const Element* b = static_cast<const Element*>(segment.b) + n * segment.b_stride + first;
      if (entry.aligned) {
        ExpandPart<true>(xa, b, ranks, sums);
      } else {
        ExpandPart<false>(xa, b, ranks, sums);
      }
    }
    __syncthreads();
  }
  if (n >= segment.out) return;
#pragma unroll
  for (int r = 0; r < kTileRows; ++r) {
    if (row + r >= segment.rows) break;
    __nv_bfloat16* y = Native(segment.y) + (row + r) * segment.y_stride + n;
    *y = __float2bfloat16_rn(__fmaf_rn(segment.scaling, sums[r], __bfloat162float(*y)));
  }
}

bool IsAligned(const RowLoraSegment& segment) {
  const auto fits = [](const void* pointer, uintptr_t bytes) {
    return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
  };
  return fits(segment.a, 16) && fits(segment.b, 16) && fits(segment.x, 8) &&
         (segment.in | segment.rank | segment.a_stride | segment.b_stride | segment.x_stride) %
                 kVector ==
             0;
}

// One launch of `kernel` over all entries; blocks_of(segment) blocks for each.
template <int kCapacity, typename BlocksOf>
cudaError_t LaunchOver(Args<kCapacity>& args, void (*kernel)(Args<kCapacity>), int threads,
                       const BlocksOf& blocks_of, cudaStream_t stream) {
  int64_t blocks = 0;
  for (int i = 0; i < args.count; ++i) {
    args.entries[i].first_block = static_cast<uint32_t>(blocks);
    blocks += blocks_of(args.entries[i].segment);
    if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  }
  if (blocks == 0) return cudaSuccess;
  return LaunchChained(kernel, dim3(static_cast<unsigned>(blocks)), static_cast<unsigned>(threads),
                       0, args, stream);
}

template <typename Element, int kCapacity>
cudaError_t Launch(const Entry* entries, int count, cudaStream_t stream) {
  Args<kCapacity> args;
  args.count = count;
  std::copy_n(entries, count, args.entries);
  int64_t rank_tiles = 0;
  for (int i = 0; i < count; ++i)
    rank_tiles += entries[i].segment.rank * CeilDiv(entries[i].segment.rows, kTileRows);
  const bool many = rank_tiles >= kManyRanks * kEnoughBlocks;
  const int64_t ranks = many ? kManyRanks : 1;
  const cudaError_t error = LaunchOver(
      args,
      many ? ShrinkKernel<Element, kManyRanks, kCapacity> : ShrinkKernel<Element, 1, kCapacity>,
      kShrinkThreads,
      [ranks](const RowLoraSegment& s) {
        return CeilDiv(s.rank, ranks) * CeilDiv(s.rows, kTileRows);
      },
      stream);
  if (error != cudaSuccess) return error;
  return LaunchOver(
      args, ExpandKernel<Element, kCapacity>, kExpandThreads,
      [](const RowLoraSegment& s) {
        return CeilDiv(s.out, kExpandThreads) * CeilDiv(s.rows, kTileRows);
      },
      stream);
}

// The segments with elements of one type.
template <typename Element>
cudaError_t LaunchOf(bool is_fp32, const RowLoraSegment* segments, int64_t count,
                     cudaStream_t stream) {
  for (int64_t next = 0; next < count;) {
    Entry entries[kRowLoraSegmentsPerLaunch];
    int taken = 0;
    while (next < count && taken < kRowLoraSegmentsPerLaunch) {
      const RowLoraSegment& segment = segments[next++];
      if (segment.is_fp32 != is_fp32) continue;
      if (segment.rows == 0 || segment.rank == 0 || segment.out == 0) continue;
      entries[taken++] = {segment, 0, IsAligned(segment)};
    }
    if (taken == 0) continue;
    const cudaError_t error =
        taken <= kFewSegments ? Launch<Element, kFewSegments>(entries, taken, stream)
                              : Launch<Element, kRowLoraSegmentsPerLaunch>(entries, taken, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t LaunchRowLora(const RowLoraSegment* segments, int64_t count, cudaStream_t stream) {
  const cudaError_t error = LaunchOf<__nv_bfloat16>(false, segments, count, stream);
  return error != cudaSuccess ? error : LaunchOf<float>(true, segments, count, stream);
}

}  // namespace lorad::cuda
