#include <cuda_runtime.h>

#include <algorithm>

#include "engine/ops/cuda/cudnn_offsets.h"

namespace lorad::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 4096;  // a grid-stride loop does the rest

unsigned Blocks(int64_t items) {
  return static_cast<unsigned>(std::min((items + kThreads - 1) / kThreads, kMaxBlocks));
}

struct OffsetArrays {
  int64_t strides[kMaxCudnnOffsetArrays];
  int count;
  int64_t pitch;
};

// A thread takes a sequence, or the end behind the last one, and writes its number in every array.
// Some thousand numbers: bound by the launch.
__global__ void OffsetsKernel(const int32_t* __restrict__ cu_seqlens, int64_t num_sequences,
                              int64_t padded_sequences, OffsetArrays arrays,
                              int32_t* __restrict__ lengths, int32_t* __restrict__ offsets) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i <= padded_sequences;
       i += step) {
    const int32_t first = cu_seqlens[min(i, num_sequences)];
    if (i < padded_sequences) {
      lengths[i] = i < num_sequences ? cu_seqlens[i + 1] - first : 0;
    }
    for (int a = 0; a < arrays.count; ++a) {
      offsets[a * arrays.pitch + i] = static_cast<int32_t>(first * arrays.strides[a]);
    }
  }
}

// Copies between lse [num_tokens, num_heads] and cuDNN's order. A thread takes the numbers i, i +
// threads, ... counted in cuDNN's order, so that neighbours are neighbours there; lse's lines are
// shared by the heads and stay in the cache. Bound by the launch and L2: 8 bytes per token and
// head, 2 MB at 8192 tokens and 32 heads.
template <bool kToCudnn>
__global__ void StatisticsKernel(CudnnStatisticsOrder order, const float* __restrict__ from,
                                 float* __restrict__ to) {
  const int64_t slice_elements = order.num_tokens * order.slice_heads;
  const int64_t elements = order.num_tokens * order.num_heads;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < elements;
       i += step) {
    const int64_t slice = i / slice_elements, in_slice = i % slice_elements;
    const int64_t row = in_slice / order.seqlen;  // of [sequences, slice_heads]
    const int64_t token = row / order.slice_heads * order.seqlen + in_slice % order.seqlen;
    const int64_t head = row % order.slice_heads;
    const int64_t cudnn = slice * order.slice_stride + in_slice;
    const int64_t ours = token * order.num_heads + slice * order.slice_heads + head;
    if (kToCudnn) {
      to[cudnn] = from[ours];
    } else {
      to[ours] = from[cudnn];
    }
  }
}

template <bool kToCudnn>
cudaError_t LaunchStatistics(const float* from, const CudnnStatisticsOrder& order, float* to,
                             cudaStream_t stream) {
  const int64_t elements = order.num_tokens * order.num_heads;
  if (elements == 0) return cudaSuccess;
  StatisticsKernel<kToCudnn><<<Blocks(elements), kThreads, 0, stream>>>(order, from, to);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchCudnnOffsets(const int32_t* cu_seqlens, int64_t num_sequences,
                               int64_t padded_sequences, const int64_t* strides, int num_arrays,
                               int64_t pitch, int32_t* lengths, int32_t* offsets,
                               cudaStream_t stream) {
  if (num_arrays < 0 || num_arrays > kMaxCudnnOffsetArrays) return cudaErrorInvalidValue;
  OffsetArrays arrays = {};
  std::copy(strides, strides + num_arrays, arrays.strides);
  arrays.count = num_arrays;
  arrays.pitch = pitch;
  OffsetsKernel<<<Blocks(padded_sequences + 1), kThreads, 0, stream>>>(
      cu_seqlens, num_sequences, padded_sequences, arrays, lengths, offsets);
  return cudaGetLastError();
}

cudaError_t LaunchStatisticsToCudnn(const float* lse, const CudnnStatisticsOrder& order,
                                    float* statistics, cudaStream_t stream) {
  return LaunchStatistics<true>(lse, order, statistics, stream);
}

cudaError_t LaunchStatisticsFromCudnn(const float* statistics, const CudnnStatisticsOrder& order,
                                      float* lse, cudaStream_t stream) {
  return LaunchStatistics<false>(statistics, order, lse, stream);
}

}  // namespace lorad::cuda
