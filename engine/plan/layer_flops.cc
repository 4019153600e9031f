#include "engine/plan/layer_flops.h"

#include <algorithm>

namespace lorad {
namespace {

using P = Projection;
using Wide = absl::int128;

// 0 + 1 + ... + (n - 1)
Wide SumBelow(Wide n) { return n * (n - 1) / 2; }

}  // namespace

PassRows PackedRowsOf(absl::Span<const SequenceGroup> sequences, const FlopTiles& tiles) {
  PassRows rows;
  for (const SequenceGroup& group : sequences) {
    const Wide length = group.length, count = group.count;
    rows.tokens += count * length;
    rows.pairs += count * SumBelow(length + 1);
    // Query i of a tile of n misses the n - 1 - i keys behind it.
    const Wide queries = tiles.queries, full = length / queries, rest = length % queries;
    rows.masked += count * (full * SumBelow(queries) + SumBelow(rest));
    // Token t comes after t / keys tiles of keys.
    const Wide keys = tiles.keys, before = length / keys;
    rows.rescaled += count * (keys * SumBelow(before) + before * (length % keys));
  }
  if (rows.tokens > 0) rows.decodings = (rows.tokens - 1) / tiles.rows;
  return rows;
}

LayerFlops::LayerFlops(const AdaptedModel& model, const PassRows& rows, const Options& options,
                       FlopSheet& sheet)
    : config_(model.config),
      quant_(model.quant),
      rows_(rows),
      options_(options),
      sheet_(sheet),
      ranks_(model.config.num_layers * kNumProjections),
      lowest_layer_(model.config.num_layers) {
  for (const AdaptedModule& module : model.modules) {
    ranks_[module.id.index()] = module.rank;
    lowest_layer_ = std::min<int64_t>(lowest_layer_, module.id.layer);
  }
}

void LayerFlops::Forward(int64_t layer, FlopPhase phase, bool with_down) {
  Norm(phase);
  Linears(layer, PlanOp::kQkv, {P::kQ, P::kK, P::kV}, phase);
  Rope(phase);
  Attention(phase);
  Linears(layer, PlanOp::kOutput, {P::kO}, phase);
  Norm(phase);
  Linears(layer, PlanOp::kGateUp, {P::kGate, P::kUp}, phase);
  if (!with_down) return;
  SwiGlu(phase);
  Linears(layer, PlanOp::kDown, {P::kDown}, phase);
}

// An adapted module's gradient wants the module's input, which is computed again where it is not
// kept.
void LayerFlops::Backward(int64_t layer) {
  if (!options_.keeps_act && Adapted(layer, {P::kDown})) SwiGlu(FlopPhase::kRecompute);
  LinearsBackward(layer, PlanOp::kDown, {P::kDown});
  SwiGlu(FlopPhase::kBackward);

  if (Adapted(layer, {P::kGate, P::kUp})) Norm(FlopPhase::kRecompute);
  LinearsBackward(layer, PlanOp::kGateUp, {P::kGate, P::kUp});
  NormBackward(/*accumulate=*/true);

  LinearsBackward(layer, PlanOp::kOutput, {P::kO});
  AttentionBackward();
  Rope(FlopPhase::kBackward);

  if (Adapted(layer, {P::kQ, P::kK, P::kV})) Norm(FlopPhase::kRecompute);
  LinearsBackward(layer, PlanOp::kQkv, {P::kQ, P::kK, P::kV});
  NormBackward(/*accumulate=*/true);
}

bool LayerFlops::Adapted(int64_t layer, Projections projections) const {
  return std::any_of(projections.begin(), projections.end(),
                     [&](Projection p) { return rank(layer, p) > 0; });
}

void LayerFlops::Linears(int64_t layer, PlanOp op, Projections projections, FlopPhase phase) {
  for (const Projection p : projections) {
    const Wide in = InFeatures(config_, p), out = OutFeatures(config_, p), r = rank(layer, p);
    sheet_.Add(op, phase, 2 * rows_.tokens * in * out);
    if (HasBias(config_, p)) sheet_.Add(op, phase, rows_.tokens * out);
    Decode(in * out, phase);
    if (r == 0) continue;
    // xa = x A^T, then xa B^T, scaled.
    sheet_.Add(PlanOp::kLora, phase, rows_.tokens * (2 * r * in + 2 * r * out + out));
    if (options_.dropout) sheet_.Add(PlanOp::kDropout, phase, 2 * rows_.tokens * in);
  }
}

void LayerFlops::LinearsBackward(int64_t layer, PlanOp op, Projections projections) {
  constexpr FlopPhase kBackward = FlopPhase::kBackward;
  for (const Projection p : projections) {
    const Wide in = InFeatures(config_, p), out = OutFeatures(config_, p), r = rank(layer, p);
    sheet_.Add(op, kBackward, 2 * rows_.tokens * in * out);
    Decode(in * out, kBackward);
    if (r == 0) continue;
    sheet_.Add(PlanOp::kLora, kBackward, rows_.tokens * (2 * r * out + r));  // s = dy B, scaled
    sheet_.Add(PlanOp::kLora, kBackward, 2 * rows_.tokens * r * in);         // dx += s A
    sheet_.Add(PlanOp::kLora, kBackward, out * r * (2 * rows_.tokens + 1));  // dB, scaled
    sheet_.Add(PlanOp::kLora, kBackward, 2 * rows_.tokens * r * in);         // dA
    // Of s A, added to dx, and of x again for dA.
    if (options_.dropout) sheet_.Add(PlanOp::kDropout, kBackward, (3 + 2) * rows_.tokens * in);
  }
}

void LayerFlops::Decode(Wide parameters, FlopPhase phase) {
  if (quant_.format == QuantFormat::kNone) return;
  sheet_.Add(PlanOp::kDequantize, phase, parameters * rows_.passes);
  sheet_.Add(PlanOp::kTiling, phase, parameters * rows_.decodings);
}

void LayerFlops::Attention(FlopPhase phase) {
  const Wide heads = config_.num_heads, d = config_.head_dim;
  sheet_.Add(PlanOp::kScores, phase, heads * rows_.pairs * 2 * d);
  sheet_.Add(PlanOp::kValues, phase, heads * rows_.pairs * 2 * d);
  // Of a pair: the argument (2), the exponential, the sum. Of a row: the largest one scaled, the
  // sum's inverse, the output scaled; log and sum of what the backward pass wants.
  const Wide row = 2 + d + (options_.for_backward ? 2 : 0);
  sheet_.Add(PlanOp::kSoftmax, phase, heads * (4 * rows_.pairs + row * rows_.tokens));
  sheet_.Add(PlanOp::kTiling, phase, heads * (4 * d * rows_.masked + (5 + d) * rows_.rescaled));
}

// q k^T again, dq and dk; dout v^T and dv. Of a pair the weight again (4) and its gradient (3); of
// a row dout * o.
void LayerFlops::AttentionBackward() {
  const Wide heads = config_.num_heads, d = config_.head_dim;
  constexpr FlopPhase kBackward = FlopPhase::kBackward;
  sheet_.Add(PlanOp::kScores, kBackward, heads * rows_.pairs * 3 * 2 * d);
  sheet_.Add(PlanOp::kValues, kBackward, heads * rows_.pairs * 2 * 2 * d);
  sheet_.Add(PlanOp::kSoftmax, kBackward, heads * (7 * rows_.pairs + 2 * d * rows_.tokens));
  sheet_.Add(PlanOp::kTiling, kBackward, heads * rows_.masked * (10 * d + 3));
}

// Four products and two sums for each two features.
void LayerFlops::Rope(FlopPhase phase) {
  const Wide features = config_.q_features() + config_.kv_features();
  sheet_.Add(PlanOp::kRope, phase, 3 * features * rows_.tokens);
}

void LayerFlops::SwiGlu(FlopPhase phase) {
  const Wide each = phase == FlopPhase::kBackward ? 11 : 5;
  sheet_.Add(PlanOp::kSwiGlu, phase, each * config_.intermediate_size * rows_.tokens);
}

void LayerFlops::Norm(FlopPhase phase, Wide rows) {
  sheet_.Add(PlanOp::kNorm, phase, rows * (4 * Wide{config_.hidden_size} + 4));
}

void LayerFlops::NormBackward(bool accumulate) {
  const Wide each = accumulate ? 8 : 7;
  sheet_.Add(PlanOp::kNorm, FlopPhase::kBackward, rows_.tokens * (each * config_.hidden_size + 3));
}

}  // namespace lorad
