// Where the tensors of a layer lie, and how much scratch its ops need.
#include <algorithm>
#include <vector>

#include "engine/core/checked_math.h"
#include "engine/core/status_macros.h"
#include "engine/model/layer.h"

namespace lorad {
namespace {

using P = Projection;

// Linear layers [kGroups[g], kGroups[g + 1]) of kAllProjections are LinearGroup g.
constexpr std::array<int, kNumLinearGroups + 1> kGroups = {0, 3, 4, 6, 7};

// Sizes in elements that the layout is made of.
class LayerSizes {
 public:
  LayerSizes(const ModelConfig& config, Backend& backend, const LayerBatch& batch)
      : config(config),
        tokens(batch.num_tokens),
        dtype(backend.activation_dtype()),
        linear(backend.ops().PreferredLinearLayout()),
        ranks_(batch.ranks) {}

  int64_t Spare(std::initializer_list<Projection> projections) const {
    int64_t rank = 0;
    for (const Projection p : projections) rank += ranks_[static_cast<int>(p)];
    return linear.SpareColumns(rank);
  }

  const ModelConfig& config;
  const int64_t tokens;
  const DType dtype;
  const LinearLayout linear;

 private:
  const LoraRanks ranks_;
};

// [tokens, columns] with `spare` columns behind each row.
absl::StatusOr<TensorView> AllocateMatrix(const LayerSizes& sizes, int64_t columns, int64_t spare,
                                          Arena& arena) {
  ASSIGN_OR_RETURN(TensorView view, arena.Allocate(sizes.dtype, {sizes.tokens, columns + spare}));
  view.shape = {sizes.tokens, columns};
  if (spare > 0) view.row_stride = columns + spare;
  return view;
}

// Matrices of the given widths: slices of one buffer with `spare` columns behind the last, or one
// after another.
template <size_t n>
absl::StatusOr<std::array<TensorView, n>> AllocateGroup(const LayerSizes& sizes,
                                                        const std::array<int64_t, n>& widths,
                                                        int64_t spare, Arena& arena) {
  std::array<TensorView, n> views;
  if (!sizes.linear.side_by_side) {
    for (size_t i = 0; i < n; ++i) {
      ASSIGN_OR_RETURN(views[i], AllocateMatrix(sizes, widths[i], 0, arena));
    }
    return views;
  }
  int64_t total = 0;
  for (const int64_t width : widths) total += width;
  ASSIGN_OR_RETURN(const TensorView all, AllocateMatrix(sizes, total, spare, arena));
  int64_t begin = 0;
  for (size_t i = 0; i < n; ++i) {
    views[i] = Columns(all, begin, begin + widths[i]);
    begin += widths[i];
  }
  return views;
}

TensorView AsHeads(const TensorView& matrix, int64_t heads, int64_t head_dim) {
  return {matrix.data, matrix.dtype, {matrix.shape[0], heads, head_dim}, matrix.row_stride};
}

struct Qkv {
  TensorView q, k, v;
};
absl::StatusOr<Qkv> AllocateQkv(const LayerSizes& sizes, int64_t spare, Arena& arena) {
  const ModelConfig& config = sizes.config;
  const int64_t kv = config.kv_features();
  ASSIGN_OR_RETURN(const auto views,
                   (AllocateGroup<3>(sizes, {config.q_features(), kv, kv}, spare, arena)));
  return Qkv{.q = AsHeads(views[0], config.num_heads, config.head_dim),
             .k = AsHeads(views[1], config.num_kv_heads, config.head_dim),
             .v = AsHeads(views[2], config.num_kv_heads, config.head_dim)};
}

absl::StatusOr<TensorView> AllocateAct(const LayerSizes& sizes, Arena& arena) {
  return AllocateMatrix(sizes, sizes.config.intermediate_size, sizes.Spare({P::kDown}), arena);
}

DType StatisticsType(DType activation) {
  return activation == DType::kF64 ? DType::kF64 : DType::kF32;
}

// x without values, for workspace queries.
TensorView Unplaced(DType dtype, int64_t rows, int64_t columns) {
  return {nullptr, dtype, {rows, columns}};
}

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

// Of any number of sequences of any lengths up to options.max_seqlen.
int64_t AttentionScratchBytes(const ModelConfig& config, Backend& backend, int64_t num_tokens,
                              const LayerWorkspaceOptions& options) {
  const DType dtype = backend.activation_dtype();
  const ConstTensorView q = {nullptr, dtype, {num_tokens, config.num_heads, config.head_dim}};
  const ConstTensorView k = {nullptr, dtype, {num_tokens, config.num_kv_heads, config.head_dim}};
  const ConstTensorView cu_seqlens = {nullptr, DType::kI32, {num_tokens + 1}};
  AttentionArgs forward;
  forward.q = q;
  forward.k = forward.v = k;
  forward.cu_seqlens = cu_seqlens;
  forward.max_seqlen = options.max_seqlen;
  const int64_t bytes = backend.ops().AttentionWorkspaceBytes(forward);
  if (!options.backward) return bytes;
  AttentionBackwardArgs args;
  args.q = args.dout = args.o = q;
  args.k = args.v = k;
  args.max_seqlen = options.max_seqlen;
  args.cu_seqlens = cu_seqlens;
  return std::max(bytes, backend.ops().AttentionBackwardWorkspaceBytes(args));
}

int64_t AttentionBytes(const Model& model, Backend& backend, int64_t num_tokens,
                       const LayerWorkspaceOptions& options) {
  if (!options.packed_attention) return 0;
  return AttentionScratchBytes(model.config(), backend, num_tokens, options);
}

// Whether an op on the group needs the same scratch in both layers.
bool AreAlike(const LayerWeights& a, const LayerWeights& b, int group) {
  for (int i = kGroups[group]; i < kGroups[group + 1]; ++i) {
    const WeightView &one = a[kAllProjections[i]].weight, &other = b[kAllProjections[i]].weight;
    if (one.spec != other.spec || one.out_features != other.out_features ||
        one.in_features != other.in_features) {
      return false;
    }
  }
  return true;
}

int64_t LargestOfLayers(const Model& model, Backend& backend, int64_t num_tokens, int group,
                        const LayerWorkspaceOptions& options) {
  int64_t bytes = 0;
  for (int64_t layer = 0; layer < model.config().num_layers; ++layer) {
    // As a rule all are alike, and a pass asks for each micro-batch.
    if (layer > 0 && AreAlike(model.layer(layer - 1), model.layer(layer), group)) continue;
    bytes = std::max(
        bytes, GroupWorkspaceBytes(model.layer(layer), backend.ops(), backend.activation_dtype(),
                                   num_tokens, group, options));
  }
  return bytes;
}

}  // namespace

absl::Status AllocateLayerScratch(const ModelConfig& config, Backend& backend,
                                  const LayerBatch& batch, Arena& arena, LayerActivations& act) {
  const LayerSizes sizes(config, backend, batch);
  const int64_t spare =
      std::max(sizes.Spare({P::kQ, P::kK, P::kV}), sizes.Spare({P::kGate, P::kUp}));
  ASSIGN_OR_RETURN(act.norm, AllocateMatrix(sizes, config.hidden_size, spare, arena));
  if (!batch.for_backward || batch.keeps_act) return absl::OkStatus();
  ASSIGN_OR_RETURN(act.act, AllocateAct(sizes, arena));
  return absl::OkStatus();
}

absl::Status AllocateLayerActivations(const ModelConfig& config, Backend& backend,
                                      const LayerBatch& batch, Arena& arena,
                                      LayerActivations& act) {
  const LayerSizes sizes(config, backend, batch);
  if (batch.for_backward) {
    const DType statistics = StatisticsType(sizes.dtype);
    ASSIGN_OR_RETURN(act.h, AllocateMatrix(sizes, config.hidden_size, 0, arena));
    ASSIGN_OR_RETURN(act.inv_rms1, arena.Allocate(statistics, {sizes.tokens}));
    ASSIGN_OR_RETURN(act.inv_rms2, arena.Allocate(statistics, {sizes.tokens}));
    ASSIGN_OR_RETURN(act.lse, arena.Allocate(statistics, {sizes.tokens, config.num_heads}));
  }
  const int64_t attention_begin = arena.Mark();
  ASSIGN_OR_RETURN(const Qkv qkv, AllocateQkv(sizes, 0, arena));
  act.q = qkv.q, act.k = qkv.k, act.v = qkv.v;
  ASSIGN_OR_RETURN(const TensorView o,
                   AllocateMatrix(sizes, config.q_features(), sizes.Spare({P::kO}), arena));
  act.o = AsHeads(o, config.num_heads, config.head_dim);
  const int64_t attention_end = arena.Mark();
  // Attention's tensors are dead when the MLP begins.
  if (!batch.for_backward) arena.Release(attention_begin);
  const int64_t width = config.intermediate_size;
  ASSIGN_OR_RETURN(const auto gate_up, (AllocateGroup<2>(sizes, {width, width},
                                                         sizes.Spare({P::kGate, P::kUp}), arena)));
  act.gate = gate_up[0], act.up = gate_up[1];
  if (batch.for_backward && batch.keeps_act) {
    ASSIGN_OR_RETURN(act.act, AllocateAct(sizes, arena));
  }
  if (!batch.for_backward) act.act = act.gate;
  arena.Release(std::max(arena.Mark(), attention_end));
  return absl::OkStatus();
}

absl::StatusOr<TensorView> AllocateResidualGradient(const ModelConfig& config, Backend& backend,
                                                    const LayerBatch& batch, Arena& arena) {
  const LayerSizes sizes(config, backend, batch);
  const int64_t spare = std::max(sizes.Spare({P::kO}), sizes.Spare({P::kDown}));
  return AllocateMatrix(sizes, config.hidden_size, spare, arena);
}

absl::StatusOr<MlpScratch> AllocateMlpScratch(const ModelConfig& config, Backend& backend,
                                              const LayerBatch& batch, Arena& arena) {
  const LayerSizes sizes(config, backend, batch);
  MlpScratch scratch;
  ASSIGN_OR_RETURN(scratch.dact, AllocateMatrix(sizes, config.intermediate_size, 0, arena));
  ASSIGN_OR_RETURN(scratch.dnorm, AllocateMatrix(sizes, config.hidden_size, 0, arena));
  return scratch;
}

absl::StatusOr<AttentionScratch> AllocateAttentionScratch(const ModelConfig& config,
                                                          Backend& backend, const LayerBatch& batch,
                                                          Arena& arena) {
  const LayerSizes sizes(config, backend, batch);
  AttentionScratch scratch;
  ASSIGN_OR_RETURN(const TensorView d_o, AllocateMatrix(sizes, config.q_features(), 0, arena));
  scratch.d_o = AsHeads(d_o, config.num_heads, config.head_dim);
  ASSIGN_OR_RETURN(const Qkv d, AllocateQkv(sizes, sizes.Spare({P::kQ, P::kK, P::kV}), arena));
  scratch.dq = d.q, scratch.dk = d.k, scratch.dv = d.v;
  ASSIGN_OR_RETURN(scratch.dnorm, AllocateMatrix(sizes, config.hidden_size, 0, arena));
  return scratch;
}

absl::Status MeasureLayerBackward(const ModelConfig& config, Backend& backend,
                                  const LayerBatch& batch, Arena& arena) {
  const int64_t mark = arena.Mark();
  RETURN_IF_ERROR(AllocateMlpScratch(config, backend, batch, arena).status());
  arena.Release(mark);
  RETURN_IF_ERROR(AllocateAttentionScratch(config, backend, batch, arena).status());
  arena.Release(mark);
  return absl::OkStatus();
}

int64_t LayerWorkspaceBytes(const Model& model, Backend& backend, int64_t num_tokens,
                            const LayerWorkspaceOptions& options) {
  int64_t bytes = AttentionBytes(model, backend, num_tokens, options);
  for (int group = 0; group < kNumLinearGroups; ++group)
    bytes = std::max(bytes, LargestOfLayers(model, backend, num_tokens, group, options));
  return bytes;
}

LayerWorkspaceParts PartLayerWorkspace(const Model& model, Backend& backend, int64_t num_tokens,
                                       const LayerWorkspaceOptions& options) {
  LayerWorkspaceParts parts;
  for (int group = 0; group < kNumLinearGroups; ++group) {
    parts.begin[group + 1] =
        parts.begin[group] +
        RoundUp(LargestOfLayers(model, backend, num_tokens, group, options), Arena::kAlignment);
  }
  parts.bytes = std::max(parts.begin.back(),
                         parts.begin[1] + AttentionBytes(model, backend, num_tokens, options));
  return parts;
}

TensorView LinearWorkspace(const LayerContext& context, LinearGroup group) {
  if (context.parts == nullptr) return context.workspace;
  const auto& begin = context.parts->begin;
  const int g = static_cast<int>(group);
  return Rows(context.workspace, begin[g], begin[g + 1]);
}

TensorView AttentionWorkspace(const LayerContext& context) {
  if (context.parts == nullptr) return context.workspace;
  return Rows(context.workspace, context.parts->begin[1], context.parts->bytes);
}

}  // namespace lorad
