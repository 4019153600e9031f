#include "engine/ops/cuda/cuda_ops.h"

#include <cuda_runtime_api.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/device/cuda/cuda_error.h"
#include "engine/device/cuda/cuda_stream.h"
#include "engine/ops/cuda/arrange_weight.h"
#include "engine/ops/cuda/compiled_code.h"
#include "engine/ops/cuda/dequantize.h"
#include "engine/ops/cuda/elementwise.h"
#include "engine/ops/cuda/linear.h"
#include "engine/ops/cuda/linear_cross_entropy.h"
#include "engine/ops/cuda/matmul.h"
#include "engine/ops/cuda/optimizer_ops.h"
#include "engine/ops/cuda/packed_attention.h"
#include "engine/ops/cuda/paged_attention_ops.h"
#include "engine/ops/cuda/sample.h"
#include "engine/ops/cuda/stream_scratch.h"

namespace lorad::cuda {
namespace {

absl::Status CheckWorkspace(const char* op, const TensorView& workspace, int64_t needed) {
  if (needed == 0 || workspace.size_bytes() >= needed) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(op, ": workspace has ", workspace.size_bytes(), " bytes, needs ", needed));
}

absl::Status CheckBFloat16(const char* op, const char* name, const ConstTensorView& view) {
  if (view.dtype == DType::kBF16) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(op, ": ", name, " is ", Name(view.dtype), ", the GPU computes in BF16"));
}

// Serving and training each queue on a stream of their own.
constexpr int kReservedStreams = 2;

const BFloat16* Values(const ConstTensorView& view) { return view.as<BFloat16>(); }
BFloat16* Values(const TensorView& view) { return view.as<BFloat16>(); }

SampleOutputs ToSampleOutputs(const SampleArgs& args) {
  SampleOutputs outputs;
  outputs.ids = args.ids.as<int32_t>();
  outputs.logprobs = args.logprobs.as<float>();
  if (args.top_ids.empty()) return outputs;
  outputs.top_ids = args.top_ids.as<int32_t>();
  outputs.top_logprobs = args.top_logprobs.as<float>();
  outputs.top_columns = static_cast<int>(args.top_ids.shape[1]);
  return outputs;
}

class CudaOps final : public Ops {
 public:
  CudaOps(int device, CudaAllocator& allocator, std::unique_ptr<Matmul> matmul,
          std::unique_ptr<PackedAttention> attention)
      : scratch_(device, allocator), matmul_(std::move(matmul)), attention_(std::move(attention)) {}

  absl::Status Reserve() { return scratch_.Reserve(kReservedStreams); }

  absl::Status Embedding(const EmbeddingArgs& args, Stream& stream) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckBFloat16("embedding", "out", args.out));
    return ToStatus(
        LaunchEmbedding(args.ids.as<int32_t>(), Values(args.table), Values(args.out),
                        args.out.stride(), args.out.shape[0], args.out.shape[1], Handle(stream)),
        "embedding");
  }
  absl::Status RmsNorm(const RmsNormArgs& args, Stream& stream) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckBFloat16("rms_norm", "x", args.x));
    return ToStatus(
        LaunchRmsNorm(Values(args.x), args.x.stride(), args.gamma.as<float>(), Values(args.y),
                      args.y.stride(), args.inv_rms.empty() ? nullptr : args.inv_rms.as<float>(),
                      args.x.shape[0], args.x.shape[1], args.eps, Handle(stream)),
        "rms_norm");
  }
  absl::Status RmsNormBackward(const RmsNormBackwardArgs& args, Stream& stream) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckBFloat16("rms_norm_backward", "x", args.x));
    return ToStatus(
        LaunchRmsNormBackward(Values(args.dy), args.dy.stride(), Values(args.x), args.x.stride(),
                              args.gamma.as<float>(), args.inv_rms.as<float>(), Values(args.dx),
                              args.dx.stride(), args.accumulate, args.x.shape[0], args.x.shape[1],
                              Handle(stream)),
        "rms_norm_backward");
  }
  absl::Status Rope(const RopeArgs& args, Stream& stream) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckBFloat16("rope", "x", args.x));
    return ToStatus(LaunchRope(Values(args.x), args.x.stride(), args.positions.as<int32_t>(),
                               args.inv_freq.as<float>(), args.x.shape[0], args.x.shape[1],
                               args.x.shape[2], args.inverse, Handle(stream)),
                    "rope");
  }
  absl::Status Linear(const LinearArgs& args, Stream& stream) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckBFloat16("linear", "x", args.x));
    RETURN_IF_ERROR(CheckWorkspace("linear", args.workspace, LinearWorkspaceBytes(args)));
    ASSIGN_OR_RETURN(const LinearScratch scratch, scratch_.For(AsCuda(stream)));
    return cuda::Linear(*matmul_, args, scratch);
  }
  absl::Status LinearBackward(const LinearBackwardArgs& args, Stream& stream) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckBFloat16("linear_backward", "x", args.x));
    RETURN_IF_ERROR(
        CheckWorkspace("linear_backward", args.workspace, LinearBackwardWorkspaceBytes(args)));
    ASSIGN_OR_RETURN(const LinearScratch scratch, scratch_.For(AsCuda(stream)));
    return cuda::LinearBackward(*matmul_, args, scratch);
  }
  absl::Status SwiGlu(const SwiGluArgs& args, Stream& stream) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckBFloat16("swiglu", "gate", args.gate));
    return ToStatus(LaunchSwiGlu(Values(args.gate), args.gate.stride(), Values(args.up),
                                 args.up.stride(), Values(args.out), args.out.stride(),
                                 args.gate.shape[0], args.gate.shape[1], Handle(stream)),
                    "swiglu");
  }
  absl::Status SwiGluBackward(const SwiGluBackwardArgs& args, Stream& stream) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckBFloat16("swiglu_backward", "gate", args.gate));
    return ToStatus(LaunchSwiGluBackward(Values(args.dout), args.dout.stride(), Values(args.gate),
                                         args.gate.stride(), Values(args.up), args.up.stride(),
                                         Values(args.dgate), args.dgate.stride(), Values(args.dup),
                                         args.dup.stride(), args.gate.shape[0], args.gate.shape[1],
                                         Handle(stream)),
                    "swiglu_backward");
  }
  absl::Status Attention(const AttentionArgs& args, Stream& stream) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckBFloat16("attention", "q", args.q));
    RETURN_IF_ERROR(CheckWorkspace("attention", args.workspace, AttentionWorkspaceBytes(args)));
    return attention_->Forward(args, scratch_, AsCuda(stream));
  }
  absl::Status AttentionBackward(const AttentionBackwardArgs& args, Stream& stream) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckBFloat16("attention_backward", "q", args.q));
    RETURN_IF_ERROR(CheckWorkspace("attention_backward", args.workspace,
                                   AttentionBackwardWorkspaceBytes(args)));
    return attention_->Backward(args, scratch_, AsCuda(stream));
  }
  absl::Status KvWrite(const KvWriteArgs& args, Stream& stream) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckBFloat16("kv_write", "k", args.k));
    return cuda::KvWrite(args, Handle(stream));
  }
  absl::Status PagedAttention(const PagedAttentionArgs& args, Stream& stream) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckBFloat16("paged_attention", "q", args.q));
    ASSIGN_OR_RETURN(const LinearScratch scratch, scratch_.For(AsCuda(stream)));
    return cuda::PagedAttention(args, scratch.stream, scratch.lt_workspace,
                                static_cast<int64_t>(scratch.lt_workspace_bytes));
  }
  absl::Status RopePagedAttention(const RopePagedAttentionArgs& args, Stream& stream) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckBFloat16("rope_paged_attention", "q", args.q));
    ASSIGN_OR_RETURN(const LinearScratch scratch, scratch_.For(AsCuda(stream)));
    return cuda::RopePagedAttention(args, scratch);
  }
  absl::Status Sample(const SampleArgs& args, Stream& stream) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckBFloat16("sample", "logits", args.logits));
    return ToStatus(
        LaunchSample(Values(args.logits), args.logits.stride(), args.logits.shape[0],
                     args.logits.shape[1], static_cast<const DrawParams*>(args.params.data),
                     ToSampleOutputs(args), Handle(stream)),
        "sample");
  }
  absl::Status Dequantize(const DequantizeArgs& args, Stream& stream) override {
    RETURN_IF_ERROR(Validate(args));
    const PackedWeight weight = ToPackedWeight(args.weight, 0);
    const int64_t ld = args.out.stride();
    const cudaStream_t handle = Handle(stream);
    switch (args.out.dtype) {
      case DType::kBF16:
        return ToStatus(LaunchDequantize(&weight, 1, Values(args.out), ld, handle), "dequantize");
      case DType::kF32:
        return ToStatus(LaunchDequantize(weight, args.out.as<float>(), ld, handle), "dequantize");
      default:
        return ToStatus(LaunchDequantize(weight, args.out.as<double>(), ld, handle), "dequantize");
    }
  }
  // The views are const for the model's users; who arranges owns the memory.
  absl::Status ArrangeWeight(const ArrangeWeightArgs& args, Stream& stream) override {
    RETURN_IF_ERROR(Validate(args));
    WeightView& weight = *args.weight;
    const int64_t needed = ArrangeScratchBytes(weight);
    if (needed == 0) return absl::OkStatus();
    RETURN_IF_ERROR(CheckWorkspace("arrange_weight", args.scratch, needed));
    RETURN_IF_ERROR(ToStatus(
        LaunchArrangeWeight(ToPackedWeight(weight, 0), const_cast<void*>(weight.codes.data),
                            static_cast<uint8_t*>(const_cast<void*>(weight.scales_u8.data)),
                            args.scratch.data, Handle(stream)),
        "arrange weight"));
    weight.tiled = true;
    return absl::OkStatus();
  }
  absl::Status LinearCrossEntropy(const LinearCrossEntropyArgs& args, Stream& stream) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckBFloat16("linear_cross_entropy", "hidden", args.hidden));
    RETURN_IF_ERROR(CheckWorkspace("linear_cross_entropy", args.workspace,
                                   LinearCrossEntropyWorkspaceBytes(args)));
    ASSIGN_OR_RETURN(const LinearScratch scratch, scratch_.For(AsCuda(stream)));
    return cuda::LinearCrossEntropy(*matmul_, args, scratch);
  }
  absl::Status AdamW(const AdamWArgs& args, Stream& stream) override {
    RETURN_IF_ERROR(Validate(args));
    return cuda::AdamW(args, Handle(stream));
  }
  absl::Status SumSquares(const SumSquaresArgs& args, Stream& stream) override {
    RETURN_IF_ERROR(Validate(args));
    ASSIGN_OR_RETURN(const LinearScratch scratch, scratch_.For(AsCuda(stream)));
    return cuda::SumSquares(args, scratch);
  }

  LinearLayout PreferredLinearLayout() const override { return kLinearLayout; }
  int64_t ArrangeScratchBytes(const WeightView& weight) const override {
    return cuda::ArrangeScratchBytes(ToPackedWeight(weight, 0));
  }
  int64_t AttentionWorkspaceBytes(const AttentionArgs& args) const override {
    return attention_->ForwardWorkspaceBytes(args);
  }
  int64_t AttentionBackwardWorkspaceBytes(const AttentionBackwardArgs& args) const override {
    return attention_->BackwardWorkspaceBytes(args);
  }
  int64_t LinearWorkspaceBytes(const LinearArgs& args) const override {
    return cuda::LinearWorkspaceBytes(args);
  }
  int64_t LinearBackwardWorkspaceBytes(const LinearBackwardArgs& args) const override {
    return cuda::LinearBackwardWorkspaceBytes(args);
  }
  int64_t LinearCrossEntropyWorkspaceBytes(const LinearCrossEntropyArgs& args) const override {
    return cuda::LinearCrossEntropyWorkspaceBytes(args);
  }

 private:
  StreamScratchPool scratch_;
  const std::unique_ptr<Matmul> matmul_;
  const std::unique_ptr<PackedAttention> attention_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Ops>> CreateCudaOps(int device, CudaAllocator& allocator) {
  RETURN_IF_ERROR(ToStatus(cudaSetDevice(device), "cudaSetDevice"));
  RunningCode();  // now, while nothing is queued that it would wait for
  ASSIGN_OR_RETURN(std::unique_ptr<Matmul> matmul, Matmul::Create());
  ASSIGN_OR_RETURN(std::unique_ptr<PackedAttention> attention, PackedAttention::Create(device));
  auto ops = std::make_unique<CudaOps>(device, allocator, std::move(matmul), std::move(attention));
  RETURN_IF_ERROR(ops->Reserve());
  return ops;
}

}  // namespace lorad::cuda
