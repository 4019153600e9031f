#include "engine/infer/pass.h"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <numeric>

#include "engine/core/checked_math.h"
#include "engine/core/status_macros.h"
#include "engine/ops/ops.h"
#include "engine/ops/sample.h"

namespace lorad {
namespace {

// A weight of this shape without its data: enough to ask an op for its scratch.
WeightView WeightOfShape(const QuantSpec& quant, int64_t out, int64_t in) {
  WeightView weight;
  weight.spec = quant;
  weight.out_features = out;
  weight.in_features = in;
  return weight;
}

// Scratch of one Linear op over weights that share their input.
int64_t LinearScratch(absl::Span<const WeightView> weights, const PassShape& shape,
                      Backend& backend) {
  const DType dtype = backend.activation_dtype();
  std::vector<LoraSegment> segments(weights.size());  // the terms' spans point into it
  std::vector<LinearTerm> terms;
  for (const WeightView& weight : weights) {
    LinearTerm term;
    term.weight = weight;
    LoraSegment& segment = segments[terms.size()];
    segment.row_end = shape.tokens;
    segment.a = {nullptr, dtype, Shape{shape.max_rank, weight.in_features}};
    segment.b = {nullptr, dtype, Shape{weight.out_features, shape.max_rank}};
    if (shape.max_rank > 0) term.lora = absl::MakeSpan(&segment, 1);
    term.y = {nullptr, dtype, Shape{shape.tokens, weight.out_features}};
    terms.push_back(term);
  }
  LinearArgs args;
  args.x = {nullptr, dtype, Shape{shape.tokens, weights[0].in_features}};
  args.terms = absl::MakeSpan(terms);
  args.row_invariant = shape.kind == PassKind::kRowInvariant;
  return backend.ops().LinearWorkspaceBytes(args);
}

int64_t LayerScratch(const PassShape& shape, const ModelConfig& config, const QuantSpec& quant,
                     Backend& backend) {
  const auto weight = [&](Projection p) {
    return WeightOfShape(quant, OutFeatures(config, p), InFeatures(config, p));
  };
  using P = Projection;
  return std::max({LinearScratch({weight(P::kQ), weight(P::kK), weight(P::kV)}, shape, backend),
                   LinearScratch({weight(P::kO)}, shape, backend),
                   LinearScratch({weight(P::kGate), weight(P::kUp)}, shape, backend),
                   LinearScratch({weight(P::kDown)}, shape, backend)});
}

int64_t HeadScratch(const PassShape& shape, const ModelConfig& config, const QuantSpec& quant,
                    Backend& backend) {
  QuantSpec dense;
  dense.format = QuantFormat::kNone;
  const WeightView head = WeightOfShape(dense, config.vocab_size, config.hidden_size);
  if (shape.output == PassOutput::kLogits) {
    PassShape rows = shape;
    rows.tokens = shape.sequences;
    rows.kind = PassKind::kRowInvariant;
    rows.max_rank = 0;  // the head has no adapters
    const WeightView quantised = WeightOfShape(quant, config.vocab_size, config.hidden_size);
    return std::max(LinearScratch({head}, rows, backend),
                    LinearScratch({quantised}, rows, backend));
  }
  if (shape.output == PassOutput::kNone) return 0;
  LinearCrossEntropyArgs args;
  args.hidden = {nullptr, backend.activation_dtype(), Shape{shape.tokens, config.hidden_size}};
  args.head = head;
  args.labels = {nullptr, DType::kI32, Shape{shape.tokens}};
  args.loss = {nullptr, DType::kF32, Shape{shape.tokens}};
  return backend.ops().LinearCrossEntropyWorkspaceBytes(args);
}

}  // namespace

int64_t DecodePages(int64_t pages) {
  constexpr int64_t kFewest = 16;
  return static_cast<int64_t>(
      std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(pages, kFewest))));
}

PackedRows Pack(absl::Span<const SequenceRows> batch, int32_t page_tokens) {
  PackedRows packed;
  packed.order.resize(batch.size());
  std::iota(packed.order.begin(), packed.order.end(), 0);
  std::stable_sort(packed.order.begin(), packed.order.end(), [&](int64_t a, int64_t b) {
    return std::less<>()(batch[a].adapter, batch[b].adapter);  // base rows, null, come first
  });
  bool decodes = true;
  for (const SequenceRows& rows : batch) {
    packed.max_pages = std::max(packed.max_pages, static_cast<int64_t>(rows.pages.size()));
    decodes = decodes && rows.ids.size() == 1;
  }
  if (decodes) packed.max_pages = DecodePages(packed.max_pages);
  packed.page_table.assign(batch.size() * packed.max_pages, 0);
  packed.cu_seqlens.push_back(0);

  for (size_t s = 0; s < batch.size(); ++s) {
    const SequenceRows& rows = batch[packed.order[s]];
    const int64_t begin = packed.tokens();
    for (size_t i = 0; i < rows.ids.size(); ++i) {
      const int64_t position = rows.position + static_cast<int64_t>(i);
      packed.ids.push_back(rows.ids[i]);
      packed.positions.push_back(static_cast<int32_t>(position));
      packed.slots.push_back(int64_t{rows.pages[position / page_tokens]} * page_tokens +
                             position % page_tokens);
    }
    const int64_t end = packed.tokens();
    packed.cu_seqlens.push_back(static_cast<int32_t>(end));
    packed.context_lens.push_back(packed.positions.back() + 1);
    std::copy(rows.pages.begin(), rows.pages.end(),
              packed.page_table.begin() + s * packed.max_pages);
    if (rows.adapter == nullptr) continue;
    if (packed.adapters.empty() || packed.adapters.back().adapter != rows.adapter)
      packed.adapters.push_back({begin, end, rows.adapter});
    packed.adapters.back().end = end;
  }
  return packed;
}

namespace {

absl::Status AllocateInputs(const PassShape& shape, Arena& arena, PassTensors& t) {
  const int64_t tokens = shape.tokens, sequences = shape.sequences;
  std::vector<BlockMember> members = {
      {&t.ids, DType::kI32, {tokens}},
      {&t.positions, DType::kI32, {tokens}},
      {&t.slots, DType::kI64, {tokens}},
      {&t.cu_seqlens, DType::kI32, {sequences + 1}},
      {&t.context_lens, DType::kI32, {sequences}},
      {&t.page_table, DType::kI32, {sequences, shape.max_pages}},
  };
  if (shape.output == PassOutput::kLogits)
    members.push_back({&t.draws, DType::kU8, {sequences, sizeof(DrawParams)}});
  if (shape.output == PassOutput::kScores) members.push_back({&t.labels, DType::kI32, {tokens}});
  ASSIGN_OR_RETURN(t.inputs, AllocateBlock(members, arena));
  return absl::OkStatus();
}

absl::Status AllocateDrawn(const PassShape& shape, Arena& arena, PassTensors& t) {
  const int64_t sequences = shape.sequences;
  std::vector<BlockMember> members = {{&t.drawn_ids, DType::kI32, {sequences}},
                                      {&t.drawn_logprobs, DType::kF32, {sequences}}};
  if (shape.top > 0) {
    members.push_back({&t.top_ids, DType::kI32, {sequences, shape.top}});
    members.push_back({&t.top_logprobs, DType::kF32, {sequences, shape.top}});
  }
  ASSIGN_OR_RETURN(t.drawn, AllocateBlock(members, arena));
  return absl::OkStatus();
}

// The largest pass of each kind.
std::array<PassShape, 3> LargestShapes(int32_t page_tokens, const RunnerLimits& limits) {
  const int64_t max_pages = CeilDiv(limits.context_tokens, page_tokens);
  return {{
      {PassKind::kRowInvariant, PassOutput::kLogits, limits.max_tokens, limits.max_sequences,
       DecodePages(max_pages), limits.max_rank, kMaxTopLogprobs},
      {PassKind::kMatrix, PassOutput::kLogits, limits.max_tokens, 1, max_pages, limits.max_rank,
       kMaxTopLogprobs},
      {PassKind::kMatrix, PassOutput::kScores, limits.max_tokens, 1, max_pages, limits.max_rank, 0},
  }};
}

}  // namespace

absl::StatusOr<PassTensors> AllocatePass(const PassShape& shape, const ModelConfig& config,
                                         const QuantSpec& quant, Backend& backend, Arena& arena) {
  const DType dtype = backend.activation_dtype();
  const int64_t tokens = shape.tokens, sequences = shape.sequences, hidden = config.hidden_size;
  PassTensors t;
  RETURN_IF_ERROR(AllocateInputs(shape, arena, t));
  ASSIGN_OR_RETURN(t.x, arena.Allocate(dtype, Shape{tokens, hidden}));
  const LayerBatch batch = {.num_tokens = tokens, .for_backward = false, .ranks = {}};
  RETURN_IF_ERROR(AllocateLayerScratch(config, backend, batch, arena, t.activations));
  RETURN_IF_ERROR(AllocateLayerActivations(config, backend, batch, arena, t.activations));
  t.activations.x = t.x;
  const int64_t scratch = std::max(LayerScratch(shape, config, quant, backend),
                                   HeadScratch(shape, config, quant, backend));
  ASSIGN_OR_RETURN(t.workspace, arena.Allocate(DType::kU8, Shape{scratch}));
  if (shape.output == PassOutput::kLogits) {
    ASSIGN_OR_RETURN(t.last, arena.Allocate(dtype, Shape{sequences, hidden}));
    ASSIGN_OR_RETURN(t.logits, arena.Allocate(dtype, Shape{sequences, config.vocab_size}));
    RETURN_IF_ERROR(AllocateDrawn(shape, arena, t));
  } else if (shape.output == PassOutput::kScores) {
    ASSIGN_OR_RETURN(t.losses, arena.Allocate(DType::kF32, Shape{tokens}));
  }
  return t;
}

absl::StatusOr<int64_t> RunnerWorkspaceBytes(const ModelConfig& config, const QuantSpec& quant,
                                             Backend& backend, int32_t page_tokens,
                                             const RunnerLimits& limits) {
  int64_t peak = 0;
  for (const PassShape& shape : LargestShapes(page_tokens, limits)) {
    Arena arena = Arena::Measuring("workspace");
    RETURN_IF_ERROR(AllocatePass(shape, config, quant, backend, arena).status());
    peak = std::max(peak, arena.peak_bytes());
  }
  const int64_t lora =
      LoraBatch::ScratchBytes(limits.max_tokens, limits.max_sequences, limits.max_rank, backend);
  return RoundUp(peak, Arena::kAlignment) + lora;
}

absl::StatusOr<StagingBytes> RunnerStagingBytes(const ModelConfig& config, const QuantSpec& quant,
                                                Backend& backend, int32_t page_tokens,
                                                const RunnerLimits& limits) {
  StagingBytes bytes;
  for (const PassShape& shape : LargestShapes(page_tokens, limits)) {
    Arena arena = Arena::Measuring("workspace");
    ASSIGN_OR_RETURN(const PassTensors t, AllocatePass(shape, config, quant, backend, arena));
    bytes.inputs = std::max(bytes.inputs, t.inputs.size_bytes());
    // Some rows give tokens, some logits; each is fetched by itself, at an aligned place.
    const int64_t gaps = (shape.sequences + 1) * Arena::kAlignment;
    const int64_t outputs = shape.output == PassOutput::kLogits
                                ? t.drawn.size_bytes() + t.logits.size_bytes() + gaps
                                : t.losses.size_bytes();
    bytes.outputs = std::max(bytes.outputs, outputs);
  }
  return bytes;
}

}  // namespace lorad
