#include "engine/plan/flops.h"

#include <algorithm>

#include "engine/core/status_macros.h"
#include "engine/plan/layer_flops.h"

namespace lorad {
namespace {

using Wide = absl::int128;

// As ModelPass::DrawUpSlices orders it: whole segments from the last, which is still there, each
// computed again without the output of its last layer.
void CountBackwardLayers(const ModelConfig& config, const LayerSegments& segments,
                         LayerFlops& layers) {
  for (int64_t end = config.num_layers; end > layers.lowest_layer();) {
    const int64_t begin = segments.Begin(end - 1);
    for (int64_t layer = begin; end < config.num_layers && layer < end; ++layer)
      layers.Forward(layer, FlopPhase::kRecompute, /*with_down=*/layer + 1 < end);
    for (int64_t layer = end - 1; layer >= std::max(begin, layers.lowest_layer()); --layer)
      layers.Backward(layer);
    end = begin;
  }
}

// The head and the loss of the rows that have a label, both ways.
void CountLoss(const ModelConfig& config, Wide targets, FlopSheet& sheet) {
  const Wide vocab = config.vocab_size, product = 2 * targets * vocab * config.hidden_size;
  sheet.Add(PlanOp::kHead, FlopPhase::kForward, product);
  sheet.Add(PlanOp::kHead, FlopPhase::kBackward, product);
  sheet.Add(PlanOp::kLoss, FlopPhase::kForward, targets * (4 * vocab + 3));
  sheet.Add(PlanOp::kLoss, FlopPhase::kBackward, targets * (vocab + 2));
}

// AdamW, whose 8-bit moments come from codes and go back to them, and the gradient's sum of
// squares.
void CountUpdate(const AdaptedModel& model, OptimizerKind kind, FlopSheet& sheet) {
  Wide elements = 0;
  for (const AdaptedModule& module : model.modules) {
    const Projection p = module.id.projection;
    elements += FlatElements(kind, module.rank * InFeatures(model.config, p)) +
                FlatElements(kind, module.rank * OutFeatures(model.config, p));
  }
  const Wide each = 15 + (IsEightBit(kind) ? 4 : 0) + 2;
  sheet.Add(PlanOp::kOptimizer, FlopPhase::kBackward, each * elements);
}

// All passes of a prompt together: cut at multiples of the chunk. Query p sees keys 0 to p.
PassRows PrefillRows(const PrefillShape& shape, const FlopTiles& tiles) {
  const int64_t prompt = shape.prompt_tokens, cached = shape.cached_tokens;
  const int64_t chunk = shape.chunk_tokens == 0 ? prompt : shape.chunk_tokens;
  const int64_t first_end = std::min(prompt, (cached / chunk + 1) * chunk);
  const int64_t full = (prompt - first_end) / chunk, rest = (prompt - first_end) % chunk;
  const auto further_tiles = [&](int64_t rows) { return rows == 0 ? 0 : (rows - 1) / tiles.rows; };
  PassRows rows;
  rows.tokens = prompt - cached;
  rows.pairs = Wide{prompt} * (prompt + 1) / 2 - Wide{cached} * (cached + 1) / 2;
  rows.passes = 1 + full + (rest > 0 ? 1 : 0);
  rows.decodings =
      further_tiles(first_end - cached) + Wide{full} * further_tiles(chunk) + further_tiles(rest);
  return rows;
}

// A pass of serving: all layers, then the last norm and the head over `logit_rows` rows.
void CountForward(const AdaptedModel& model, const PassRows& rows, Wide logit_rows,
                  FlopSheet& sheet) {
  const ModelConfig& config = model.config;
  LayerFlops layers(model, rows, {}, sheet);
  for (int64_t layer = 0; layer < config.num_layers; ++layer)
    layers.Forward(layer, FlopPhase::kForward);
  layers.Norm(FlopPhase::kForward, logit_rows);
  sheet.Add(PlanOp::kHead, FlopPhase::kForward,
            2 * logit_rows * config.vocab_size * config.hidden_size);
}

}  // namespace

absl::StatusOr<FlopCount> CountTrainingStep(const AdaptedModel& model, const TrainingShape& shape,
                                            const FlopTiles& tiles) {
  RETURN_IF_ERROR(Check(model, shape));
  if (model.modules.empty())
    return absl::InvalidArgumentError("no module is adapted; the engine trains adapters alone");
  const ModelConfig& config = model.config;
  const LayerSegments segments(config.num_layers, shape.checkpointing);
  FlopSheet sheet;
  for (const MicroBatchShape& batch : shape.micro_batches) {
    FlopSheet one;
    LayerFlops layers(model, PackedRowsOf(batch.sequences, tiles),
                      {.for_backward = true,
                       .dropout = shape.dropout,
                       .keeps_act = shape.checkpointing.keeps_act},
                      one);
    for (int64_t layer = 0; layer < config.num_layers; ++layer)
      layers.Forward(layer, FlopPhase::kForward);
    layers.Norm(FlopPhase::kForward);
    CountLoss(config, batch.targets(), one);
    layers.NormBackward(/*accumulate=*/false);
    CountBackwardLayers(config, segments, layers);
    sheet.Add(one, batch.count);
  }
  CountUpdate(model, shape.optimizer, sheet);
  return sheet.Finish();
}

absl::StatusOr<FlopCount> CountPrefill(const AdaptedModel& model, const PrefillShape& shape,
                                       const FlopTiles& tiles) {
  RETURN_IF_ERROR(Check(model, shape));
  const PassRows rows = PrefillRows(shape, tiles);
  FlopSheet one, sheet;
  CountForward(model, rows, /*logit_rows=*/1, one);
  sheet.Add(one, shape.prompts);
  return sheet.Finish();
}

absl::StatusOr<FlopCount> CountDecode(const AdaptedModel& model,
                                      absl::Span<const SequenceGroup> contexts) {
  RETURN_IF_ERROR(Check(model, contexts));
  PassRows rows;
  for (const SequenceGroup& group : contexts) {
    rows.tokens += group.count;
    rows.pairs += Wide{group.count} * group.length;
  }
  FlopSheet sheet;
  CountForward(model, rows, rows.tokens, sheet);
  return sheet.Finish();
}

}  // namespace lorad
