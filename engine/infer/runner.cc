#include "engine/infer/runner.h"

#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_format.h"
#include "engine/core/float16.h"
#include "engine/core/status_macros.h"
#include "engine/ops/ops.h"

namespace lorad {
namespace {

// Attention of the serving pass: the new keys and values go to their pages, then every row reads
// its own sequence.
class PagedLayerAttention final : public LayerAttention {
 public:
  PagedLayerAttention(Backend& backend, KvCache& cache, const PassTensors& tensors, float scale)
      : backend_(backend), cache_(cache), tensors_(tensors), scale_(scale) {}

  absl::Status Attend(int64_t layer, ConstTensorView q, ConstTensorView k, ConstTensorView v,
                      TensorView o, Stream& stream) override {
    const TensorView keys = cache_.keys(layer), values = cache_.values(layer);
    RETURN_IF_ERROR(backend_.ops().KvWrite({k, v, tensors_.slots, keys, values}, stream));
    return backend_.ops().PagedAttention({q, keys, values, tensors_.page_table,
                                          tensors_.context_lens, tensors_.cu_seqlens, o, scale_},
                                         stream);
  }

 private:
  Backend& backend_;
  KvCache& cache_;
  const PassTensors& tensors_;
  const float scale_;
};

void ConvertToFloat(DType dtype, const void* from, int64_t count, float* to) {
  switch (dtype) {
    case DType::kBF16:
      for (int64_t i = 0; i < count; ++i) to[i] = ToFloat(static_cast<const BFloat16*>(from)[i]);
      break;
    case DType::kF64:
      for (int64_t i = 0; i < count; ++i)
        to[i] = static_cast<float>(static_cast<const double*>(from)[i]);
      break;
    default:
      std::memcpy(to, from, count * sizeof(float));
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Runner>> Runner::Create(std::shared_ptr<const Model> model,
                                                       Backend& backend, KvCache& cache,
                                                       const RunnerLimits& limits) {
  ASSIGN_OR_RETURN(const int64_t bytes, RunnerWorkspaceBytes(model->config(), model->quant(),
                                                             backend, cache.page_tokens(), limits));
  ASSIGN_OR_RETURN(DeviceBuffer workspace,
                   backend.allocator().Allocate(bytes, MemoryTag::kWorkspace));
  ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, backend.CreateStream(StreamPriority::kHigh));
  return std::unique_ptr<Runner>(new Runner(std::move(model), backend, cache, limits,
                                            std::move(stream), std::move(workspace)));
}

Runner::Runner(std::shared_ptr<const Model> model, Backend& backend, KvCache& cache,
               const RunnerLimits& limits, std::unique_ptr<Stream> stream, DeviceBuffer workspace)
    : model_(std::move(model)),
      backend_(backend),
      cache_(cache),
      limits_(limits),
      stream_(std::move(stream)),
      workspace_(std::move(workspace)),
      arena_("workspace", workspace_.data(), workspace_.size_bytes()) {}

absl::Status Runner::Forward(absl::Span<const SequenceRows> batch, PassKind kind,
                             absl::Span<float> logits) {
  const auto release = absl::MakeCleanup([this] { arena_.Release(0); });
  return ForwardInArena(batch, kind, logits);
}

absl::Status Runner::Score(const SequenceRows& rows, absl::Span<const int32_t> next,
                           absl::Span<float> logprobs) {
  const auto release = absl::MakeCleanup([this] { arena_.Release(0); });
  return ScoreInArena(rows, next, logprobs);
}

absl::Status Runner::CheckLimits(absl::Span<const SequenceRows> batch, PassKind kind) const {
  int64_t tokens = 0;
  for (const SequenceRows& rows : batch) {
    tokens += static_cast<int64_t>(rows.ids.size());
    const int64_t end = rows.position + static_cast<int64_t>(rows.ids.size());
    const int64_t room = static_cast<int64_t>(rows.pages.size()) * cache_.page_tokens();
    if (rows.ids.empty() || end > room || end > limits_.context_tokens) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "a sequence of %d new tokens up to position %d; its pages hold %d, the context %d",
          rows.ids.size(), end, room, limits_.context_tokens));
    }
  }
  const int64_t max = kind == PassKind::kMatrix ? 1 : limits_.max_sequences;
  if (batch.empty() || static_cast<int64_t>(batch.size()) > max || tokens > limits_.max_tokens) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a pass of %d sequences and %d tokens; the limits are %d and %d",
                        batch.size(), tokens, max, limits_.max_tokens));
  }
  return absl::OkStatus();
}

absl::StatusOr<Runner::Pass> Runner::RunLayers(absl::Span<const SequenceRows> batch, PassKind kind,
                                               PassOutput output) {
  RETURN_IF_ERROR(CheckLimits(batch, kind));
  Pass pass{.rows = Pack(batch, cache_.page_tokens()), .kind = kind, .tensors = {}, .lora = {}};
  const PassShape shape = {kind,
                           output,
                           pass.rows.tokens(),
                           pass.rows.sequences(),
                           pass.rows.max_pages,
                           limits_.max_rank};
  const ModelConfig& config = model_->config();
  ASSIGN_OR_RETURN(pass.tensors, AllocatePass(shape, config, model_->quant(), backend_, arena_));
  PassTensors& t = pass.tensors;
  if (!pass.rows.adapters.empty()) {
    ASSIGN_OR_RETURN(LoraBatch lora, LoraBatch::Create(pass.rows.adapters, backend_, arena_));
    pass.lora.emplace(std::move(lora));
  }
  RETURN_IF_ERROR(Upload(pass));
  RETURN_IF_ERROR(backend_.ops().Embedding({t.ids, model_->embedding(), t.x}, *stream_));

  PagedLayerAttention attention(backend_, cache_, t,
                                static_cast<float>(1 / std::sqrt(double(config.head_dim))));
  const LayerContext context = {.model = *model_,
                                .backend = backend_,
                                .positions = t.positions,
                                .lora = pass.lora.has_value() ? &*pass.lora : nullptr,
                                .row_invariant = kind == PassKind::kRowInvariant,
                                .workspace = t.workspace};
  for (int64_t layer = 0; layer < config.num_layers; ++layer)
    RETURN_IF_ERROR(LayerForward(layer, context, attention, t.activations, t.x, *stream_));
  return pass;
}

absl::Status Runner::Upload(const Pass& pass) {
  const auto copy = [this](const TensorView& to, const void* from) {
    return backend_.Copy(to.data, from, to.size_bytes(), *stream_);
  };
  const PassTensors& t = pass.tensors;
  RETURN_IF_ERROR(copy(t.ids, pass.rows.ids.data()));
  RETURN_IF_ERROR(copy(t.positions, pass.rows.positions.data()));
  RETURN_IF_ERROR(copy(t.slots, pass.rows.slots.data()));
  RETURN_IF_ERROR(copy(t.cu_seqlens, pass.rows.cu_seqlens.data()));
  RETURN_IF_ERROR(copy(t.context_lens, pass.rows.context_lens.data()));
  return copy(t.page_table, pass.rows.page_table.data());
}

absl::Status Runner::ForwardInArena(absl::Span<const SequenceRows> batch, PassKind kind,
                                    absl::Span<float> logits) {
  const bool wanted = !logits.empty();
  if (wanted && logits.size() != batch.size() * model_->config().vocab_size) {
    return absl::InvalidArgumentError(absl::StrFormat("%d logits for %d sequences of %d each",
                                                      logits.size(), batch.size(),
                                                      model_->config().vocab_size));
  }
  ASSIGN_OR_RETURN(const Pass pass,
                   RunLayers(batch, kind, wanted ? PassOutput::kLogits : PassOutput::kNone));
  if (!wanted) return stream_->Synchronize();
  ASSIGN_OR_RETURN(const TensorView last, LastRows(pass));
  RETURN_IF_ERROR(Normalise(last));
  RETURN_IF_ERROR(Head(last, pass));
  return ReadLogits(pass, logits);
}

// The last row of every sequence: the rows themselves where each sequence has one, a copy
// otherwise.
absl::StatusOr<TensorView> Runner::LastRows(const Pass& pass) {
  const PassTensors& t = pass.tensors;
  if (pass.rows.tokens() == pass.rows.sequences()) return t.x;
  for (int64_t s = 0; s < pass.rows.sequences(); ++s) {
    const int64_t row = pass.rows.cu_seqlens[s + 1] - 1;
    const TensorView to = Rows(t.last, s, s + 1);
    RETURN_IF_ERROR(
        backend_.Copy(to.data, Rows(t.x, row, row + 1).data, to.size_bytes(), *stream_));
  }
  return t.last;
}

absl::Status Runner::Normalise(const TensorView& hidden) {
  const float eps = static_cast<float>(model_->config().rms_norm_eps);
  return backend_.ops().RmsNorm({hidden, model_->final_norm(), hidden, {}, eps}, *stream_);
}

absl::Status Runner::Head(const TensorView& last, const Pass& pass) {
  LinearTerm term;
  term.weight = model_->head();
  term.y = pass.tensors.logits;
  LinearArgs args;
  args.x = last;
  args.terms = absl::MakeSpan(&term, 1);
  args.row_invariant = true;  // also after a matrix pass: the same kernel as in decoding
  args.workspace = pass.tensors.workspace;
  return backend_.ops().Linear(args, *stream_);
}

absl::Status Runner::ReadLogits(const Pass& pass, absl::Span<float> logits) {
  const TensorView& device = pass.tensors.logits;
  const int64_t vocab = model_->config().vocab_size;
  std::vector<char> host(device.size_bytes());
  RETURN_IF_ERROR(backend_.Copy(host.data(), device.data, device.size_bytes(), *stream_));
  RETURN_IF_ERROR(stream_->Synchronize());
  const int64_t row_bytes = vocab * SizeOf(device.dtype);
  for (int64_t s = 0; s < pass.rows.sequences(); ++s) {
    ConvertToFloat(device.dtype, host.data() + s * row_bytes, vocab,
                   logits.data() + pass.rows.order[s] * vocab);
  }
  return absl::OkStatus();
}

absl::Status Runner::ScoreInArena(const SequenceRows& rows, absl::Span<const int32_t> next,
                                  absl::Span<float> logprobs) {
  if (next.size() != rows.ids.size() || logprobs.size() != rows.ids.size()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%d labels and %d answers for %d tokens", next.size(), logprobs.size(), rows.ids.size()));
  }
  ASSIGN_OR_RETURN(const Pass pass, RunLayers(absl::MakeConstSpan(&rows, 1), PassKind::kMatrix,
                                              PassOutput::kScores));
  const PassTensors& t = pass.tensors;
  RETURN_IF_ERROR(Normalise(t.x));
  RETURN_IF_ERROR(backend_.Copy(t.labels.data, next.data(), t.labels.size_bytes(), *stream_));
  LinearCrossEntropyArgs args;
  args.hidden = t.x;
  args.head = model_->head();
  args.labels = t.labels;
  args.loss = t.losses;
  args.workspace = t.workspace;
  RETURN_IF_ERROR(backend_.ops().LinearCrossEntropy(args, *stream_));
  RETURN_IF_ERROR(backend_.Copy(logprobs.data(), t.losses.data, t.losses.size_bytes(), *stream_));
  RETURN_IF_ERROR(stream_->Synchronize());
  for (float& value : logprobs) value = value == 0 ? 0 : -value;
  return absl::OkStatus();
}

}  // namespace lorad
