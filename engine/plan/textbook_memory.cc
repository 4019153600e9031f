#include "engine/plan/textbook_memory.h"

#include <numeric>

#include "engine/core/checked_math.h"
#include "engine/core/status_macros.h"
#include "engine/plan/memory.h"
#include "engine/plan/presets.h"

namespace lorad {
namespace {

using Kind = MemoryKind;

constexpr int64_t kMomentBytes = 8;  // two in fp32
constexpr int64_t kAdapterBytes = 4;

class Textbook {
 public:
  explicit Textbook(const MemoryRequest& request)
      : request_(request),
        model_(request.model),
        value_bytes_(request.precision == BasePrecision::kFp32 ? 4 : 2),
        tokens_(request.batch * request.sequence),
        trained_(TrainedParameters(request)) {}

  MemoryPlan Fixed() {
    plan_ = {};
    Weights();
    switch (request_.mode) {
      case PlanMode::kInference:
        Set(Kind::kKvCache, model_.num_layers * tokens_ * 2 * model_.kv_features() * value_bytes_);
        break;
      case PlanMode::kFull:
        Set(Kind::kGradients, trained_ * value_bytes_);
        break;
      case PlanMode::kLora:
      case PlanMode::kQlora:
        Set(Kind::kAdapters, trained_ * kAdapterBytes);
        Set(Kind::kGradients, trained_ * kAdapterBytes);
        break;
    }
    Moments();
    if (request_.mode != PlanMode::kInference)
      Set(Kind::kLogits, 2 * tokens_ * model_.vocab_size * value_bytes_);
    return plan_;
  }

  // Of one layer, without its input.
  BytesByKind Layer() const {
    BytesByKind bytes{};
    const int64_t h = model_.hidden_size, scores = model_.num_heads * request_.sequence;
    const auto set = [&](Kind kind, int64_t elements) {
      bytes[static_cast<int>(kind)] = elements * tokens_ * value_bytes_;
    };
    set(Kind::kNormInputs, h);
    set(Kind::kQkvInput, h);
    set(Kind::kQuery, model_.q_features());
    set(Kind::kKey, model_.kv_features());
    set(Kind::kValue, model_.kv_features());
    set(Kind::kScores, scores);
    set(Kind::kSoftmax, scores);
    set(Kind::kProjection, model_.q_features());
    set(Kind::kMlp, h + 2 * model_.intermediate_size);
    if (TrainsAdapters(request_.mode)) {
      int64_t ranks = 0;
      for (const int64_t rank : request_.ranks) ranks += rank;
      set(Kind::kLoraInputs, ranks);
    }
    return bytes;
  }
  int64_t InputBytes() const { return model_.hidden_size * tokens_ * value_bytes_; }

 private:
  void Set(Kind kind, int64_t bytes) { plan_.bytes[static_cast<int>(kind)] = bytes; }

  void Weights() {
    const QuantSpec quant = QuantOf(request_);
    if (quant.format == QuantFormat::kNone) {
      Set(Kind::kWeights, ParameterCount(model_) * value_bytes_);
      return;
    }
    const ModelBytes bytes = CountModelBytes(model_, quant);
    Set(Kind::kWeights, bytes.values);
    Set(Kind::kQuantConstants, bytes.constants);
  }

  void Moments() {
    // A byte each, and a fp32 scale for each 256.
    const int64_t bytes = IsEightBit(request_.optimizer)
                              ? 2 * (trained_ + 4 * CeilDiv(trained_, 256))
                              : trained_ * kMomentBytes;
    if (IsPaged(request_.optimizer))
      plan_.pinned_bytes = bytes;
    else
      Set(Kind::kMoments, bytes);
  }

  const MemoryRequest& request_;
  const ModelConfig& model_;
  const int64_t value_bytes_;
  const int64_t tokens_;
  const int64_t trained_;
  MemoryPlan plan_;
};

int64_t Sum(const BytesByKind& bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
}

}  // namespace

absl::StatusOr<MemoryPlan> PlanTextbook(const MemoryRequest& request) {
  Textbook book(request);
  MemoryPlan plan = book.Fixed();
  const BytesByKind layer = book.Layer();
  const int64_t layers = request.model.num_layers, input = book.InputBytes();
  int64_t inputs = 1, held = 1;  // of inference: one layer at a time
  if (request.mode != PlanMode::kInference) {
    plan.chain = {layers, Sum(plan.bytes) + input, input, Sum(layer)};
    ASSIGN_OR_RETURN(const ActivationPolicy policy,
                     ParseActivationPolicy(request.checkpointing, layers));
    plan.checkpointing = policy.checkpointing;
    if (policy.fits_to_memory) {
      plan.checkpointing = {.layers_per_segment = layers};
      if (request.budget_bytes > 0)
        plan.checkpointing = FitSegments(plan.chain, request.budget_bytes);
    }
    const LayerSegments segments(layers, plan.checkpointing);
    held = segments.longest();
    // The inputs of the layers that are held, of the other segments, and of the last norm. Those of
    // an offloaded model are two on the device.
    const int64_t others = plan.checkpointing.offload ? std::min<int64_t>(1, segments.count() - 1)
                                                      : segments.count() - 1;
    inputs = held + others + 1;
    if (plan.checkpointing.offload) plan.pinned_bytes += (segments.count() - 1 - others) * input;
  }
  for (int kind = 0; kind < kNumMemoryKinds; ++kind) plan.bytes[kind] += held * layer[kind];
  plan.bytes[static_cast<int>(Kind::kNormInputs)] += inputs * input;
  return plan;
}

}  // namespace lorad
