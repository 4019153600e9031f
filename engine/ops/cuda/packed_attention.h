// Attention of training: lorad's own kernels or cuDNN's, whichever is the faster for the shape.
#ifndef LORAD_ENGINE_OPS_CUDA_PACKED_ATTENTION_H_
#define LORAD_ENGINE_OPS_CUDA_PACKED_ATTENTION_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/cuda/cuda_stream.h"
#include "engine/ops/attention.h"
#include "engine/ops/cuda/cudnn_attention.h"
#include "engine/ops/cuda/stream_scratch.h"

namespace lorad::cuda {

// Thread-safe.
class PackedAttention {
 public:
  // For the current device. Reads LORAD_ATTENTION, see cuda_ops.h: kInvalidArgument for anything
  // but own and cudnn; with cudnn, an error where there is none.
  static absl::StatusOr<std::unique_ptr<PackedAttention>> Create(int device);

  // Exact for these args, and enough for any packing of the same tokens. Pointers are not read.
  int64_t ForwardWorkspaceBytes(const AttentionArgs& args) const;
  int64_t BackwardWorkspaceBytes(const AttentionBackwardArgs& args) const;

  // REQUIRES: valid args, bf16 activations.
  absl::Status Forward(const AttentionArgs& args, StreamScratchPool& pool, CudaStream& stream);
  absl::Status Backward(const AttentionBackwardArgs& args, StreamScratchPool& pool,
                        CudaStream& stream);

 private:
  explicit PackedAttention(std::unique_ptr<CudnnAttention> cudnn) : cudnn_(std::move(cudnn)) {}

  const std::unique_ptr<CudnnAttention> cudnn_;  // null: own kernels alone
};

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_PACKED_ATTENTION_H_
