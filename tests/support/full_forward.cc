#include "tests/support/full_forward.h"

#include <algorithm>
#include <utility>

#include "engine/core/check.h"
#include "engine/core/status_macros.h"

namespace lorad {
namespace {

constexpr int64_t kScratchBytes = int64_t{64} << 20;  // LayerBackward's and slack, for tiny models

ConstTensorView HostView(const std::vector<int32_t>& values) {
  return {values.data(), DType::kI32, {static_cast<int64_t>(values.size())}};
}

// Attention over packed sequences.
class PackedAttention final : public LayerAttention {
 public:
  PackedAttention(Ops& ops, ConstTensorView cu_seqlens, TensorView lse, float scale)
      : ops_(ops), cu_seqlens_(cu_seqlens), lse_(lse), scale_(scale) {}
  absl::Status Attend(int64_t, TensorView q, TensorView k, ConstTensorView v, TensorView o,
                      Stream& stream) override {
    return ops_.Attention({q, k, v, cu_seqlens_, o, lse_, scale_}, stream);
  }

 private:
  Ops& ops_;
  ConstTensorView cu_seqlens_;
  TensorView lse_;
  float scale_;
};

}  // namespace

int64_t PackedSequences::num_targets() const {
  return std::count_if(labels.begin(), labels.end(), [](int32_t l) { return l != kIgnoreLabel; });
}

void PackedSequences::Add(const std::vector<int32_t>& tokens,
                          const std::vector<int32_t>& token_labels) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    ids.push_back(tokens[i]);
    positions.push_back(static_cast<int32_t>(i));
    labels.push_back(i + 1 < token_labels.size() ? token_labels[i + 1] : kIgnoreLabel);
  }
  cu_seqlens.push_back(static_cast<int32_t>(ids.size()));
}

std::vector<float> ToFloats(const TensorView& view) {
  std::vector<float> values(view.num_elements());
  for (int64_t i = 0; i < view.num_elements(); ++i)
    values[i] = static_cast<float>(GetElement(view, i));
  return values;
}
double GetElement(const TensorView& view, int64_t index) {
  return view.dtype == DType::kF64 ? view.as<double>()[index] : view.as<float>()[index];
}
void SetElement(const TensorView& view, int64_t index, double value) {
  if (view.dtype == DType::kF64) {
    view.as<double>()[index] = value;
  } else {
    view.as<float>()[index] = static_cast<float>(value);
  }
}

TestLora::TestLora(const HostAdapter& adapter, Backend& backend, int64_t num_tokens,
                   const LoraDropout& dropout)
    : dropout_(dropout) {
  for (int64_t t = 0; t < num_tokens; ++t) token_keys_.push_back(static_cast<uint64_t>(t));
  const DType dtype = backend.adapter_dtype();
  for (const AdapterModule& host : adapter.modules) {
    const int64_t rank = host.rank;
    const Shape a = {rank, static_cast<int64_t>(host.a.size()) / rank};
    const Shape b = {static_cast<int64_t>(host.b.size()) / rank, rank};
    const TensorView a_values = Tensor(dtype, a), b_values = Tensor(dtype, b);
    for (size_t i = 0; i < host.a.size(); ++i) SetElement(a_values, i, host.a[i]);
    for (size_t i = 0; i < host.b.size(); ++i) SetElement(b_values, i, host.b[i]);
    modules_.push_back({.id = host.id,
                        .segment = {.row_begin = 0,
                                    .row_end = num_tokens,
                                    .a = a_values,
                                    .b = b_values,
                                    .scaling = host.scaling,
                                    .xa = Tensor(backend.activation_dtype(), {num_tokens, rank}),
                                    .da = Tensor(dtype, a),
                                    .db = Tensor(dtype, b)}});
  }
}

TensorView TestLora::Tensor(DType dtype, const Shape& shape) {
  storage_.emplace_back(shape.num_elements(), 0.0);
  return {storage_.back().data(), dtype, shape};
}

absl::Span<LoraSegment> TestLora::Segments(ModuleId id) {
  for (Module& module : modules_) {
    if (module.id == id) return absl::MakeSpan(&module.segment, 1);
  }
  return {};
}

LoraDropout TestLora::Dropout(ModuleId id) const {
  LoraDropout dropout = dropout_;
  dropout.module = static_cast<uint32_t>(id.index());
  dropout.token_keys = {
      token_keys_.data(), DType::kU64, {static_cast<int64_t>(token_keys_.size())}};
  return dropout;
}

absl::StatusOr<std::unique_ptr<FullForward>> FullForward::Create(std::shared_ptr<const Model> model,
                                                                 Backend& backend,
                                                                 PackedSequences batch,
                                                                 int64_t max_rank) {
  std::unique_ptr<FullForward> full(new FullForward(std::move(model), backend, std::move(batch)));
  ASSIGN_OR_RETURN(full->stream_, backend.CreateStream());
  Arena measure = Arena::Measuring("test");
  RETURN_IF_ERROR(full->Layout(max_rank, measure));
  const int64_t bytes = measure.peak_bytes() + kScratchBytes;
  ASSIGN_OR_RETURN(full->buffer_, backend.allocator().Allocate(bytes, MemoryTag::kTraining));
  full->arena_ = std::make_unique<Arena>("test", full->buffer_.data(), bytes);
  RETURN_IF_ERROR(full->Layout(max_rank, *full->arena_));
  const std::pair<TensorView, const std::vector<int32_t>&> copies[] = {
      {full->ids_, full->batch_.ids},
      {full->labels_, full->batch_.labels},
      {full->positions_, full->batch_.positions},
      {full->cu_seqlens_, full->batch_.cu_seqlens}};
  for (const auto& [to, from] : copies)
    RETURN_IF_ERROR(backend.Copy(to.data, from.data(), to.size_bytes(), *full->stream_));
  return full;
}

absl::Status FullForward::Layout(int64_t max_rank, Arena& arena) {
  const ModelConfig& config = model_->config();
  const DType dtype = backend_.activation_dtype();
  const DType statistics = dtype == DType::kF64 ? DType::kF64 : DType::kF32;
  const int64_t tokens = batch_.num_tokens();
  const Shape hidden = {tokens, config.hidden_size};
  layers_.clear();
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    LayerActivations act;
    RETURN_IF_ERROR(AllocateLayerScratch(config, backend_, LayerRows(), arena, act));
    RETURN_IF_ERROR(AllocateLayerActivations(config, backend_, LayerRows(), arena, act));
    ASSIGN_OR_RETURN(act.x, arena.Allocate(dtype, hidden));
    layers_.push_back(act);
  }
  ASSIGN_OR_RETURN(final_x_, arena.Allocate(dtype, hidden));
  ASSIGN_OR_RETURN(hidden_, arena.Allocate(dtype, hidden));
  ASSIGN_OR_RETURN(inv_rms_, arena.Allocate(statistics, {tokens}));
  ASSIGN_OR_RETURN(logits_, arena.Allocate(dtype, {tokens, config.vocab_size}));
  ASSIGN_OR_RETURN(losses_, arena.Allocate(statistics, {tokens}));
  ASSIGN_OR_RETURN(ids_, arena.Allocate(DType::kI32, {tokens}));
  ASSIGN_OR_RETURN(labels_, arena.Allocate(DType::kI32, {tokens}));
  ASSIGN_OR_RETURN(positions_, arena.Allocate(DType::kI32, {tokens}));
  ASSIGN_OR_RETURN(cu_seqlens_, arena.Allocate(DType::kI32, HostView(batch_.cu_seqlens).shape));
  LinearTerm head;
  head.weight = model_->head();
  head.y = logits_;
  LinearArgs head_args;
  head_args.x = hidden_;
  head_args.terms = absl::MakeSpan(&head, 1);
  const int64_t workspace =
      std::max({LayerWorkspaceBytes(*model_, backend_, tokens,
                                    {.backward = true, .max_rank = max_rank, .dropout = true}),
                backend_.ops().LinearWorkspaceBytes(head_args),
                backend_.ops().LinearCrossEntropyWorkspaceBytes(LossArgs(/*backward=*/true))});
  ASSIGN_OR_RETURN(workspace_, arena.Allocate(DType::kU8, {workspace}));
  return absl::OkStatus();
}

LinearCrossEntropyArgs FullForward::LossArgs(bool backward) {
  LinearCrossEntropyArgs args;
  args.hidden = hidden_;
  args.head = model_->head();
  args.labels = labels_;
  args.loss = losses_;
  if (backward) args.dhidden = hidden_;
  args.grad_scale = 1.0f / static_cast<float>(std::max<int64_t>(batch_.num_targets(), 1));
  args.workspace = workspace_;
  return args;
}

LayerContext FullForward::Context(LayerLora* lora) {
  return {.model = *model_,
          .backend = backend_,
          .positions = positions_,
          .lora = lora,
          .row_invariant = false,
          .workspace = workspace_};
}

absl::Status FullForward::Layers(LayerLora* lora) {
  Ops& ops = backend_.ops();
  RETURN_IF_ERROR(ops.Embedding({ids_, model_->embedding(), layers_[0].x}, *stream_));
  const LayerContext context = Context(lora);
  for (size_t i = 0; i < layers_.size(); ++i) {
    PackedAttention attention(ops, cu_seqlens_, layers_[i].lse, AttentionScale(model_->config()));
    const TensorView& y = i + 1 < layers_.size() ? layers_[i + 1].x : final_x_;
    RETURN_IF_ERROR(
        LayerForward(static_cast<int64_t>(i), context, attention, layers_[i], y, *stream_));
  }
  return ops.RmsNorm({final_x_, model_->final_norm(), hidden_, inv_rms_,
                      static_cast<float>(model_->config().rms_norm_eps)},
                     *stream_);
}

absl::StatusOr<std::vector<float>> FullForward::Logits(LayerLora* lora) {
  RETURN_IF_ERROR(Layers(lora));
  LinearTerm head;
  head.weight = model_->head();
  head.y = logits_;
  LinearArgs args;
  args.x = hidden_;
  args.terms = absl::MakeSpan(&head, 1);
  args.workspace = workspace_;
  RETURN_IF_ERROR(backend_.ops().Linear(args, *stream_));
  RETURN_IF_ERROR(stream_->Synchronize());
  return ToFloats(logits_);
}

absl::StatusOr<double> FullForward::Loss(LayerLora* lora, bool backward) {
  RETURN_IF_ERROR(Layers(lora));
  RETURN_IF_ERROR(backend_.ops().LinearCrossEntropy(LossArgs(backward), *stream_));
  if (backward) RETURN_IF_ERROR(LayersBackward(lora));
  RETURN_IF_ERROR(stream_->Synchronize());
  double sum = 0;
  for (int64_t t = 0; t < batch_.num_tokens(); ++t) sum += GetElement(losses_, t);
  return sum / static_cast<double>(batch_.num_targets());
}

absl::Status FullForward::LayersBackward(LayerLora* lora) {
  RETURN_IF_ERROR(backend_.ops().RmsNormBackward({.dy = hidden_,
                                                  .x = final_x_,
                                                  .gamma = model_->final_norm(),
                                                  .inv_rms = inv_rms_,
                                                  .dx = hidden_,
                                                  .accumulate = false},
                                                 *stream_));
  const LayerContext context = Context(lora);
  for (size_t i = layers_.size(); i-- > 0;) {
    RETURN_IF_ERROR(LayerBackward(static_cast<int64_t>(i), context,
                                  {.cu_seqlens = cu_seqlens_, .max_seqlen = batch_.num_tokens()},
                                  LayerRows(), layers_[i], hidden_, *arena_, *stream_));
  }
  return absl::OkStatus();
}

}  // namespace lorad
