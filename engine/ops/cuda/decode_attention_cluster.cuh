// Private to decode_attention.cu.
#ifndef LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_CLUSTER_CUH_
#define LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_CLUSTER_CUH_

#include <cuda_runtime_api.h>

#include "engine/ops/cuda/decode_attention.cuh"

namespace lorad::cuda {

// Blocks of a cluster for each row and kv head, one for a split at least: 2, 4 or 8. 0: rows are
// too many for all clusters to run at once, contexts too long, or the device has no clusters.
int ClusterSize(const DecodeArgs& args);
// The kernel of decode_attention_cluster.cu. REQUIRES: `size` is ClusterSize(args), and not 0.
cudaError_t LaunchDecodeClusters(const DecodeArgs& args, int size, cudaStream_t stream);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_CLUSTER_CUH_
