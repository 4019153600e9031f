// The ops on the paged KV cache: args of engine/ops/attention.h to launches.
#ifndef LORAD_ENGINE_OPS_CUDA_PAGED_ATTENTION_OPS_H_
#define LORAD_ENGINE_OPS_CUDA_PAGED_ATTENTION_OPS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "absl/status/status.h"
#include "engine/ops/attention.h"
#include "engine/ops/cuda/matmul.h"

namespace lorad::cuda {

// REQUIRES: valid args, in bf16.
absl::Status KvWrite(const KvWriteArgs& args, cudaStream_t stream);

// `scratch`, device memory that is free until the op ends, lets few rows over long contexts use the
// whole device where PagedAttentionWorkspaceBytes() fit into it. The bits do not depend on it.
absl::Status PagedAttention(const PagedAttentionArgs& args, cudaStream_t stream,
                            void* scratch = nullptr, int64_t scratch_bytes = 0);

// One kernel where each sequence has one new row and the kernel takes the shape, else one each for
// rotation, write and attention. The same bits, whatever the scratch is.
absl::Status RopePagedAttention(const RopePagedAttentionArgs& args, const LinearScratch& scratch);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_PAGED_ATTENTION_OPS_H_
