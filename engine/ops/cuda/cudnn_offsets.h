// Launchers that translate between lorad's attention arguments and the forms that cuDNN's graphs
// read: where packed sequences begin, and softmax statistics in another order.
#ifndef LORAD_ENGINE_OPS_CUDA_CUDNN_OFFSETS_H_
#define LORAD_ENGINE_OPS_CUDA_CUDNN_OFFSETS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace lorad::cuda {

inline constexpr int kMaxCudnnOffsetArrays = 16;

// For i in [0, padded_sequences], sequences beyond the real ones being empty ones at the end:
//   lengths[i] = tokens of sequence i                       (not for i = padded_sequences)
//   offsets[a * pitch + i] = first token of sequence i * strides[a],  a in [0, num_arrays)
// cu_seqlens [num_sequences + 1], in device memory as lengths and offsets are; strides in host
// memory. cudaErrorInvalidValue for more than kMaxCudnnOffsetArrays arrays. REQUIRES:
// num_sequences <= padded_sequences < pitch; every offset is below 2^31.
cudaError_t LaunchCudnnOffsets(const int32_t* cu_seqlens, int64_t num_sequences,
                               int64_t padded_sequences, const int64_t* strides, int num_arrays,
                               int64_t pitch, int32_t* lengths, int32_t* offsets,
                               cudaStream_t stream);

// Where one number per token and head lies for cuDNN if all sequences have `seqlen` tokens: heads
// in slices of `slice_heads`, each of them at slice * slice_stride, and in it [num_tokens / seqlen,
// slice_heads, seqlen].
struct CudnnStatisticsOrder {
  int64_t num_tokens, num_heads;
  int64_t slice_heads;   // divides num_heads
  int64_t slice_stride;  // >= num_tokens * slice_heads
  int64_t seqlen;        // divides num_tokens
};
// lse [num_tokens, num_heads] to cuDNN's order and back. What lies between slices is not written.
cudaError_t LaunchStatisticsToCudnn(const float* lse, const CudnnStatisticsOrder& order,
                                    float* statistics, cudaStream_t stream);
cudaError_t LaunchStatisticsFromCudnn(const float* statistics, const CudnnStatisticsOrder& order,
                                      float* lse, cudaStream_t stream);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_CUDNN_OFFSETS_H_
