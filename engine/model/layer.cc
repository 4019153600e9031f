#include "engine/model/layer.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/core/status_macros.h"

namespace lorad {
namespace {

using P = Projection;

// [tokens, heads, head_dim] as the matrix that linear layers read and write.
TensorView Flat(const TensorView& view) {
  if (view.shape.num_dims() != 3) return view;
  return {view.data, view.dtype, {view.shape[0], view.shape[1] * view.shape[2]}};
}

// x without values, for workspace queries.
TensorView Unplaced(DType dtype, int64_t rows, int64_t columns) {
  return {nullptr, dtype, {rows, columns}};
}

// What the steps of one layer share.
class LayerRun {
 public:
  LayerRun(int64_t layer, const LayerContext& context, Stream& stream)
      : layer_(static_cast<int32_t>(layer)),
        context_(context),
        weights_(context.model.layer(layer)),
        ops_(context.backend.ops()),
        stream_(stream) {}

  const LayerWeights& weights() const { return weights_; }
  Ops& ops() const { return ops_; }
  float eps() const { return static_cast<float>(context_.model.config().rms_norm_eps); }
  float attention_scale() const { return AttentionScale(context_.model.config()); }

  absl::Status Copy(const TensorView& to, const TensorView& from) const {
    return context_.backend.Copy(to.data, from.data, from.size_bytes(), stream_);
  }

  LinearTerm Term(Projection projection, const TensorView& y) const {
    const LinearWeights& linear = weights_[projection];
    LinearTerm term{
        .weight = linear.weight, .bias = linear.bias, .lora = {}, .dropout = {}, .y = Flat(y)};
    if (context_.lora != nullptr) {
      const ModuleId id{layer_, projection};
      term.lora = context_.lora->Segments(id);
      term.dropout = context_.lora->Dropout(id);
    }
    return term;
  }

  absl::Status Linear(const TensorView& x, absl::Span<LinearTerm> terms, bool accumulate) const {
    return ops_.Linear({.x = Flat(x),
                        .terms = terms,
                        .accumulate = accumulate,
                        .row_invariant = context_.row_invariant,
                        .workspace = context_.workspace},
                       stream_);
  }

  LinearBackwardTerm BackwardTerm(Projection projection, const TensorView& dy) const {
    const LinearTerm forward = Term(projection, dy);
    return {forward.weight, forward.lora, forward.dropout, forward.y};
  }

  absl::Status LinearBackward(const TensorView& x, absl::Span<LinearBackwardTerm> terms,
                              const TensorView& dx) const {
    return ops_.LinearBackward({.x = Flat(x),
                                .terms = terms,
                                .dx = Flat(dx),
                                .accumulate = false,
                                .workspace = context_.workspace},
                               stream_);
  }

  absl::Status Rope(const TensorView& x, bool inverse) const {
    return ops_.Rope({x, context_.positions, context_.model.rope_inv_freq(), inverse}, stream_);
  }

 private:
  const int32_t layer_;
  const LayerContext& context_;
  const LayerWeights& weights_;
  Ops& ops_;
  Stream& stream_;
};

absl::Status AttentionForward(int64_t layer, const LayerRun& run, LayerAttention& attention,
                              LayerActivations& act, const TensorView& h, Stream& stream) {
  RETURN_IF_ERROR(run.ops().RmsNorm(
      {act.x, run.weights().input_norm, act.norm1, act.inv_rms1, run.eps()}, stream));
  std::array<LinearTerm, 3> qkv = {run.Term(P::kQ, act.q), run.Term(P::kK, act.k),
                                   run.Term(P::kV, act.v)};
  RETURN_IF_ERROR(run.Linear(act.norm1, absl::MakeSpan(qkv), /*accumulate=*/false));
  RETURN_IF_ERROR(run.Rope(act.q, /*inverse=*/false));
  RETURN_IF_ERROR(run.Rope(act.k, /*inverse=*/false));
  RETURN_IF_ERROR(attention.Attend(layer, act.q, act.k, act.v, act.o, stream));
  if (h.data != act.x.data) RETURN_IF_ERROR(run.Copy(h, act.x));
  std::array<LinearTerm, 1> o = {run.Term(P::kO, h)};
  return run.Linear(act.o, absl::MakeSpan(o), /*accumulate=*/true);
}

absl::Status MlpForward(const LayerRun& run, LayerActivations& act, const TensorView& h,
                        const TensorView& y, Stream& stream) {
  RETURN_IF_ERROR(run.ops().RmsNorm(
      {h, run.weights().post_attention_norm, act.norm2, act.inv_rms2, run.eps()}, stream));
  std::array<LinearTerm, 2> gate_up = {run.Term(P::kGate, act.gate), run.Term(P::kUp, act.up)};
  RETURN_IF_ERROR(run.Linear(act.norm2, absl::MakeSpan(gate_up), /*accumulate=*/false));
  RETURN_IF_ERROR(run.ops().SwiGlu({act.gate, act.up, act.act}, stream));
  if (y.data != h.data) RETURN_IF_ERROR(run.Copy(y, h));
  std::array<LinearTerm, 1> down = {run.Term(P::kDown, y)};
  return run.Linear(act.act, absl::MakeSpan(down), /*accumulate=*/true);
}

// What the backward passes of the two blocks take from the arena.
struct MlpScratch {
  TensorView dact, dnorm;
};
absl::StatusOr<MlpScratch> AllocateMlpScratch(const LayerActivations& act, Arena& arena) {
  MlpScratch scratch;
  ASSIGN_OR_RETURN(scratch.dact, arena.Allocate(act.act.dtype, act.act.shape));
  ASSIGN_OR_RETURN(scratch.dnorm, arena.Allocate(act.norm2.dtype, act.norm2.shape));
  return scratch;
}
struct AttentionScratch {
  TensorView d_o, dq, dk, dv, dnorm;
};
absl::StatusOr<AttentionScratch> AllocateAttentionScratch(const LayerActivations& act,
                                                          Arena& arena) {
  AttentionScratch scratch;
  ASSIGN_OR_RETURN(scratch.d_o, arena.Allocate(act.o.dtype, act.o.shape));
  ASSIGN_OR_RETURN(scratch.dq, arena.Allocate(act.q.dtype, act.q.shape));
  ASSIGN_OR_RETURN(scratch.dk, arena.Allocate(act.k.dtype, act.k.shape));
  ASSIGN_OR_RETURN(scratch.dv, arena.Allocate(act.v.dtype, act.v.shape));
  ASSIGN_OR_RETURN(scratch.dnorm, arena.Allocate(act.norm1.dtype, act.norm1.shape));
  return scratch;
}

// dL/dh into dy, which holds dL/dy.
absl::Status MlpBackward(const LayerRun& run, LayerActivations& act, const TensorView& dy,
                         Arena& arena, Stream& stream) {
  ASSIGN_OR_RETURN(const MlpScratch scratch, AllocateMlpScratch(act, arena));
  const auto& [dact, dnorm] = scratch;
  std::array<LinearBackwardTerm, 1> down = {run.BackwardTerm(P::kDown, dy)};
  RETURN_IF_ERROR(run.LinearBackward(act.act, absl::MakeSpan(down), dact));
  RETURN_IF_ERROR(run.ops().SwiGluBackward(
      {dact, act.gate, act.up, /*dgate=*/act.gate, /*dup=*/act.up}, stream));
  std::array<LinearBackwardTerm, 2> gate_up = {run.BackwardTerm(P::kGate, act.gate),
                                               run.BackwardTerm(P::kUp, act.up)};
  RETURN_IF_ERROR(run.LinearBackward(act.norm2, absl::MakeSpan(gate_up), dnorm));
  return run.ops().RmsNormBackward(
      {dnorm, act.h, run.weights().post_attention_norm, act.inv_rms2, dy, /*accumulate=*/true},
      stream);
}

// dL/dx into dy, which holds dL/dh.
absl::Status AttentionBlockBackward(const LayerRun& run, ConstTensorView cu_seqlens,
                                    LayerActivations& act, const TensorView& dy, Arena& arena,
                                    Stream& stream) {
  ASSIGN_OR_RETURN(const AttentionScratch scratch, AllocateAttentionScratch(act, arena));
  const auto& [d_o, dq, dk, dv, dnorm] = scratch;
  std::array<LinearBackwardTerm, 1> o = {run.BackwardTerm(P::kO, dy)};
  RETURN_IF_ERROR(run.LinearBackward(act.o, absl::MakeSpan(o), d_o));
  RETURN_IF_ERROR(run.ops().AttentionBackward({.dout = d_o,
                                               .q = act.q,
                                               .k = act.k,
                                               .v = act.v,
                                               .o = act.o,
                                               .lse = act.lse,
                                               .cu_seqlens = cu_seqlens,
                                               .dq = dq,
                                               .dk = dk,
                                               .dv = dv,
                                               .scale = run.attention_scale()},
                                              stream));
  RETURN_IF_ERROR(run.Rope(dq, /*inverse=*/true));
  RETURN_IF_ERROR(run.Rope(dk, /*inverse=*/true));
  std::array<LinearBackwardTerm, 3> qkv = {run.BackwardTerm(P::kQ, dq), run.BackwardTerm(P::kK, dk),
                                           run.BackwardTerm(P::kV, dv)};
  RETURN_IF_ERROR(run.LinearBackward(act.norm1, absl::MakeSpan(qkv), dnorm));
  return run.ops().RmsNormBackward(
      {dnorm, act.x, run.weights().input_norm, act.inv_rms1, dy, /*accumulate=*/true}, stream);
}

// Linear layers [kGroups[g], kGroups[g + 1]) of kAllProjections share one op call.
constexpr std::array<int, 5> kGroups = {0, 3, 4, 6, 7};

// Scratch of the op calls of one group, forward and, if asked, backward.
int64_t GroupWorkspaceBytes(const LayerWeights& weights, Ops& ops, DType dtype, int64_t num_tokens,
                            int group, const LayerWorkspaceOptions& options) {
  std::vector<LoraSegment> segments(kNumProjections);  // spans point into it
  std::vector<LinearTerm> terms;
  std::vector<LinearBackwardTerm> backward_terms;
  TensorView x;
  for (int i = kGroups[group]; i < kGroups[group + 1]; ++i) {
    const WeightView& weight = weights[kAllProjections[i]].weight;
    const TensorView y = Unplaced(dtype, num_tokens, weight.out_features);
    x = Unplaced(dtype, num_tokens, weight.in_features);
    segments[i].row_end = num_tokens;
    segments[i].a = Unplaced(dtype, options.max_rank, weight.in_features);
    segments[i].b = Unplaced(dtype, weight.out_features, options.max_rank);
    const absl::Span<LoraSegment> lora(&segments[i], options.max_rank > 0 ? 1 : 0);
    // Any probability but 0: what is dropped is not needed for the size.
    LoraDropout dropout;
    dropout.probability = options.dropout ? 0.5f : 0.0f;
    terms.push_back({.weight = weight, .bias = {}, .lora = lora, .dropout = dropout, .y = y});
    backward_terms.push_back({weight, lora, dropout, y});
  }
  const int64_t forward = ops.LinearWorkspaceBytes({.x = x,
                                                    .terms = absl::MakeSpan(terms),
                                                    .accumulate = false,
                                                    .row_invariant = options.row_invariant,
                                                    .workspace = {}});
  if (!options.backward) return forward;
  return std::max(forward,
                  ops.LinearBackwardWorkspaceBytes({.x = x,
                                                    .terms = absl::MakeSpan(backward_terms),
                                                    .dx = x,
                                                    .accumulate = false,
                                                    .workspace = {}}));
}

}  // namespace

float AttentionScale(const ModelConfig& config) {
  return static_cast<float>(1 / std::sqrt(static_cast<double>(config.head_dim)));
}

absl::StatusOr<LayerActivations> AllocateLayerActivations(const ModelConfig& config,
                                                          const Backend& backend,
                                                          int64_t num_tokens, bool for_backward,
                                                          Arena& arena) {
  const DType dtype = backend.activation_dtype();
  const DType statistics = dtype == DType::kF64 ? DType::kF64 : DType::kF32;
  const Shape hidden = {num_tokens, config.hidden_size};
  const Shape q = {num_tokens, config.num_heads, config.head_dim};
  const Shape kv = {num_tokens, config.num_kv_heads, config.head_dim};
  const Shape mlp = {num_tokens, config.intermediate_size};
  LayerActivations act;
  ASSIGN_OR_RETURN(act.norm1, arena.Allocate(dtype, hidden));
  act.norm2 = act.norm1;
  if (for_backward) {
    ASSIGN_OR_RETURN(act.norm2, arena.Allocate(dtype, hidden));
    ASSIGN_OR_RETURN(act.h, arena.Allocate(dtype, hidden));
    ASSIGN_OR_RETURN(act.inv_rms1, arena.Allocate(statistics, {num_tokens}));
    ASSIGN_OR_RETURN(act.inv_rms2, arena.Allocate(statistics, {num_tokens}));
    ASSIGN_OR_RETURN(act.lse, arena.Allocate(statistics, {num_tokens, config.num_heads}));
  }
  const int64_t attention_begin = arena.Mark();
  ASSIGN_OR_RETURN(act.q, arena.Allocate(dtype, q));
  ASSIGN_OR_RETURN(act.k, arena.Allocate(dtype, kv));
  ASSIGN_OR_RETURN(act.v, arena.Allocate(dtype, kv));
  ASSIGN_OR_RETURN(act.o, arena.Allocate(dtype, q));
  const int64_t attention_end = arena.Mark();
  // Attention's tensors are dead when the MLP begins.
  if (!for_backward) arena.Release(attention_begin);
  ASSIGN_OR_RETURN(act.gate, arena.Allocate(dtype, mlp));
  ASSIGN_OR_RETURN(act.up, arena.Allocate(dtype, mlp));
  act.act = act.gate;
  if (for_backward) {
    ASSIGN_OR_RETURN(act.act, arena.Allocate(dtype, mlp));
  }
  arena.Release(std::max(arena.Mark(), attention_end));
  return act;
}

int64_t LayerWorkspaceBytes(const Model& model, Backend& backend, int64_t num_tokens,
                            const LayerWorkspaceOptions& options) {
  int64_t bytes = 0;
  for (int64_t layer = 0; layer < model.config().num_layers; ++layer) {
    for (int group = 0; group + 1 < static_cast<int>(kGroups.size()); ++group) {
      bytes = std::max(
          bytes, GroupWorkspaceBytes(model.layer(layer), backend.ops(), backend.activation_dtype(),
                                     num_tokens, group, options));
    }
  }
  return bytes;
}

absl::Status LayerForward(int64_t layer, const LayerContext& context, LayerAttention& attention,
                          LayerActivations& act, TensorView y, Stream& stream) {
  const LayerRun run(layer, context, stream);
  // When nothing is kept for a backward pass the residual stream is built in y.
  const TensorView h = act.h.empty() ? y : act.h;
  RETURN_IF_ERROR(AttentionForward(layer, run, attention, act, h, stream));
  return MlpForward(run, act, h, y, stream);
}

absl::Status MeasureLayerBackward(const LayerActivations& act, Arena& arena) {
  const int64_t mark = arena.Mark();
  RETURN_IF_ERROR(AllocateMlpScratch(act, arena).status());
  arena.Release(mark);
  RETURN_IF_ERROR(AllocateAttentionScratch(act, arena).status());
  arena.Release(mark);
  return absl::OkStatus();
}

absl::Status LayerBackward(int64_t layer, const LayerContext& context, ConstTensorView cu_seqlens,
                           LayerActivations& act, TensorView dy, Arena& arena, Stream& stream) {
  const LayerRun run(layer, context, stream);
  const int64_t mark = arena.Mark();
  absl::Status status = MlpBackward(run, act, dy, arena, stream);
  arena.Release(mark);
  if (status.ok()) status = AttentionBlockBackward(run, cu_seqlens, act, dy, arena, stream);
  arena.Release(mark);
  return status;
}

}  // namespace lorad
