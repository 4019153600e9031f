#include "engine/plan/engine_memory.h"

#include <algorithm>
#include <memory>
#include <numeric>

#include "engine/core/arena.h"
#include "engine/core/checked_math.h"
#include "engine/core/status_macros.h"
#include "engine/plan/memory.h"
#include "engine/plan/op_scratch.h"
#include "engine/plan/presets.h"

namespace lorad {
namespace {

using Kind = MemoryKind;

// Elements of a block of 8-bit moments (engine/ops/optimizer.h), and of their code book.
constexpr int64_t kMomentBlock = 256, kMomentCodes = 256;
// As engine/train/model_pass.cc has it.
constexpr int64_t kMostDecodedBytes = int64_t{512} << 20;
constexpr int64_t kLeastLossRows = 512;

// Sums up what engine/train lays out, tensor by tensor. The arena only ever grows until the scratch
// of the backward pass, so bytes by kind add up to its peak.
class TrainingLayout {
 public:
  explicit TrainingLayout(const MemoryRequest& request)
      : request_(request),
        model_(request.model),
        scratch_(OpScratch::For(request)),
        dtype_(scratch_->activation_dtype()),
        tokens_(request.batch * request.sequence) {}

  MemoryPlan Plan(const ActivationCheckpointing& checkpointing) {
    plan_ = {};
    plan_.checkpointing = checkpointing;
    const LayerSegments segments(model_.num_layers, checkpointing);
    const bool recomputes = segments.count() > 1;
    Adapter();
    Batch();
    Inputs(segments, checkpointing.offload);
    LayerScratch(checkpointing.keeps_act);
    for (int64_t i = 0; i < segments.longest(); ++i) Layer(checkpointing.keeps_act);
    if (recomputes) Add(Kind::kLoraInputs, model_.num_layers * LoraInput(Projection::kDown));
    Add(Kind::kScratch, Matrix(model_.hidden_size, {Projection::kO}, {Projection::kDown}));
    Add(Kind::kNormInputs, TensorBytes(DType::kF32, tokens_));
    Add(Kind::kWorkspace, Aligned(Workspace(recomputes && checkpointing.layers_per_segment == 1)) +
                              scratch_->backend_bytes());
    Add(Kind::kScratch, std::max(MlpScratch(), AttentionScratch()));
    if (checkpointing.offload)
      plan_.pinned_bytes += std::max<int64_t>(0, segments.count() - 2) * tokens_ *
                            model_.hidden_size * SizeOf(dtype_);
    return plan_;
  }

 private:
  static int64_t Aligned(int64_t bytes) { return RoundUp(bytes, Arena::kAlignment); }
  void Add(Kind kind, int64_t bytes) { plan_.bytes[static_cast<int>(kind)] += bytes; }
  int64_t Rank(Projection p) const { return request_.ranks[static_cast<int>(p)]; }

  // Spare columns behind a matrix that the given linears share.
  int64_t Spare(std::initializer_list<Projection> projections) const {
    const int64_t align = scratch_->spare_column_align();
    int64_t rank = 0;
    for (const Projection p : projections) rank += Rank(p);
    return align == 0 ? 0 : RoundUp(rank, align);
  }
  int64_t Matrix(int64_t columns, int64_t spare = 0) const {
    return TensorBytes(dtype_, tokens_ * (columns + spare));
  }
  // With room for whichever of two groups wants more.
  int64_t Matrix(int64_t columns, std::initializer_list<Projection> one,
                 std::initializer_list<Projection> other) const {
    return Matrix(columns, std::max(Spare(one), Spare(other)));
  }
  int64_t LoraInput(Projection p) const { return Rank(p) == 0 ? 0 : Matrix(Rank(p)); }

  void Adapter() {
    const bool eight_bit = IsEightBit(request_.optimizer);
    int64_t elements = 0;
    for (const Projection p : kAllProjections) {
      if (Rank(p) == 0) continue;
      const int64_t in = InFeatures(model_, p), out = OutFeatures(model_, p);
      elements += FlatElements(request_.optimizer, Rank(p) * in) +
                  FlatElements(request_.optimizer, Rank(p) * out);
    }
    elements *= model_.num_layers;
    const int64_t values = TensorBytes(DType::kF32, elements);
    int64_t moments = 2 * values;
    if (eight_bit) {
      moments = 2 * (TensorBytes(DType::kU8, elements) +
                     TensorBytes(DType::kF32, CeilDiv(elements, kMomentBlock)));
      Add(Kind::kMoments, 2 * TensorBytes(DType::kF32, kMomentCodes));
    }
    Add(Kind::kAdapters, values);
    Add(Kind::kGradients, values);
    if (IsPaged(request_.optimizer))
      plan_.pinned_bytes += moments;
    else
      Add(Kind::kMoments, moments);
    plan_.pinned_bytes += values + moments;  // the snapshot
  }

  // The losses of a step, its norm, and what is uploaded of a batch.
  void Batch() {
    const int64_t samples = tokens_ / 2 + 1;  // as many as there can be
    Add(Kind::kLogits, TensorBytes(DType::kF32, tokens_ * request_.accumulation) +
                           TensorBytes(DType::kF64, 1) + 3 * TensorBytes(DType::kI32, tokens_) +
                           TensorBytes(DType::kI32, samples + 1) +
                           TensorBytes(DType::kU64, tokens_));
  }

  // Of segments, within the longest one, and the last layer's output.
  void Inputs(const LayerSegments& segments, bool offload) {
    const int64_t first = offload ? std::min<int64_t>(2, segments.count()) : segments.count();
    Add(Kind::kNormInputs, (first + segments.longest() - 1 + 1) * Matrix(model_.hidden_size));
  }

  void LayerScratch(bool keeps_act) {
    Add(Kind::kQkvInput,
        Matrix(model_.hidden_size, {Projection::kQ, Projection::kK, Projection::kV},
               {Projection::kGate, Projection::kUp}));
    if (!keeps_act) Add(Kind::kMlp, Matrix(model_.intermediate_size, Spare({Projection::kDown})));
  }

  void Layer(bool keeps_act) {
    Add(Kind::kNormInputs, Matrix(model_.hidden_size) + 2 * TensorBytes(DType::kF32, tokens_));
    Add(Kind::kSoftmax, TensorBytes(DType::kF32, tokens_ * model_.num_heads));
    const int64_t q = model_.q_features(), kv = model_.kv_features();
    // Side by side they are one tensor.
    const int64_t all = Qkv(0), k = TensorBytes(dtype_, tokens_ * kv);
    Add(Kind::kKey, k);
    Add(Kind::kValue, k);
    Add(Kind::kQuery, all - 2 * k);
    Add(Kind::kProjection, Matrix(q, Spare({Projection::kO})));
    const int64_t width = model_.intermediate_size;
    const int64_t spare = Spare({Projection::kGate, Projection::kUp});
    Add(Kind::kMlp, scratch_->side_by_side() ? Matrix(2 * width, spare) : 2 * Matrix(width));
    if (keeps_act) Add(Kind::kMlp, Matrix(width, Spare({Projection::kDown})));
    for (const Projection p : kAllProjections) Add(Kind::kLoraInputs, LoraInput(p));
  }

  int64_t Qkv(int64_t spare) const {
    const int64_t q = model_.q_features(), kv = model_.kv_features();
    return scratch_->side_by_side() ? Matrix(q + 2 * kv, spare) : Matrix(q) + 2 * Matrix(kv);
  }
  int64_t MlpScratch() const {
    return Matrix(model_.intermediate_size) + Matrix(model_.hidden_size);
  }
  int64_t AttentionScratch() const {
    return Matrix(model_.q_features()) +
           Qkv(Spare({Projection::kQ, Projection::kK, Projection::kV})) +
           Matrix(model_.hidden_size);
  }

  int64_t LossRows() const {
    const double layer =
        static_cast<double>(LinearParameterCount(model_)) / static_cast<double>(model_.num_layers);
    const double head =
        static_cast<double>(model_.vocab_size) * static_cast<double>(model_.hidden_size);
    const double rows = static_cast<double>(tokens_) * layer / (4.0 * head);
    return std::clamp(static_cast<int64_t>(rows), std::min(kLeastLossRows, tokens_), tokens_);
  }

  int64_t Workspace(bool layer_by_layer) const {
    const int64_t loss = scratch_->Loss(LossRows());
    const int64_t attention = scratch_->Attention(tokens_, /*backward=*/true);
    int64_t largest = attention, sum = 0, first = 0;
    for (int group = 0; group < kNumPlanGroups; ++group) {
      const int64_t bytes = scratch_->Linear(group, tokens_, /*backward=*/true);
      largest = std::max(largest, bytes);
      sum += Aligned(bytes);
      if (group == 0) first = sum;
    }
    // Each group has a part of its own, whose decoded weights wait for the backward pass.
    if (layer_by_layer && scratch_->reuses_workspace() && sum <= kMostDecodedBytes)
      return std::max({sum, first + attention, loss});
    return std::max(largest, loss);
  }

  const MemoryRequest& request_;
  const ModelConfig& model_;
  const std::unique_ptr<OpScratch> scratch_;
  const DType dtype_;
  const int64_t tokens_;  // of a micro-batch
  MemoryPlan plan_;
};

int64_t DeviceBytes(const MemoryPlan& plan) {
  return std::accumulate(plan.bytes.begin(), plan.bytes.end(), int64_t{0});
}

// Whatever the policy, an input, and a layer: by taking layouts from one another.
LayerChain ChainOf(TrainingLayout& layout, const MemoryRequest& request) {
  const int64_t layers = request.model.num_layers;
  const auto bytes = [&](int64_t per_segment, int64_t kept) {
    return DeviceBytes(layout.Plan({.layers_per_segment = per_segment, .kept_layers = kept}));
  };
  LayerChain chain;
  chain.num_layers = layers;
  chain.input_bytes = TensorBytes(OpScratch::For(request)->activation_dtype(),
                                  request.batch * request.sequence * request.model.hidden_size);
  // One more layer kept is an input less.
  chain.layer_bytes = layers > 2 ? bytes(1, 2) - bytes(1, 1) + chain.input_bytes : bytes(1, layers);
  chain.fixed_bytes =
      std::max<int64_t>(0, bytes(1, 1) - layers * chain.input_bytes - chain.layer_bytes);
  return chain;
}

}  // namespace

absl::StatusOr<MemoryPlan> PlanEngineTraining(const MemoryRequest& request) {
  ASSIGN_OR_RETURN(const ActivationPolicy policy,
                   ParseActivationPolicy(request.checkpointing, request.model.num_layers));
  const ModelBytes weights = CountModelBytes(request.model, QuantOf(request));
  TrainingLayout layout(request);
  LayerChain chain = ChainOf(layout, request);
  chain.fixed_bytes += weights.total();
  ActivationCheckpointing checkpointing = policy.checkpointing;
  if (policy.fits_to_memory) {
    checkpointing = {.layers_per_segment = request.model.num_layers, .keeps_act = true};
    const int64_t room = request.budget_bytes - weights.total();
    if (request.budget_bytes > 0 && DeviceBytes(layout.Plan(checkpointing)) > room) {
      checkpointing = FitSegments(chain, request.budget_bytes);
    }
  }
  MemoryPlan plan = layout.Plan(checkpointing);
  plan.bytes[static_cast<int>(Kind::kWeights)] = weights.values;
  plan.bytes[static_cast<int>(Kind::kQuantConstants)] = weights.constants;
  plan.chain = chain;
  return plan;
}

}  // namespace lorad
