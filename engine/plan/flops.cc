#include "engine/plan/flops.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/plan/layer_flops.h"
#include "engine/plan/presets.h"

namespace lorad {
namespace {

using Wide = absl::int128;
constexpr int64_t kMostLength = int64_t{1} << 32;  // tokens of a sequence, sequences of a group
constexpr int64_t kMostTokens = int64_t{1} << 40;

absl::Status CheckRange(const std::string& name, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", value, "; it must be in [", least, ", ", most, "]"));
}

// Adds the groups' tokens to `tokens`, which holds those of other groups.
absl::Status CheckSequences(absl::Span<const SequenceGroup> sequences, int64_t& tokens) {
  if (sequences.empty()) return absl::InvalidArgumentError("there is no sequence; give at least 1");
  for (const SequenceGroup& group : sequences) {
    RETURN_IF_ERROR(CheckRange("sequence length", group.length, 1, kMostLength));
    RETURN_IF_ERROR(CheckRange("number of sequences", group.count, 1, kMostLength));
    const Wide all = Wide{tokens} + Wide{group.length} * group.count;
    if (all > kMostTokens)
      return absl::InvalidArgumentError(absl::StrCat("there are ", static_cast<double>(all),
                                                     " tokens; at most ", kMostTokens,
                                                     " can be planned for"));
    tokens = static_cast<int64_t>(all);
  }
  return absl::OkStatus();
}

int64_t TokensOf(const MicroBatchShape& batch) {
  int64_t tokens = 0;
  for (const SequenceGroup& group : batch.sequences) tokens += group.length * group.count;
  return tokens;
}

int64_t TargetsOf(const MicroBatchShape& batch) {
  if (batch.target_tokens >= 0) return batch.target_tokens;
  int64_t targets = 0;
  for (const SequenceGroup& group : batch.sequences) targets += (group.length - 1) * group.count;
  return targets;
}

absl::Status CheckTraining(const AdaptedModel& model, const TrainingShape& shape) {
  if (model.modules.empty())
    return absl::InvalidArgumentError("no module is adapted; the engine trains adapters alone");
  if (shape.micro_batches.empty())
    return absl::InvalidArgumentError("the step has no micro-batch; give at least 1");
  const int64_t layers = model.config.num_layers;
  RETURN_IF_ERROR(
      CheckRange("layers_per_segment", shape.checkpointing.layers_per_segment, 1, layers));
  RETURN_IF_ERROR(CheckRange("kept_layers", shape.checkpointing.kept_layers, 0, layers));
  int64_t tokens = 0;
  for (const MicroBatchShape& batch : shape.micro_batches) {
    RETURN_IF_ERROR(CheckSequences(batch.sequences, tokens));
    RETURN_IF_ERROR(CheckRange("target_tokens", batch.target_tokens, -1, TokensOf(batch)));
  }
  return absl::OkStatus();
}

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

// The last norm and the head over `rows` rows: logits.
void CountLogits(const ModelConfig& config, Wide rows, LayerFlops& layers, FlopSheet& sheet) {
  layers.Norm(FlopPhase::kForward, rows);
  sheet.Add(PlanOp::kHead, FlopPhase::kForward, 2 * rows * config.vocab_size * config.hidden_size);
}

}  // namespace

std::vector<AdaptedModule> AdaptProjections(const ModelConfig& config,
                                            absl::Span<const Projection> projections, int64_t rank,
                                            int64_t first_layer) {
  std::vector<AdaptedModule> modules;
  for (int64_t layer = first_layer; layer < config.num_layers; ++layer)
    for (const Projection p : projections)
      modules.push_back({{static_cast<int32_t>(layer), p}, rank});
  return modules;
}

int64_t AdapterParameterCount(const AdaptedModel& model) {
  int64_t parameters = 0;
  for (const AdaptedModule& module : model.modules)
    parameters += module.rank * (InFeatures(model.config, module.id.projection) +
                                 OutFeatures(model.config, module.id.projection));
  return parameters;
}

absl::Status CheckAdaptedModel(const AdaptedModel& model) {
  RETURN_IF_ERROR(CheckPlannable(model.config));
  std::vector<bool> seen(model.config.num_layers * kNumProjections);
  for (const AdaptedModule& module : model.modules) {
    RETURN_IF_ERROR(
        CheckRange("layer of an adapted module", module.id.layer, 0, model.config.num_layers - 1));
    const Projection p = module.id.projection;
    const int64_t most = std::min(InFeatures(model.config, p), OutFeatures(model.config, p));
    RETURN_IF_ERROR(
        CheckRange(absl::StrCat("rank of ", std::string(ProjectionName(p))), module.rank, 1, most));
    if (seen[module.id.index()])
      return absl::InvalidArgumentError(
          absl::StrCat(ModulePath(module.id), " is adapted twice; name it once"));
    seen[module.id.index()] = true;
  }
  return absl::OkStatus();
}

absl::StatusOr<FlopCount> CountTrainingStep(const AdaptedModel& model, const TrainingShape& shape,
                                            const FlopTiles& tiles) {
  RETURN_IF_ERROR(CheckAdaptedModel(model));
  RETURN_IF_ERROR(CheckTraining(model, shape));
  const ModelConfig& config = model.config;
  const LayerSegments segments(config.num_layers, shape.checkpointing);
  FlopSheet sheet;
  for (const MicroBatchShape& batch : shape.micro_batches) {
    LayerFlops layers(model, PackedRowsOf(batch.sequences, tiles),
                      {.for_backward = true,
                       .dropout = shape.dropout,
                       .keeps_act = shape.checkpointing.keeps_act},
                      sheet);
    for (int64_t layer = 0; layer < config.num_layers; ++layer)
      layers.Forward(layer, FlopPhase::kForward);
    layers.Norm(FlopPhase::kForward);
    CountLoss(config, TargetsOf(batch), sheet);
    layers.NormBackward(/*accumulate=*/false);
    CountBackwardLayers(config, segments, layers);
  }
  CountUpdate(model, shape.optimizer, sheet);
  return sheet.Finish();
}

absl::StatusOr<FlopCount> CountPrefill(const AdaptedModel& model, const PrefillShape& shape,
                                       const FlopTiles& tiles) {
  RETURN_IF_ERROR(CheckAdaptedModel(model));
  RETURN_IF_ERROR(CheckRange("prompt_tokens", shape.prompt_tokens, 1, kMostLength));
  RETURN_IF_ERROR(CheckRange("cached_tokens", shape.cached_tokens, 0, shape.prompt_tokens - 1));
  RETURN_IF_ERROR(CheckRange("chunk_tokens", shape.chunk_tokens, 0, kMostLength));
  const PassRows rows = PrefillRows(shape, tiles);
  FlopSheet sheet;
  LayerFlops layers(model, rows, {}, sheet);
  for (int64_t layer = 0; layer < model.config.num_layers; ++layer)
    layers.Forward(layer, FlopPhase::kForward);
  CountLogits(model.config, 1, layers, sheet);
  return sheet.Finish();
}

absl::StatusOr<FlopCount> CountDecode(const AdaptedModel& model,
                                      absl::Span<const SequenceGroup> contexts) {
  RETURN_IF_ERROR(CheckAdaptedModel(model));
  int64_t keys = 0;
  RETURN_IF_ERROR(CheckSequences(contexts, keys));
  PassRows rows;
  for (const SequenceGroup& group : contexts) rows.tokens += group.count;
  rows.pairs = keys;
  FlopSheet sheet;
  LayerFlops layers(model, rows, {}, sheet);
  for (int64_t layer = 0; layer < model.config.num_layers; ++layer)
    layers.Forward(layer, FlopPhase::kForward);
  CountLogits(model.config, rows.tokens, layers, sheet);
  return sheet.Finish();
}

}  // namespace lorad
