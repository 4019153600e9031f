#include "engine/model/layer.h"

#include <cmath>
#include <initializer_list>

#include "engine/core/status_macros.h"

namespace lorad {
namespace {

using P = Projection;

// [tokens, heads, head_dim] as the matrix that linear layers read and write.
TensorView Flat(const TensorView& view) {
  if (view.shape.num_dims() != 3) return view;
  return {view.data, view.dtype, {view.shape[0], view.shape[1] * view.shape[2]}, view.row_stride};
}

// q and k as one tensor of all their heads, where k follows q in each row of one buffer.
bool AreSideBySide(const TensorView& q, const TensorView& k) {
  const char* end = static_cast<const char*>(q.data) + RowElements(q.shape) * SizeOf(q.dtype);
  return k.data == end && q.stride() == k.stride() && !q.dense();
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
  float attention_scale() const { return AttentionScale(context_.model.config()); }

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

  // `residual`, `swiglu` empty: none.
  absl::Status Linear(LinearGroup group, const TensorView& x, absl::Span<LinearTerm> terms,
                      const TensorView& residual, const TensorView& swiglu = {}) const {
    return ops_.Linear({.x = Flat(x),
                        .terms = terms,
                        .row_invariant = context_.row_invariant,
                        .workspace = LinearWorkspace(context_, group),
                        .residual = residual,
                        .swiglu = swiglu},
                       stream_);
  }

  LinearBackwardTerm BackwardTerm(Projection projection, const TensorView& dy) const {
    const LinearTerm forward = Term(projection, dy);
    return {forward.weight, forward.lora, forward.dropout, forward.y};
  }

  // A layer that is computed again leaves out the down projection.
  absl::Status LinearBackward(LinearGroup group, const TensorView& x,
                              absl::Span<LinearBackwardTerm> terms, const TensorView& dx) const {
    return ops_.LinearBackward(
        {.x = Flat(x),
         .terms = terms,
         .dx = Flat(dx),
         .workspace = LinearWorkspace(context_, group),
         .workspace_is_forwards = context_.decoded && group != LinearGroup::kDown},
        stream_);
  }

  bool Adapted(std::initializer_list<Projection> projections) const {
    if (context_.lora == nullptr) return false;
    for (const Projection p : projections)
      if (!context_.lora->Segments({layer_, p}).empty()) return true;
    return false;
  }

  absl::Status Norm(const TensorView& x, ConstTensorView gamma, const TensorView& y,
                    const TensorView& inv_rms) const {
    return ops_.RmsNorm({x, gamma, y, inv_rms, eps()}, stream_);
  }

  absl::Status RopeBoth(const TensorView& q, const TensorView& k, bool inverse) const {
    if (!AreSideBySide(q, k)) {
      RETURN_IF_ERROR(Rope(q, inverse));
      return Rope(k, inverse);
    }
    TensorView both = q;
    both.shape = {q.shape[0], q.shape[1] + k.shape[1], q.shape[2]};
    return Rope(both, inverse);
  }

  TensorView attention_workspace() const { return AttentionWorkspace(context_); }

 private:
  float eps() const { return static_cast<float>(context_.model.config().rms_norm_eps); }
  absl::Status Rope(const TensorView& x, bool inverse) const {
    return ops_.Rope({x, context_.positions, context_.model.rope_inv_freq(), inverse}, stream_);
  }

  const int32_t layer_;
  const LayerContext& context_;
  const LayerWeights& weights_;
  Ops& ops_;
  Stream& stream_;
};

absl::Status QkvForward(const LayerRun& run, const LayerAttention& attention,
                        LayerActivations& act) {
  RETURN_IF_ERROR(run.Norm(act.x, run.weights().input_norm, act.norm, act.inv_rms1));
  std::array<LinearTerm, 3> qkv = {run.Term(P::kQ, act.q), run.Term(P::kK, act.k),
                                   run.Term(P::kV, act.v)};
  RETURN_IF_ERROR(run.Linear(LinearGroup::kQkv, act.norm, absl::MakeSpan(qkv), /*residual=*/{}));
  if (attention.rotates()) return absl::OkStatus();
  return run.RopeBoth(act.q, act.k, /*inverse=*/false);
}

absl::Status OutputForward(int64_t layer, const LayerRun& run, LayerAttention& attention,
                           LayerActivations& act, const TensorView& h, Stream& stream) {
  RETURN_IF_ERROR(attention.Attend(layer, act.q, act.k, act.v, act.o, stream));
  std::array<LinearTerm, 1> o = {run.Term(P::kO, h)};
  return run.Linear(LinearGroup::kOutput, act.o, absl::MakeSpan(o), /*residual=*/act.x);
}

// act.act stays unwritten where no down projection follows: a layer that is computed again.
absl::Status GateUpForward(const LayerRun& run, LayerActivations& act, const TensorView& h,
                           bool down_follows) {
  RETURN_IF_ERROR(run.Norm(h, run.weights().post_attention_norm, act.norm, act.inv_rms2));
  std::array<LinearTerm, 2> gate_up = {run.Term(P::kGate, act.gate), run.Term(P::kUp, act.up)};
  return run.Linear(LinearGroup::kGateUp, act.norm, absl::MakeSpan(gate_up), /*residual=*/{},
                    /*swiglu=*/down_follows ? act.act : TensorView{});
}

absl::Status DownForward(const LayerRun& run, LayerActivations& act, const TensorView& h,
                         const TensorView& y) {
  if (y.empty()) return absl::OkStatus();
  std::array<LinearTerm, 1> down = {run.Term(P::kDown, y)};
  return run.Linear(LinearGroup::kDown, act.act, absl::MakeSpan(down), /*residual=*/h);
}

// Gradients of gate and up into gate and up.
absl::Status DownBackward(const LayerRun& run, bool has_act, LayerActivations& act,
                          const TensorView& dy, const TensorView& dact, Stream& stream) {
  if (!has_act && run.Adapted({P::kDown}))
    RETURN_IF_ERROR(run.ops().SwiGlu({act.gate, act.up, act.act}, stream));
  std::array<LinearBackwardTerm, 1> down = {run.BackwardTerm(P::kDown, dy)};
  RETURN_IF_ERROR(run.LinearBackward(LinearGroup::kDown, act.act, absl::MakeSpan(down), dact));
  return run.ops().SwiGluBackward({dact, act.gate, act.up, /*dgate=*/act.gate, /*dup=*/act.up},
                                  stream);
}

// dL/dh into dy, which holds dL/dy.
absl::Status GateUpBackward(const LayerRun& run, LayerActivations& act, const TensorView& dy,
                            const TensorView& dnorm, Stream& stream) {
  if (run.Adapted({P::kGate, P::kUp}))
    RETURN_IF_ERROR(run.Norm(act.h, run.weights().post_attention_norm, act.norm, {}));
  std::array<LinearBackwardTerm, 2> gate_up = {run.BackwardTerm(P::kGate, act.gate),
                                               run.BackwardTerm(P::kUp, act.up)};
  RETURN_IF_ERROR(
      run.LinearBackward(LinearGroup::kGateUp, act.norm, absl::MakeSpan(gate_up), dnorm));
  return run.ops().RmsNormBackward(
      {dnorm, act.h, run.weights().post_attention_norm, act.inv_rms2, dy, /*accumulate=*/true},
      stream);
}

// Gradients of q, k and v, before their rotation, into the scratch's.
absl::Status OutputBackward(const LayerRun& run, const SequenceBounds& sequences,
                            LayerActivations& act, const TensorView& dy,
                            const AttentionScratch& scratch, Stream& stream) {
  const auto& [d_o, dq, dk, dv, dnorm] = scratch;
  std::array<LinearBackwardTerm, 1> o = {run.BackwardTerm(P::kO, dy)};
  RETURN_IF_ERROR(run.LinearBackward(LinearGroup::kOutput, act.o, absl::MakeSpan(o), d_o));
  RETURN_IF_ERROR(run.ops().AttentionBackward({.dout = d_o,
                                               .q = act.q,
                                               .k = act.k,
                                               .v = act.v,
                                               .o = act.o,
                                               .lse = act.lse,
                                               .cu_seqlens = sequences.cu_seqlens,
                                               .dq = dq,
                                               .dk = dk,
                                               .dv = dv,
                                               .scale = run.attention_scale(),
                                               .max_seqlen = sequences.max_seqlen,
                                               .workspace = run.attention_workspace()},
                                              stream));
  return run.RopeBoth(dq, dk, /*inverse=*/true);
}

// dL/dx into dy, which holds dL/dh.
absl::Status QkvBackward(const LayerRun& run, LayerActivations& act, const TensorView& dy,
                         const AttentionScratch& scratch, Stream& stream) {
  const auto& [d_o, dq, dk, dv, dnorm] = scratch;
  if (run.Adapted({P::kQ, P::kK, P::kV}))
    RETURN_IF_ERROR(run.Norm(act.x, run.weights().input_norm, act.norm, {}));
  std::array<LinearBackwardTerm, 3> qkv = {run.BackwardTerm(P::kQ, dq), run.BackwardTerm(P::kK, dk),
                                           run.BackwardTerm(P::kV, dv)};
  RETURN_IF_ERROR(run.LinearBackward(LinearGroup::kQkv, act.norm, absl::MakeSpan(qkv), dnorm));
  return run.ops().RmsNormBackward(
      {dnorm, act.x, run.weights().input_norm, act.inv_rms1, dy, /*accumulate=*/true}, stream);
}

// Runs a block's backward pass with its scratch, and gives the arena back.
template <typename Allocate, typename Run>
absl::Status WithScratch(Arena& arena, const Allocate& allocate, const Run& run) {
  const int64_t mark = arena.Mark();
  auto scratch = allocate();
  absl::Status status = scratch.status();
  if (status.ok()) status = run(*scratch);
  arena.Release(mark);
  return status;
}

}  // namespace

float AttentionScale(const ModelConfig& config) {
  return static_cast<float>(1 / std::sqrt(static_cast<double>(config.head_dim)));
}

absl::Status LayerForward(int64_t layer, const LayerContext& context, LayerAttention& attention,
                          LayerActivations& act, TensorView y, Stream& stream) {
  for (const LinearGroup part : kForwardParts)
    RETURN_IF_ERROR(LayerForwardPart(part, layer, context, attention, act, y, stream));
  return absl::OkStatus();
}

absl::Status LayerForwardPart(LinearGroup part, int64_t layer, const LayerContext& context,
                              LayerAttention& attention, LayerActivations& act, TensorView y,
                              Stream& stream) {
  const LayerRun run(layer, context, stream);
  // When nothing is kept for a backward pass the residual stream is built in y.
  const TensorView h = act.h.empty() ? y : act.h;
  switch (part) {
    case LinearGroup::kQkv:
      return QkvForward(run, attention, act);
    case LinearGroup::kOutput:
      return OutputForward(layer, run, attention, act, h, stream);
    case LinearGroup::kGateUp:
      return GateUpForward(run, act, h, /*down_follows=*/!y.empty());
    case LinearGroup::kDown:
      return DownForward(run, act, h, y);
  }
  return absl::OkStatus();
}

absl::Status LayerBackward(int64_t layer, const LayerContext& context,
                           const SequenceBounds& sequences, const LayerBatch& batch,
                           LayerActivations& act, TensorView dy, Arena& arena, Stream& stream) {
  for (const LinearGroup part : kBackwardParts)
    RETURN_IF_ERROR(
        LayerBackwardPart(part, layer, context, sequences, batch, act, dy, arena, stream));
  return absl::OkStatus();
}

absl::Status LayerBackwardPart(LinearGroup part, int64_t layer, const LayerContext& context,
                               const SequenceBounds& sequences, const LayerBatch& batch,
                               LayerActivations& act, TensorView dy, Arena& arena, Stream& stream) {
  const LayerRun run(layer, context, stream);
  const ModelConfig& config = context.model.config();
  if (part == LinearGroup::kDown || part == LinearGroup::kGateUp) {
    return WithScratch(
        arena, [&] { return AllocateMlpScratch(config, context.backend, batch, arena); },
        [&](const MlpScratch& scratch) {
          return part == LinearGroup::kDown
                     ? DownBackward(run, batch.keeps_act, act, dy, scratch.dact, stream)
                     : GateUpBackward(run, act, dy, scratch.dnorm, stream);
        });
  }
  // Both parts lay out the same scratch at the same place: the second finds what the first left.
  return WithScratch(
      arena, [&] { return AllocateAttentionScratch(config, context.backend, batch, arena); },
      [&](const AttentionScratch& scratch) {
        return part == LinearGroup::kOutput
                   ? OutputBackward(run, sequences, act, dy, scratch, stream)
                   : QkvBackward(run, act, dy, scratch, stream);
      });
}

}  // namespace lorad
