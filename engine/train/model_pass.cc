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
  PackedAttention(Ops& ops, const SequenceBounds& sequences, TensorView lse, float scale,
                  TensorView workspace)
      : ops_(ops), sequences_(sequences), lse_(lse), scale_(scale), workspace_(workspace) {}

  absl::Status Attend(int64_t, TensorView q, TensorView k, ConstTensorView v, TensorView o,
                      Stream& stream) override {
    return ops_.Attention({.q = q,
                           .k = k,
                           .v = v,
                           .cu_seqlens = sequences_.cu_seqlens,
                           .o = o,
                           .lse = lse_,
                           .scale = scale_,
                           .max_seqlen = sequences_.max_seqlen,
                           .workspace = workspace_},
                          stream);
  }

 private:
  Ops& ops_;
  const SequenceBounds sequences_;
  const TensorView lse_;
  const float scale_;
  const TensorView workspace_;
};

// Decoded weights that may wait for a layer's backward pass: 446 MB for an 8B model. Those of
// larger models take more memory than the time to decode them again is worth.
constexpr int64_t kMaxDecodedBytes = int64_t{512} << 20;

int64_t LongestSequence(const MicroBatch& batch) {
  int64_t longest = 0;
  for (int64_t i = 0; i < batch.num_samples(); ++i)
    longest = std::max<int64_t>(longest, batch.cu_seqlens[i + 1] - batch.cu_seqlens[i]);
  return longest;
}

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
      max_seqlen_(options.max_seqlen),
      segments_(model.config().num_layers,
                options.backward ? options.checkpointing : ActivationCheckpointing{}),
      keeps_decoded_(Recomputes() && options.checkpointing.layers_per_segment == 1 &&
                     backend.ops().PreferredLinearLayout().reuses_workspace),
      keeps_act_(options.backward && options.checkpointing.keeps_act),
      offloads_(options.backward && options.checkpointing.offload),
      offload_(options.offload),
      lora_(adapter, model.config().num_layers, options.backward) {}

absl::StatusOr<int64_t> ModelPass::Measure(int64_t num_tokens, Arena& arena) {
  LORAD_CHECK(arena.measuring());
  // A sample has at least two tokens: one in the loss and one before it.
  const int64_t samples = num_tokens / 2 + 1;
  RETURN_IF_ERROR(Layout(num_tokens, samples, arena));
  if (backward_)
    RETURN_IF_ERROR(MeasureLayerBackward(model_.config(), backend_, Batch(num_tokens), arena));
  return workspace_.size_bytes();
}

absl::Status ModelPass::Layout(int64_t num_tokens, int64_t num_samples, Arena& arena) {
  ASSIGN_OR_RETURN(ids_, arena.Allocate(DType::kI32, {num_tokens}));
  ASSIGN_OR_RETURN(labels_, arena.Allocate(DType::kI32, {num_tokens}));
  ASSIGN_OR_RETURN(positions_, arena.Allocate(DType::kI32, {num_tokens}));
  ASSIGN_OR_RETURN(cu_seqlens_, arena.Allocate(DType::kI32, {num_samples + 1}));
  ASSIGN_OR_RETURN(token_keys_, arena.Allocate(DType::kU64, {num_tokens}));
  RETURN_IF_ERROR(LayoutLayers(num_tokens, arena));
  hidden_ = xs_.back();  // the norm works in place unless its input is needed again
  if (backward_) {
    ASSIGN_OR_RETURN(hidden_,
                     AllocateResidualGradient(model_.config(), backend_, Batch(num_tokens), arena));
    ASSIGN_OR_RETURN(inv_rms_, arena.Allocate(StatisticsType(backend_), {num_tokens}));
  }
  ASSIGN_OR_RETURN(workspace_, arena.Allocate(DType::kU8, {PlanWorkspace(num_tokens)}));
  return absl::OkStatus();
}

// Inputs of segments are kept for the whole pass, or have two windows when they go to the host;
// those within a segment share memory across segments.
absl::Status ModelPass::LayoutInputs(int64_t num_tokens, Arena& arena) {
  const int64_t num_layers = model_.config().num_layers;
  const Shape shape = {num_tokens, model_.config().hidden_size};
  const auto place = [&](TensorView& x) -> absl::Status {
    if (x.shape == shape) return absl::OkStatus();  // already placed, and shared
    ASSIGN_OR_RETURN(x, arena.Allocate(backend_.activation_dtype(), shape));
    return absl::OkStatus();
  };
  std::vector<TensorView> first(offloads_ ? 2 : segments_.count());
  std::vector<TensorView> within(segments_.longest());
  xs_.clear();
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    const int64_t segment = segments_.Index(layer);
    TensorView& x = BeginsSegment(layer) ? first[offloads_ ? segment % 2 : segment]
                                         : within[layer - segments_.Begin(layer)];
    RETURN_IF_ERROR(place(x));
    xs_.push_back(x);
  }
  return place(xs_.emplace_back());
}

absl::Status ModelPass::LayoutLayers(int64_t num_tokens, Arena& arena) {
  const ModelConfig& config = model_.config();
  const DType dtype = backend_.activation_dtype();
  if (backward_) {
    RETURN_IF_ERROR(LayoutInputs(num_tokens, arena));
  } else {
    ASSIGN_OR_RETURN(const TensorView x, arena.Allocate(dtype, {num_tokens, config.hidden_size}));
    xs_.assign(config.num_layers + 1, x);
  }
  sets_.clear();
  const LayerBatch batch = Batch(num_tokens);
  LayerActivations scratch;
  RETURN_IF_ERROR(AllocateLayerScratch(config, backend_, batch, arena, scratch));
  for (int64_t i = 0; i < segments_.longest(); ++i) {
    LayerSet set{.act = scratch, .xa = {}};
    RETURN_IF_ERROR(AllocateLayerActivations(config, backend_, batch, arena, set.act));
    ASSIGN_OR_RETURN(set.xa, lora_.AllocateXa(num_tokens, dtype, arena));
    sets_.push_back(set);
  }
  down_xa_.clear();
  for (int64_t layer = 0; Recomputes() && layer < config.num_layers; ++layer) {
    ASSIGN_OR_RETURN(down_xa_.emplace_back(),
                     lora_.AllocateXa(Projection::kDown, num_tokens, dtype, arena));
  }
  return absl::OkStatus();
}

LayerBatch ModelPass::Batch(int64_t num_tokens) const {
  return {.num_tokens = num_tokens,
          .for_backward = backward_,
          .ranks = lora_.ranks(),
          .keeps_act = keeps_act_};
}

int64_t ModelPass::LossRows(int64_t num_tokens) const {
  // A slice of the loss, forward and backward through the head, costs about what a layer's largest
  // part does: half of the layer forward.
  const ModelConfig& config = model_.config();
  int64_t layer_parameters = 0;
  for (const Projection p : kAllProjections)
    layer_parameters += InFeatures(config, p) * OutFeatures(config, p);
  constexpr int64_t kLeastRows = 512;  // below it the head's matrix product is bound by its weights
  const int64_t head_parameters = config.vocab_size * config.hidden_size;
  const double rows = static_cast<double>(num_tokens) * static_cast<double>(layer_parameters) /
                      (4.0 * static_cast<double>(head_parameters));
  return std::clamp(static_cast<int64_t>(rows), std::min(kLeastRows, num_tokens), num_tokens);
}

int64_t ModelPass::PlanWorkspace(int64_t num_tokens) {
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
                                    .dropout = dropout_,
                                    .packed_attention = true,
                                    .max_seqlen = max_seqlen_};
  const int64_t loss_bytes = backend_.ops().LinearCrossEntropyWorkspaceBytes(loss);
  parts_.reset();
  if (keeps_decoded_) {
    const LayerWorkspaceParts parts = PartLayerWorkspace(model_, backend_, num_tokens, layer);
    if (parts.begin.back() <= kMaxDecodedBytes) {
      parts_ = parts;
      parts_->bytes = std::max(parts.bytes, loss_bytes);
      return parts_->bytes;
    }
  }
  return std::max(LayerWorkspaceBytes(model_, backend_, num_tokens, layer), loss_bytes);
}

bool ModelPass::BeginsSegment(int64_t layer) const {
  return layer < model_.config().num_layers && segments_.Begin(layer) == layer;
}

void ModelPass::DrawUpSlices() {
  using Kind = Work::Kind;
  const int64_t num_layers = model_.config().num_layers, tokens = input_.batch->num_tokens();
  slices_.clear();
  next_ = 0;
  slices_.push_back({Kind::kEmbedding, {SliceKind::kEmbedding, tokens}});
  for (int64_t layer = 0; layer < num_layers; ++layer)
    for (const LinearGroup part : kForwardParts)
      slices_.push_back({Kind::kForward, {ForwardSliceOf(part), tokens}, layer, 0, part});
  const int64_t rows = LossRows(tokens);
  for (int64_t row = 0; row < tokens; row += rows) {
    const int64_t row_end = std::min(row + rows, tokens);
    slices_.push_back({Kind::kLoss, {SliceKind::kLoss, row_end - row}, row, row_end});
  }
  if (!backward_) return;
  for (int64_t end = num_layers; end > lora_.lowest_layer();) {
    const int64_t begin = segments_.Begin(end - 1);
    for (int64_t layer = begin; end < num_layers && layer < end; ++layer)
      for (const LinearGroup part : kForwardParts)
        if (part != LinearGroup::kDown || !EndsSegment(layer))
          slices_.push_back({Kind::kRecompute, {ForwardSliceOf(part), tokens}, layer, 0, part});
    for (int64_t layer = end - 1; layer >= std::max(begin, lora_.lowest_layer()); --layer)
      for (const LinearGroup part : kBackwardParts)
        slices_.push_back({Kind::kBackward, {BackwardSliceOf(part), tokens}, layer, 0, part});
    end = begin;
  }
}

absl::Status ModelPass::Begin(const PassInput& input, Arena& arena, Stream& stream) {
  LORAD_CHECK(!offloads_ || offload_ != nullptr);
  input_ = input;
  arena_ = &arena;
  RETURN_IF_ERROR(Layout(input.batch->num_tokens(), input.batch->num_samples(), arena));
  sequences_ = {.cu_seqlens = cu_seqlens_, .max_seqlen = LongestSequence(*input.batch)};
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

absl::Status ModelPass::Run(const Work& work, Stream& stream) {
  switch (work.kind) {
    case Work::Kind::kEmbedding:
      return Embed(stream);
    case Work::Kind::kForward:
      return ForwardSlice(work.begin, work.part, stream);
    case Work::Kind::kLoss: {
      RETURN_IF_ERROR(Loss(work.begin, work.end, stream));
      const bool last = work.end == input_.batch->num_tokens();
      return last && backward_ ? FinalNormBackward(stream) : absl::OkStatus();
    }
    case Work::Kind::kRecompute:
      return RecomputeSlice(work.begin, work.part, stream);
    case Work::Kind::kBackward:
      return Backward(work.begin, work.part, stream);
  }
  return absl::OkStatus();
}

absl::Status ModelPass::Embed(Stream& stream) {
  RETURN_IF_ERROR(
      backend_.ops().Embedding({.ids = ids_, .table = model_.embedding(), .out = xs_[0]}, stream));
  const bool stores = offloads_ && offload_->GoesOut(0);
  return stores ? offload_->Store(0, xs_[0], stream) : absl::OkStatus();
}

absl::Status ModelPass::ForwardSlice(int64_t layer, LinearGroup part, Stream& stream) {
  const int64_t next = layer + 1;
  LayerSet& set = backward_ && segments_.IsLast(layer) ? KeptSet(layer) : sets_[0];
  const bool offloads = offloads_ && BeginsSegment(next);
  const int64_t segment = offloads ? segments_.Index(next) : 0;
  // The next input takes the window of the one two segments before it.
  if (offloads && part == kForwardParts.front() && segment >= 2)
    RETURN_IF_ERROR(offload_->Wait(segment - 2, stream));
  RETURN_IF_ERROR(Forward(layer, part, set, xs_[next], stream));
  if (part != kForwardParts.back()) return absl::OkStatus();
  if (offloads && offload_->GoesOut(segment))
    RETURN_IF_ERROR(offload_->Store(segment, xs_[next], stream));
  return next == model_.config().num_layers ? FinalNorm(stream) : absl::OkStatus();
}

absl::Status ModelPass::RecomputeSlice(int64_t layer, LinearGroup part, Stream& stream) {
  if (offloads_ && BeginsSegment(layer) && part == kForwardParts.front()) {
    const int64_t segment = segments_.Index(layer);
    // Nothing below the lowest adapted layer is computed again.
    const bool more = segment > 0 && layer > lora_.lowest_layer();
    if (more && offload_->GoesOut(segment - 1))
      RETURN_IF_ERROR(offload_->Fetch(segment - 1, xs_[segments_.Begin(layer - 1)], stream));
    if (offload_->GoesOut(segment)) RETURN_IF_ERROR(offload_->Wait(segment, stream));
  }
  return Forward(layer, part, KeptSet(layer), EndsSegment(layer) ? TensorView{} : xs_[layer + 1],
                 stream);
}

ModelPass::LayerSet& ModelPass::Bind(int64_t layer, LayerSet& set) {
  if (Recomputes()) set.xa[static_cast<int>(Projection::kDown)] = down_xa_[layer];
  lora_.Bind(layer, set.xa);
  set.act.x = xs_[layer];
  return set;
}

LayerContext ModelPass::Context(int64_t layer) {
  return {.model = model_,
          .backend = backend_,
          .positions = positions_,
          .lora = &lora_,
          .row_invariant = false,
          .workspace = workspace_,
          .parts = parts_ ? &*parts_ : nullptr,
          .decoded = parts_ && decoded_layer_ == layer};
}

absl::Status ModelPass::Forward(int64_t layer, LinearGroup part, LayerSet& set, TensorView y,
                                Stream& stream) {
  Bind(layer, set);
  const LayerContext context = Context(layer);
  PackedAttention attention(backend_.ops(), sequences_, set.act.lse,
                            AttentionScale(model_.config()), AttentionWorkspace(context));
  decoded_layer_ = layer;
  return LayerForwardPart(part, layer, context, attention, set.act, y, stream);
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
  decoded_layer_ = -1;  // the loss takes the whole workspace
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

absl::Status ModelPass::Backward(int64_t layer, LinearGroup part, Stream& stream) {
  LayerSet& set = Bind(layer, KeptSet(layer));
  const LayerContext context = Context(layer);
  if (part == kBackwardParts.back()) decoded_layer_ = -1;
  return LayerBackwardPart(part, layer, context, sequences_, Batch(input_.batch->num_tokens()),
                           set.act, hidden_, *arena_, stream);
}

}  // namespace lorad
