// The op set that every backend implements. One header per op holds its Args struct, the contract
// that the CPU and the CUDA version both satisfy, and Validate(), which both run first.
#ifndef LORAD_ENGINE_OPS_OPS_H_
#define LORAD_ENGINE_OPS_OPS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "engine/device/backend.h"
#include "engine/ops/arrange_weight.h"
#include "engine/ops/attention.h"
#include "engine/ops/cross_entropy.h"
#include "engine/ops/dequantize.h"
#include "engine/ops/embedding.h"
#include "engine/ops/linear.h"
#include "engine/ops/optimizer.h"
#include "engine/ops/rms_norm.h"
#include "engine/ops/rope.h"
#include "engine/ops/sample.h"
#include "engine/ops/swiglu.h"

namespace lorad {

// OK means "queued on `stream`", not "finished". Errors of the arguments are kInvalidArgument.
class InferenceOps {
 public:
  virtual ~InferenceOps() = default;
  virtual absl::Status Embedding(const EmbeddingArgs& args, Stream& stream) = 0;
  virtual absl::Status RmsNorm(const RmsNormArgs& args, Stream& stream) = 0;
  virtual absl::Status Rope(const RopeArgs& args, Stream& stream) = 0;
  virtual absl::Status Linear(const LinearArgs& args, Stream& stream) = 0;
  virtual absl::Status SwiGlu(const SwiGluArgs& args, Stream& stream) = 0;
  virtual absl::Status KvWrite(const KvWriteArgs& args, Stream& stream) = 0;
  virtual absl::Status PagedAttention(const PagedAttentionArgs& args, Stream& stream) = 0;
  virtual absl::Status RopePagedAttention(const RopePagedAttentionArgs& args, Stream& stream) = 0;
  virtual absl::Status Sample(const SampleArgs& args, Stream& stream) = 0;
  virtual absl::Status Dequantize(const DequantizeArgs& args, Stream& stream) = 0;
  virtual absl::Status ArrangeWeight(const ArrangeWeightArgs& args, Stream& stream) = 0;

  virtual LinearLayout PreferredLinearLayout() const = 0;
  // Scratch that the op needs for these arguments; their data pointers are not read.
  virtual int64_t LinearWorkspaceBytes(const LinearArgs& args) const = 0;
  // 0: the weight stays as it is.
  virtual int64_t ArrangeScratchBytes(const WeightView& weight) const = 0;
};

class TrainingOps {
 public:
  virtual ~TrainingOps() = default;
  virtual absl::Status RmsNormBackward(const RmsNormBackwardArgs& args, Stream& stream) = 0;
  virtual absl::Status LinearBackward(const LinearBackwardArgs& args, Stream& stream) = 0;
  virtual absl::Status Attention(const AttentionArgs& args, Stream& stream) = 0;
  virtual absl::Status AttentionBackward(const AttentionBackwardArgs& args, Stream& stream) = 0;
  virtual absl::Status SwiGluBackward(const SwiGluBackwardArgs& args, Stream& stream) = 0;
  virtual absl::Status LinearCrossEntropy(const LinearCrossEntropyArgs& args, Stream& stream) = 0;
  virtual absl::Status AdamW(const AdamWArgs& args, Stream& stream) = 0;
  virtual absl::Status SumSquares(const SumSquaresArgs& args, Stream& stream) = 0;

  virtual int64_t AttentionWorkspaceBytes(const AttentionArgs& args) const = 0;
  virtual int64_t AttentionBackwardWorkspaceBytes(const AttentionBackwardArgs& args) const = 0;
  virtual int64_t LinearBackwardWorkspaceBytes(const LinearBackwardArgs& args) const = 0;
  virtual int64_t LinearCrossEntropyWorkspaceBytes(const LinearCrossEntropyArgs& args) const = 0;
};

// Thread-compatible.
class Ops : public InferenceOps, public TrainingOps {};

}  // namespace lorad

#endif  // LORAD_ENGINE_OPS_OPS_H_
