#include "engine/ops/cpu/cpu_ops.h"

#include <cblas.h>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/ops/cpu/kernels.h"

namespace lorad {
namespace {

absl::Status CheckWorkspace(const char* op, const TensorView& workspace, int64_t needed) {
  if (workspace.size_bytes() >= needed || needed == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(op, ": workspace has ", workspace.size_bytes(), " bytes, needs ", needed));
}

// The backend computes in T alone.
template <typename T>
absl::Status CheckIs(const char* op, const char* name, const ConstTensorView& view) {
  if (!view.dense()) {
    return absl::InvalidArgumentError(absl::StrCat(op, ": ", name, " has rows ", view.stride(),
                                                   " elements apart; this backend takes dense ",
                                                   "tensors alone"));
  }
  if (view.dtype == DTypeOf<T>) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(op, ": ", name, " is ", Name(view.dtype),
                                                 ", this backend computes in ", Name(DTypeOf<T>)));
}

template <typename T>
class CpuOps final : public Ops {
 public:
  CpuOps(int num_threads, FlopCounter* flops) : pool_(num_threads), flops_(flops) {}

  absl::Status Embedding(const EmbeddingArgs& args, Stream&) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckIs<T>("embedding", "out", args.out));
    cpu::Embedding<T>(args, pool_);
    return absl::OkStatus();
  }
  absl::Status RmsNorm(const RmsNormArgs& args, Stream&) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckIs<T>("rms_norm", "x", args.x));
    cpu::RmsNorm<T>(args, pool_, flops_);
    return absl::OkStatus();
  }
  absl::Status RmsNormBackward(const RmsNormBackwardArgs& args, Stream&) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckIs<T>("rms_norm_backward", "x", args.x));
    cpu::RmsNormBackward<T>(args, pool_, flops_);
    return absl::OkStatus();
  }
  absl::Status Rope(const RopeArgs& args, Stream&) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckIs<T>("rope", "x", args.x));
    cpu::Rope<T>(args, rope_table_, pool_, flops_);
    return absl::OkStatus();
  }
  absl::Status Linear(const LinearArgs& args, Stream& stream) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckIs<T>("linear", "x", args.x));
    if (!args.residual.empty()) RETURN_IF_ERROR(CheckIs<T>("linear", "residual", args.residual));
    RETURN_IF_ERROR(CheckWorkspace("linear", args.workspace, LinearWorkspaceBytes(args)));
    cpu::Linear<T>(args, pool_, flops_);
    if (args.swiglu.empty()) return absl::OkStatus();
    return SwiGlu({args.terms[0].y, args.terms[1].y, args.swiglu}, stream);
  }
  absl::Status LinearBackward(const LinearBackwardArgs& args, Stream&) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckIs<T>("linear_backward", "x", args.x));
    RETURN_IF_ERROR(
        CheckWorkspace("linear_backward", args.workspace, LinearBackwardWorkspaceBytes(args)));
    cpu::LinearBackward<T>(args, pool_, flops_);
    return absl::OkStatus();
  }
  absl::Status SwiGlu(const SwiGluArgs& args, Stream&) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckIs<T>("swiglu", "gate", args.gate));
    cpu::SwiGlu<T>(args, pool_, flops_);
    return absl::OkStatus();
  }
  absl::Status SwiGluBackward(const SwiGluBackwardArgs& args, Stream&) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckIs<T>("swiglu_backward", "gate", args.gate));
    cpu::SwiGluBackward<T>(args, pool_, flops_);
    return absl::OkStatus();
  }
  absl::Status Attention(const AttentionArgs& args, Stream&) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckIs<T>("attention", "q", args.q));
    cpu::Attention<T>(args, pool_, flops_);
    return absl::OkStatus();
  }
  absl::Status AttentionBackward(const AttentionBackwardArgs& args, Stream&) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckIs<T>("attention_backward", "q", args.q));
    cpu::AttentionBackward<T>(args, pool_, flops_);
    return absl::OkStatus();
  }
  absl::Status KvWrite(const KvWriteArgs& args, Stream&) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckIs<T>("kv_write", "k", args.k));
    cpu::KvWrite<T>(args);
    return absl::OkStatus();
  }
  absl::Status PagedAttention(const PagedAttentionArgs& args, Stream&) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckIs<T>("paged_attention", "q", args.q));
    cpu::PagedAttention<T>(args, pool_, flops_);
    return absl::OkStatus();
  }
  absl::Status RopePagedAttention(const RopePagedAttentionArgs& args, Stream& stream) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(Rope(args.RopeOfQ(), stream));
    RETURN_IF_ERROR(Rope(args.RopeOfK(), stream));
    RETURN_IF_ERROR(KvWrite(args.Write(), stream));
    return PagedAttention(args.Attention(), stream);
  }
  absl::Status Sample(const SampleArgs& args, Stream&) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckIs<T>("sample", "logits", args.logits));
    cpu::Sample<T>(args, pool_);
    return absl::OkStatus();
  }
  absl::Status Dequantize(const DequantizeArgs& args, Stream&) override {
    RETURN_IF_ERROR(Validate(args));
    switch (args.out.dtype) {
      case DType::kBF16:
        cpu::Dequantize<BFloat16>(args, pool_, flops_);
        break;
      case DType::kF32:
        cpu::Dequantize<float>(args, pool_, flops_);
        break;
      default:
        cpu::Dequantize<double>(args, pool_, flops_);
    }
    return absl::OkStatus();
  }
  absl::Status LinearCrossEntropy(const LinearCrossEntropyArgs& args, Stream&) override {
    RETURN_IF_ERROR(Validate(args));
    RETURN_IF_ERROR(CheckIs<T>("linear_cross_entropy", "hidden", args.hidden));
    RETURN_IF_ERROR(CheckWorkspace("linear_cross_entropy", args.workspace,
                                   LinearCrossEntropyWorkspaceBytes(args)));
    cpu::LinearCrossEntropy<T>(args, pool_, flops_);
    return absl::OkStatus();
  }
  absl::Status AdamW(const AdamWArgs& args, Stream&) override {
    RETURN_IF_ERROR(Validate(args));
    for (const AdamWTensor& tensor : args.tensors) {
      RETURN_IF_ERROR(CheckIs<T>("adamw", "param", tensor.param));
    }
    cpu::AdamW<T>(args, pool_, flops_);
    return absl::OkStatus();
  }
  absl::Status SumSquares(const SumSquaresArgs& args, Stream&) override {
    RETURN_IF_ERROR(Validate(args));
    for (const ConstTensorView& tensor : args.tensors) {
      RETURN_IF_ERROR(CheckIs<T>("sum_squares", "tensor", tensor));
    }
    cpu::SumSquares<T>(args, flops_);
    return absl::OkStatus();
  }

  absl::Status ArrangeWeight(const ArrangeWeightArgs& args, Stream&) override {
    return Validate(args);
  }

  LinearLayout PreferredLinearLayout() const override { return {}; }
  int64_t ArrangeScratchBytes(const WeightView&) const override { return 0; }
  int64_t AttentionWorkspaceBytes(const AttentionArgs&) const override { return 0; }
  int64_t AttentionBackwardWorkspaceBytes(const AttentionBackwardArgs&) const override { return 0; }
  int64_t LinearWorkspaceBytes(const LinearArgs& args) const override {
    return cpu::LinearWorkspaceBytes<T>(args, pool_);
  }
  int64_t LinearBackwardWorkspaceBytes(const LinearBackwardArgs& args) const override {
    return cpu::LinearBackwardWorkspaceBytes<T>(args, pool_);
  }
  int64_t LinearCrossEntropyWorkspaceBytes(const LinearCrossEntropyArgs& args) const override {
    return cpu::LinearCrossEntropyWorkspaceBytes<T>(args, pool_);
  }

 private:
  cpu::ThreadPool pool_;
  const cpu::FlopMeter flops_;
  cpu::RopeTable<T> rope_table_;
};

}  // namespace

std::unique_ptr<Ops> CreateCpuOps(bool double_precision, int num_threads, FlopCounter* flops) {
  // Products are split over our own threads: the library's spin between calls, and take the cores
  // from them.
  openblas_set_num_threads(1);
  if (double_precision) return std::make_unique<CpuOps<double>>(num_threads, flops);
  return std::make_unique<CpuOps<float>>(num_threads, flops);
}

}  // namespace lorad
