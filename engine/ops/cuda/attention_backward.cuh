// The kernels of the backward pass, in launch order. Private to attention_backward*.cu.
#ifndef LORAD_ENGINE_OPS_CUDA_ATTENTION_BACKWARD_CUH_
#define LORAD_ENGINE_OPS_CUDA_ATTENTION_BACKWARD_CUH_

#include <cuda_runtime.h>

#include "engine/ops/cuda/attention.h"

namespace lorad::cuda {

// Of each query, in the workspace: [num_heads, num_tokens].
struct QueryStatistics {
  float lse;    // in base 2
  float delta;  // rowsum(dout * o)
};
static_assert(sizeof(QueryStatistics) == 8);

// `aligned`: all tensors can be read and written in chunks of 16 bytes.
cudaError_t LaunchKeyGradients(const AttentionBackwardParams& params,
                               const QueryStatistics* statistics, bool aligned,
                               cudaStream_t stream);
cudaError_t LaunchQueryGradients(const AttentionBackwardParams& params,
                                 const QueryStatistics* statistics, bool aligned,
                                 cudaStream_t stream);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ATTENTION_BACKWARD_CUH_
