#include "engine/train/model_pass.h"

#include <algorithm>
#include <utility>

#include "engine/core/check.h"
#include "engine/core/checked_math.h"
#include "engine/core/status_macros.h"
#include "engine/ops/ops.h"

namespace lorad {
namespace {

// Attention over packed sequences that keeps the log-sum-exp for the backward pass.
class PackedAttention final : public LayerAttention {
 public:
  PackedAttention(Ops& ops, ConstTensorView cu_seqlens, TensorView lse, float scale)
      : ops_(ops), cu_seqlens_(cu_seqlens), lse_(lse), scale_(scale) {}

  absl::Status Attend(int64_t, ConstTensorView q, ConstTensorView k, ConstTensorView v,
                      TensorView o, Stream& stream) override {
    return ops_.Attention(
        {.q = q, .k = k, .v = v, .cu_seqlens = cu_seqlens_, .o = o, .lse = lse_, .scale = scale_},
        stream);
  }

 private:
  Ops& ops_;
  ConstTensorView cu_seqlens_;
  TensorView lse_;
  const float scale_;
};

// Statistics (norms, log-sum-exp, losses) are kept in fp32 whatever the activations are.
DType StatisticsType(const Backend& backend) {
  return backend.activation_dtype() == DType::kF64 ? DType::kF64 : DType::kF32;
}

}  // namespace

ModelPass::ModelPass(const Model& model, Backend& backend, const TrainableAdapter& adapter,
                     const PassOptions& options)
    : model_(model),
      backend_(backend),
      backward_(options.backward),
      dropout_(options.dropout),
      layers_per_segment_(options.backward ? options.layers_per_segment : 1),
      lora_(adapter, model.config().num_layers, options.backward) {}

absl::StatusOr<int64_t> ModelPass::Measure(int64_t num_tokens, Arena& arena) {
  LORAD_CHECK(arena.measuring());
  // A sample has at least two tokens: one in the loss and one before it.
  const int64_t samples = num_tokens / 2 + 1;
  RETURN_IF_ERROR(Layout(num_tokens, samples, arena));
  if (backward_) RETURN_IF_ERROR(MeasureLayerBackward(sets_[0].act, arena));
  return workspace_.size_bytes();
}

absl::Status ModelPass::Layout(int64_t num_tokens, int64_t num_samples, Arena& arena) {
  const int64_t hidden = model_.config().hidden_size;
  const DType dtype = backend_.activation_dtype();
  ASSIGN_OR_RETURN(ids_, arena.Allocate(DType::kI32, {num_tokens}));
  ASSIGN_OR_RETURN(labels_, arena.Allocate(DType::kI32, {num_tokens}));
  ASSIGN_OR_RETURN(positions_, arena.Allocate(DType::kI32, {num_tokens}));
  ASSIGN_OR_RETURN(cu_seqlens_, arena.Allocate(DType::kI32, {num_samples + 1}));
  ASSIGN_OR_RETURN(token_keys_, arena.Allocate(DType::kU64, {num_tokens}));
  RETURN_IF_ERROR(LayoutLayers(num_tokens, arena));
  hidden_ = xs_.back();  // the norm works in place unless its input is needed again
  if (backward_) {
    ASSIGN_OR_RETURN(hidden_, arena.Allocate(dtype, {num_tokens, hidden}));
    ASSIGN_OR_RETURN(inv_rms_, arena.Allocate(StatisticsType(backend_), {num_tokens}));
  }
  ASSIGN_OR_RETURN(workspace_, arena.Allocate(DType::kU8, {WorkspaceBytes(num_tokens)}));
  return absl::OkStatus();
}

absl::Status ModelPass::LayoutLayers(int64_t num_tokens, Arena& arena) {
  const ModelConfig& config = model_.config();
  const DType dtype = backend_.activation_dtype();
  const Shape shape = {num_tokens, config.hidden_size};
  xs_.assign(config.num_layers + 1, {});
  sets_.clear();
  if (!backward_) {
    ASSIGN_OR_RETURN(const TensorView x, arena.Allocate(dtype, shape));
    std::fill(xs_.begin(), xs_.end(), x);
  }
  for (int64_t layer = 0; backward_ && layer <= config.num_layers; ++layer) {
    // Inputs of segments are kept for the whole pass; those within share memory across segments.
    const bool shared = layer % layers_per_segment_ != 0 && layer > layers_per_segment_ &&
                        layer < config.num_layers;
    if (shared) {
      xs_[layer] = xs_[layer % layers_per_segment_];
      continue;
    }
    ASSIGN_OR_RETURN(xs_[layer], arena.Allocate(dtype, shape));
  }
  for (int64_t i = 0; i < layers_per_segment_; ++i) {
    LayerSet set;
    ASSIGN_OR_RETURN(set.act,
                     AllocateLayerActivations(config, backend_, num_tokens, backward_, arena));
    ASSIGN_OR_RETURN(set.xa, lora_.AllocateXa(num_tokens, dtype, arena));
    sets_.push_back(set);
  }
  return absl::OkStatus();
}

int64_t ModelPass::LossRows(int64_t num_tokens) const {
  // A slice of the loss, forward and backward through the head, costs what a layer forward costs.
  const ModelConfig& config = model_.config();
  int64_t layer_parameters = 0;
  for (const Projection p : kAllProjections)
    layer_parameters += InFeatures(config, p) * OutFeatures(config, p);
  constexpr int64_t kLeastRows = 256;  // below it the head's matrix product is bound by its weights
  const int64_t head_parameters = config.vocab_size * config.hidden_size;
  const double rows = static_cast<double>(num_tokens) * static_cast<double>(layer_parameters) /
                      (2.0 * static_cast<double>(head_parameters));
  return std::clamp(static_cast<int64_t>(rows), std::min(kLeastRows, num_tokens), num_tokens);
}

int64_t ModelPass::WorkspaceBytes(int64_t num_tokens) const {
  const int64_t rows = LossRows(num_tokens);
  const Shape shape = {rows, model_.config().hidden_size};
  const LinearCrossEntropyArgs loss{.hidden = {nullptr, backend_.activation_dtype(), shape},
                                    .head = model_.head(),
                                    .labels = {nullptr, DType::kI32, {rows}},
                                    .loss = {nullptr, StatisticsType(backend_), {rows}},
                                    .dhidden = {nullptr, backend_.activation_dtype(), shape},
                                    .workspace = {}};
  const LayerWorkspaceOptions layer{.row_invariant = false,
                                    .backward = backward_,
                                    .max_rank = lora_.max_rank(),
                                    .dropout = dropout_};
  return std::max(LayerWorkspaceBytes(model_, backend_, num_tokens, layer),
                  backend_.ops().LinearCrossEntropyWorkspaceBytes(loss));
}

bool ModelPass::InLastSegment(int64_t layer) const {
  const int64_t last = model_.config().num_layers - 1;
  return layer / layers_per_segment_ == last / layers_per_segment_;
}

void ModelPass::DrawUpSlices() {
  using Kind = Slice::Kind;
  const int64_t num_layers = model_.config().num_layers, tokens = input_.batch->num_tokens();
  slices_.clear();
  next_ = 0;
  slices_.push_back({Kind::kEmbedding});
  for (int64_t layer = 0; layer < num_layers; ++layer) slices_.push_back({Kind::kForward, layer});
  const int64_t rows = LossRows(tokens);
  for (int64_t row = 0; row < tokens; row += rows)
    slices_.push_back({Kind::kLoss, row, std::min(row + rows, tokens)});
  if (!backward_) return;
  for (int64_t end = num_layers; end > lora_.lowest_layer();) {
    const int64_t begin = (end - 1) / layers_per_segment_ * layers_per_segment_;
    for (int64_t layer = begin; end < num_layers && layer < end; ++layer)
      slices_.push_back({Kind::kRecompute, layer});
    for (int64_t layer = end - 1; layer >= std::max(begin, lora_.lowest_layer()); --layer)
      slices_.push_back({Kind::kBackward, layer});
    end = begin;
  }
}

absl::Status ModelPass::Begin(const PassInput& input, Arena& arena, Stream& stream) {
  input_ = input;
  arena_ = &arena;
  RETURN_IF_ERROR(Layout(input.batch->num_tokens(), input.batch->num_samples(), arena));
  lora_.SetBatch(input.batch->num_tokens(), input.dropout, token_keys_);
  DrawUpSlices();
  return Upload(stream);
}

absl::Status ModelPass::Upload(Stream& stream) {
  const MicroBatch& batch = *input_.batch;
  const std::pair<TensorView, const void*> copies[] = {{ids_, batch.ids.data()},
                                                       {labels_, batch.labels.data()},
                                                       {positions_, batch.positions.data()},
                                                       {cu_seqlens_, batch.cu_seqlens.data()},
                                                       {token_keys_, batch.token_keys.data()}};
  for (const auto& [to, from] : copies)
    RETURN_IF_ERROR(backend_.Copy(to.data, from, to.size_bytes(), stream));
  return absl::OkStatus();
}

absl::StatusOr<bool> ModelPass::Advance(Stream& stream) {
  LORAD_CHECK(next_ < slices_.size());
  RETURN_IF_ERROR(Run(slices_[next_], stream));
  return ++next_ < slices_.size();
}

absl::Status ModelPass::Run(const Slice& slice, Stream& stream) {
  switch (slice.kind) {
    case Slice::Kind::kEmbedding:
      return Embed(stream);
    case Slice::Kind::kForward: {
      // What will be computed again need not be kept apart.
      const bool keep = backward_ && InLastSegment(slice.begin);
      RETURN_IF_ERROR(Forward(slice.begin, keep ? KeptSet(slice.begin) : sets_[0], stream));
      return slice.begin + 1 == model_.config().num_layers ? FinalNorm(stream) : absl::OkStatus();
    }
    case Slice::Kind::kLoss: {
      RETURN_IF_ERROR(Loss(slice.begin, slice.end, stream));
      const bool last = slice.end == input_.batch->num_tokens();
      return last && backward_ ? FinalNormBackward(stream) : absl::OkStatus();
    }
    case Slice::Kind::kRecompute:
      return Forward(slice.begin, KeptSet(slice.begin), stream);
    case Slice::Kind::kBackward:
      return Backward(slice.begin, stream);
  }
  return absl::OkStatus();
}

absl::Status ModelPass::Embed(Stream& stream) {
  return backend_.ops().Embedding({.ids = ids_, .table = model_.embedding(), .out = xs_[0]},
                                  stream);
}

ModelPass::LayerSet& ModelPass::Bind(int64_t layer, LayerSet& set) {
  lora_.Bind(layer, set.xa);
  set.act.x = xs_[layer];
  return set;
}

LayerContext ModelPass::Context() {
  return {.model = model_,
          .backend = backend_,
          .positions = positions_,
          .lora = &lora_,
          .row_invariant = false,
          .workspace = workspace_};
}

absl::Status ModelPass::Forward(int64_t layer, LayerSet& set, Stream& stream) {
  Bind(layer, set);
  PackedAttention attention(backend_.ops(), cu_seqlens_, set.act.lse,
                            AttentionScale(model_.config()));
  return LayerForward(layer, Context(), attention, set.act, xs_[layer + 1], stream);
}

absl::Status ModelPass::FinalNorm(Stream& stream) {
  return backend_.ops().RmsNorm({.x = xs_.back(),
                                 .gamma = model_.final_norm(),
                                 .y = hidden_,
                                 .inv_rms = inv_rms_,
                                 .eps = static_cast<float>(model_.config().rms_norm_eps)},
                                stream);
}

absl::Status ModelPass::Loss(int64_t row_begin, int64_t row_end, Stream& stream) {
  const TensorView hidden = Rows(hidden_, row_begin, row_end);
  return backend_.ops().LinearCrossEntropy({.hidden = hidden,
                                            .head = model_.head(),
                                            .labels = Rows(labels_, row_begin, row_end),
                                            .loss = Rows(input_.loss, row_begin, row_end),
                                            .dhidden = backward_ ? hidden : TensorView{},
                                            .grad_scale = input_.grad_scale,
                                            .workspace = workspace_},
                                           stream);
}

absl::Status ModelPass::FinalNormBackward(Stream& stream) {
  return backend_.ops().RmsNormBackward({.dy = hidden_,
                                         .x = xs_.back(),
                                         .gamma = model_.final_norm(),
                                         .inv_rms = inv_rms_,
                                         .dx = hidden_},
                                        stream);
}

absl::Status ModelPass::Backward(int64_t layer, Stream& stream) {
  LayerSet& set = Bind(layer, KeptSet(layer));
  return LayerBackward(layer, Context(), cu_seqlens_, set.act, hidden_, *arena_, stream);
}

}  // namespace lorad
