#include "engine/plan/textbook_flops.h"

#include <initializer_list>
#include <vector>

#include "engine/core/status_macros.h"
#include "engine/plan/presets.h"

namespace lorad {
namespace {

using P = Projection;
using Wide = absl::int128;

constexpr int kNormFlops = 20, kSoftmaxFlops = 5, kRopeFlops = 3, kSwiGluFlops = 5, kAdamFlops = 15;
// The backward pass, in forward passes: the input's gradient alone, or the operands' both.
constexpr int kOnce = 1, kTwice = 2;

struct TextbookRows {
  Wide tokens = 0;
  Wide pairs = 0;    // of a query and a key, whether it sees it or not
  Wide outputs = 0;  // rows that go through the head
  Wide passes = 1;   // each decodes the weights
};

// An operation's forward pass.
struct Item {
  PlanOp op;
  Wide flops;
  int backward;
};

class Textbook {
 public:
  Textbook(const AdaptedModel& model, const TextbookRows& rows, bool trains_all)
      : model_(model),
        config_(model.config),
        rows_(rows),
        weights_(trains_all ? kTwice : kOnce),
        ranks_(config_.num_layers * kNumProjections) {
    for (const AdaptedModule& module : model.modules) ranks_[module.id.index()] = module.rank;
  }

  std::vector<Item> Layer(int64_t layer) const {
    const Wide heads = config_.num_heads, scores = heads * rows_.pairs;
    const Wide rotated = config_.q_features() + config_.kv_features();
    std::vector<Item> items = {
        {PlanOp::kNorm, 2 * Norm(rows_.tokens), kTwice},
        {PlanOp::kRope, kRopeFlops * rotated * rows_.tokens, kTwice},
        {PlanOp::kScores, 2 * scores * config_.head_dim, kTwice},
        {PlanOp::kSoftmax, kSoftmaxFlops * scores, kTwice},
        {PlanOp::kValues, 2 * scores * config_.head_dim, kTwice},
        {PlanOp::kSwiGlu, kSwiGluFlops * rows_.tokens * config_.intermediate_size, kTwice}};
    AddLinears(layer, PlanOp::kQkv, {P::kQ, P::kK, P::kV}, items);
    AddLinears(layer, PlanOp::kOutput, {P::kO}, items);
    AddLinears(layer, PlanOp::kGateUp, {P::kGate, P::kUp}, items);
    AddLinears(layer, PlanOp::kDown, {P::kDown}, items);
    return items;
  }
  // The last norm and the head.
  std::vector<Item> Output() const {
    return {
        {PlanOp::kNorm, Norm(rows_.outputs), kTwice},
        {PlanOp::kHead, 2 * rows_.outputs * config_.hidden_size * config_.vocab_size, weights_}};
  }
  Item Loss() const {
    return {PlanOp::kLoss, kSoftmaxFlops * rows_.outputs * config_.vocab_size, kTwice};
  }

 private:
  Wide Norm(Wide rows) const { return kNormFlops * rows * config_.hidden_size; }

  void AddLinears(int64_t layer, PlanOp op, std::initializer_list<Projection> projections,
                  std::vector<Item>& items) const {
    for (const Projection p : projections) {
      const Wide in = InFeatures(config_, p), out = OutFeatures(config_, p);
      const Wide rank = ranks_[layer * kNumProjections + static_cast<int>(p)];
      items.push_back({op, 2 * rows_.tokens * in * out, weights_});
      items.push_back({PlanOp::kLora, 2 * rows_.tokens * rank * (in + out), kTwice});
      if (model_.quant.format != QuantFormat::kNone)
        items.push_back({PlanOp::kDequantize, rows_.passes * in * out, kOnce});
    }
  }

  const AdaptedModel& model_;
  const ModelConfig& config_;
  const TextbookRows rows_;
  const int weights_;
  std::vector<int64_t> ranks_;  // by ModuleId::index; 0: not adapted
};

void AddStep(const std::vector<Item>& items, bool recomputed, FlopSheet& sheet) {
  for (const auto& [op, flops, backward] : items) {
    sheet.Add(op, FlopPhase::kForward, flops);
    sheet.Add(op, FlopPhase::kBackward, backward * flops);
    if (recomputed) sheet.Add(op, FlopPhase::kRecompute, flops);
  }
}

FlopSheet CountMicroBatch(const AdaptedModel& model, const TrainingShape& shape,
                          const MicroBatchShape& batch, bool trains_all) {
  TextbookRows rows{.tokens = batch.tokens(), .outputs = batch.targets()};
  for (const SequenceGroup& group : batch.sequences)
    rows.pairs += Wide{group.count} * group.length * group.length;
  const Textbook textbook(model, rows, trains_all);
  const LayerSegments segments(model.config.num_layers, shape.checkpointing);
  FlopSheet sheet;
  for (int64_t layer = 0; layer < model.config.num_layers; ++layer)
    AddStep(textbook.Layer(layer), /*recomputed=*/!segments.IsLast(layer), sheet);
  AddStep(textbook.Output(), /*recomputed=*/false, sheet);
  AddStep({textbook.Loss()}, /*recomputed=*/false, sheet);
  return sheet;
}

absl::StatusOr<FlopCount> CountInference(const AdaptedModel& model, const TextbookRows& rows) {
  const Textbook textbook(model, rows, /*trains_all=*/false);
  FlopSheet sheet;
  const auto add = [&](const std::vector<Item>& items) {
    for (const Item& item : items) sheet.Add(item.op, FlopPhase::kForward, item.flops);
  };
  for (int64_t layer = 0; layer < model.config.num_layers; ++layer) add(textbook.Layer(layer));
  add(textbook.Output());
  return sheet.Finish();
}

}  // namespace

absl::StatusOr<FlopCount> CountTextbookStep(const AdaptedModel& model, const TrainingShape& shape,
                                            bool trains_all) {
  RETURN_IF_ERROR(Check(model, shape));
  if (trains_all == !model.modules.empty())
    return absl::InvalidArgumentError(
        trains_all ? "adapters are given, and all weights are to be trained; choose one"
                   : "no module is adapted; name targets and a rank, or train all weights");
  if (trains_all && model.quant.format != QuantFormat::kNone)
    return absl::InvalidArgumentError(
        "k-bit weights are frozen; train adapters, or 16-bit weights");
  FlopSheet sheet;
  for (const MicroBatchShape& batch : shape.micro_batches)
    sheet.Add(CountMicroBatch(model, shape, batch, trains_all), batch.count);
  const Wide trained = trains_all ? ParameterCount(model.config) : AdapterParameterCount(model);
  sheet.Add(PlanOp::kOptimizer, FlopPhase::kBackward, kAdamFlops * trained);
  return sheet.Finish();
}

absl::StatusOr<FlopCount> CountTextbookPrefill(const AdaptedModel& model,
                                               const PrefillShape& shape) {
  RETURN_IF_ERROR(Check(model, shape));
  const Wide tokens = shape.prompt_tokens - shape.cached_tokens;
  const Wide prompts = shape.prompts;
  return CountInference(model, {.tokens = prompts * tokens,
                                .pairs = prompts * tokens * shape.prompt_tokens,
                                .outputs = prompts,
                                .passes = prompts});
}

absl::StatusOr<FlopCount> CountTextbookDecode(const AdaptedModel& model,
                                              absl::Span<const SequenceGroup> contexts) {
  RETURN_IF_ERROR(Check(model, contexts));
  TextbookRows rows;
  for (const SequenceGroup& group : contexts) {
    rows.tokens += group.count;
    rows.pairs += Wide{group.count} * group.length;
  }
  rows.outputs = rows.tokens;
  return CountInference(model, rows);
}

}  // namespace lorad
