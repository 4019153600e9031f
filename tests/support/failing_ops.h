// Ops of another backend that fail where a test wants them to.
#ifndef LORAD_TESTS_SUPPORT_FAILING_OPS_H_
#define LORAD_TESTS_SUPPORT_FAILING_OPS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "engine/ops/ops.h"

namespace lorad {

// Decides which pieces of work fail: copies, Zero, ops.
class WorkGate {
 public:
  static constexpr const char* kMessage = "an illegal memory access was encountered";

  // The n-th piece of work from now on, counted from 1, fails: that one alone, so that whoever
  // drops its status goes on. 0: none.
  void FailAt(int64_t n) {
    left_ = n;
    failed_ = broken_ = false;
  }
  // All work fails from now on, as after a CUDA error.
  void Break() { broken_ = true; }
  bool failed() const { return failed_; }

  template <typename Work>
  absl::Status Do(Work work) {
    if (!broken_ && (left_ == 0 || --left_ > 0)) return work();
    failed_ = true;
    return absl::InternalError(kMessage);
  }

 private:
  int64_t left_ = 0;
  bool broken_ = false, failed_ = false;
};

class FailingOps final : public Ops {
 public:
  FailingOps(Ops& base, WorkGate& gate) : base_(base), gate_(gate) {}

  absl::Status Embedding(const EmbeddingArgs& args, Stream& stream) override {
    return gate_.Do([&] { return base_.Embedding(args, stream); });
  }
  absl::Status RmsNorm(const RmsNormArgs& args, Stream& stream) override {
    return gate_.Do([&] { return base_.RmsNorm(args, stream); });
  }
  absl::Status Rope(const RopeArgs& args, Stream& stream) override {
    return gate_.Do([&] { return base_.Rope(args, stream); });
  }
  absl::Status Linear(const LinearArgs& args, Stream& stream) override {
    return gate_.Do([&] { return base_.Linear(args, stream); });
  }
  absl::Status SwiGlu(const SwiGluArgs& args, Stream& stream) override {
    return gate_.Do([&] { return base_.SwiGlu(args, stream); });
  }
  absl::Status KvWrite(const KvWriteArgs& args, Stream& stream) override {
    return gate_.Do([&] { return base_.KvWrite(args, stream); });
  }
  absl::Status PagedAttention(const PagedAttentionArgs& args, Stream& stream) override {
    return gate_.Do([&] { return base_.PagedAttention(args, stream); });
  }
  absl::Status RopePagedAttention(const RopePagedAttentionArgs& args, Stream& stream) override {
    return gate_.Do([&] { return base_.RopePagedAttention(args, stream); });
  }
  absl::Status Sample(const SampleArgs& args, Stream& stream) override {
    return gate_.Do([&] { return base_.Sample(args, stream); });
  }
  absl::Status Dequantize(const DequantizeArgs& args, Stream& stream) override {
    return gate_.Do([&] { return base_.Dequantize(args, stream); });
  }
  absl::Status ArrangeWeight(const ArrangeWeightArgs& args, Stream& stream) override {
    return gate_.Do([&] { return base_.ArrangeWeight(args, stream); });
  }
  absl::Status RmsNormBackward(const RmsNormBackwardArgs& args, Stream& stream) override {
    return gate_.Do([&] { return base_.RmsNormBackward(args, stream); });
  }
  absl::Status LinearBackward(const LinearBackwardArgs& args, Stream& stream) override {
    return gate_.Do([&] { return base_.LinearBackward(args, stream); });
  }
  absl::Status Attention(const AttentionArgs& args, Stream& stream) override {
    return gate_.Do([&] { return base_.Attention(args, stream); });
  }
  absl::Status AttentionBackward(const AttentionBackwardArgs& args, Stream& stream) override {
    return gate_.Do([&] { return base_.AttentionBackward(args, stream); });
  }
  absl::Status SwiGluBackward(const SwiGluBackwardArgs& args, Stream& stream) override {
    return gate_.Do([&] { return base_.SwiGluBackward(args, stream); });
  }
  absl::Status LinearCrossEntropy(const LinearCrossEntropyArgs& args, Stream& stream) override {
    return gate_.Do([&] { return base_.LinearCrossEntropy(args, stream); });
  }
  absl::Status AdamW(const AdamWArgs& args, Stream& stream) override {
    return gate_.Do([&] { return base_.AdamW(args, stream); });
  }
  absl::Status SumSquares(const SumSquaresArgs& args, Stream& stream) override {
    return gate_.Do([&] { return base_.SumSquares(args, stream); });
  }

  LinearLayout PreferredLinearLayout() const override { return base_.PreferredLinearLayout(); }
  int64_t LinearWorkspaceBytes(const LinearArgs& args) const override {
    return base_.LinearWorkspaceBytes(args);
  }
  int64_t ArrangeScratchBytes(const WeightView& weight) const override {
    return base_.ArrangeScratchBytes(weight);
  }
  int64_t AttentionWorkspaceBytes(const AttentionArgs& args) const override {
    return base_.AttentionWorkspaceBytes(args);
  }
  int64_t AttentionBackwardWorkspaceBytes(const AttentionBackwardArgs& args) const override {
    return base_.AttentionBackwardWorkspaceBytes(args);
  }
  int64_t LinearBackwardWorkspaceBytes(const LinearBackwardArgs& args) const override {
    return base_.LinearBackwardWorkspaceBytes(args);
  }
  int64_t LinearCrossEntropyWorkspaceBytes(const LinearCrossEntropyArgs& args) const override {
    return base_.LinearCrossEntropyWorkspaceBytes(args);
  }

 private:
  Ops& base_;
  WorkGate& gate_;
};

}  // namespace lorad

#endif  // LORAD_TESTS_SUPPORT_FAILING_OPS_H_
