#include "engine/ops/cuda/packed_attention.h"

#include <algorithm>
#include <cstdlib>
#include <string>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/device/cuda/cuda_error.h"
#include "engine/ops/cuda/attention.h"

namespace lorad::cuda {
namespace {

CudnnWorkspace ToWorkspace(const TensorView& view) {
  return {.data = view.data, .bytes = view.size_bytes()};
}

// The sizes alone: nothing else is known when workspace is asked for.
template <typename Params>
Params Sizes(const ConstTensorView& q, const ConstTensorView& k,
             const ConstTensorView& cu_seqlens) {
  Params params = {};
  params.num_tokens = q.shape[0];
  params.num_sequences = cu_seqlens.shape[0] - 1;
  params.num_heads = q.shape[1];
  params.num_kv_heads = k.shape[1];
  params.head_dim = q.shape[2];
  return params;
}

AttentionForwardParams ToParams(const AttentionArgs& args) {
  auto params = Sizes<AttentionForwardParams>(args.q, args.k, args.cu_seqlens);
  params.q = args.q.as<BFloat16>();
  params.k = args.k.as<BFloat16>();
  params.v = args.v.as<BFloat16>();
  params.o = args.o.as<BFloat16>();
  params.lse = args.lse.empty() ? nullptr : args.lse.as<float>();
  params.cu_seqlens = args.cu_seqlens.as<int32_t>();
  params.q_stride = args.q.stride();
  params.k_stride = args.k.stride();
  params.v_stride = args.v.stride();
  params.o_stride = args.o.stride();
  params.scale = args.scale;
  return params;
}

AttentionBackwardParams ToParams(const AttentionBackwardArgs& args) {
  auto params = Sizes<AttentionBackwardParams>(args.q, args.k, args.cu_seqlens);
  params.dout = args.dout.as<BFloat16>();
  params.q = args.q.as<BFloat16>();
  params.k = args.k.as<BFloat16>();
  params.v = args.v.as<BFloat16>();
  params.o = args.o.as<BFloat16>();
  params.lse = args.lse.as<float>();
  params.dq = args.dq.as<BFloat16>();
  params.dk = args.dk.as<BFloat16>();
  params.dv = args.dv.as<BFloat16>();
  params.cu_seqlens = args.cu_seqlens.as<int32_t>();
  params.workspace = args.workspace.data;
  params.dout_stride = args.dout.stride();
  params.q_stride = args.q.stride();
  params.k_stride = args.k.stride();
  params.v_stride = args.v.stride();
  params.o_stride = args.o.stride();
  params.dq_stride = args.dq.stride();
  params.dk_stride = args.dk.stride();
  params.dv_stride = args.dv.stride();
  params.scale = args.scale;
  return params;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PackedAttention>> PackedAttention::Create(int device) {
  const char* chosen = std::getenv("LORAD_ATTENTION");
  const std::string choice = chosen == nullptr ? "" : chosen;
  if (choice == "own") return absl::WrapUnique(new PackedAttention(nullptr));
  if (!choice.empty() && choice != "cudnn") {
    return absl::InvalidArgumentError(absl::StrCat(
        "LORAD_ATTENTION is \"", choice, "\"; it must be own or cudnn, or unset: the faster"));
  }
  auto cudnn = CudnnAttention::Create(device, CudnnAttentionOptions::FromEnvironment());
  if (choice == "cudnn") {
    RETURN_IF_ERROR(cudnn.status());
    return absl::WrapUnique(new PackedAttention(*std::move(cudnn)));
  }
  return absl::WrapUnique(new PackedAttention(cudnn.ok() ? *std::move(cudnn) : nullptr));
}

int64_t PackedAttention::ForwardWorkspaceBytes(const AttentionArgs& args) const {
  if (cudnn_ == nullptr) return 0;
  return cudnn_->WorkspaceBytes(Sizes<AttentionForwardParams>(args.q, args.k, args.cu_seqlens));
}

int64_t PackedAttention::BackwardWorkspaceBytes(const AttentionBackwardArgs& args) const {
  const int64_t own = AttentionBackwardWorkspaceBytes(args.q.shape[0], args.q.shape[1]);
  if (cudnn_ == nullptr) return own;
  return std::max(
      own, cudnn_->WorkspaceBytes(Sizes<AttentionBackwardParams>(args.q, args.k, args.cu_seqlens),
                                  args.max_seqlen));
}

absl::Status PackedAttention::Forward(const AttentionArgs& args, StreamScratchPool& pool,
                                      CudaStream& stream) {
  const AttentionForwardParams params = ToParams(args);
  if (cudnn_ != nullptr && cudnn_->Supports(params).ok()) {
    ASSIGN_OR_RETURN(CudnnHandle * handle, pool.Cudnn(stream));
    absl::Status status =
        cudnn_->Forward(params, args.max_seqlen, ToWorkspace(args.workspace), *handle);
    if (!absl::IsUnimplemented(status)) return status;
  }
  return ToStatus(LaunchAttentionForward(params, stream.handle()), "attention");
}

absl::Status PackedAttention::Backward(const AttentionBackwardArgs& args, StreamScratchPool& pool,
                                       CudaStream& stream) {
  const AttentionBackwardParams params = ToParams(args);
  if (cudnn_ != nullptr && cudnn_->Supports(params).ok()) {
    ASSIGN_OR_RETURN(CudnnHandle * handle, pool.Cudnn(stream));
    // As much as these args ask for, however much there is: how heads are cut in parts, and so the
    // last bits, must depend on the batch alone.
    CudnnWorkspace workspace = ToWorkspace(args.workspace);
    workspace.bytes = BackwardWorkspaceBytes(args);
    absl::Status status = cudnn_->Backward(params, args.max_seqlen, workspace, *handle);
    if (!absl::IsUnimplemented(status)) return status;
  }
  return ToStatus(LaunchAttentionBackward(params, stream.handle()), "attention_backward");
}

}  // namespace lorad::cuda
