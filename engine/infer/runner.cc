#include "engine/infer/runner.h"

#include <algorithm>
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
// its own sequence. One op with the rotation before it, which decoding runs as one kernel.
class PagedLayerAttention final : public LayerAttention {
 public:
  PagedLayerAttention(Backend& backend, KvCache& cache, const PassTensors& tensors,
                      ConstTensorView inv_freq, float scale)
      : backend_(backend), cache_(cache), tensors_(tensors), inv_freq_(inv_freq), scale_(scale) {}

  bool rotates() const override { return true; }
  absl::Status Attend(int64_t layer, TensorView q, TensorView k, ConstTensorView v, TensorView o,
                      Stream& stream) override {
    const PassTensors& t = tensors_;
    return backend_.ops().RopePagedAttention(
        {q, k, v, t.positions, inv_freq_, t.slots, cache_.keys(layer), cache_.values(layer),
         t.page_table, t.context_lens, t.cu_seqlens, o, scale_},
        stream);
  }

 private:
  Backend& backend_;
  KvCache& cache_;
  const PassTensors& tensors_;
  const ConstTensorView inv_freq_;
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

int64_t LargestTop(absl::Span<const DrawRequest> requests) {
  int32_t top = 0;
  for (const DrawRequest& request : requests)
    if (!request.logits) top = std::max(top, request.params.top);
  return top;
}

absl::Status CheckDraws(size_t sequences, absl::Span<const DrawRequest> requests, size_t results) {
  if (requests.size() != sequences || results != sequences) {
    return absl::InvalidArgumentError(absl::StrFormat("%d requests and %d results for %d sequences",
                                                      requests.size(), results, sequences));
  }
  if (LargestTop(requests) <= kMaxTopLogprobs) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("a row asks for the %d likeliest tokens; at most %d can be listed",
                      LargestTop(requests), kMaxTopLogprobs));
}

// What the op gave for packed sequence `s`. `drawn` is the block of t.drawn on the host.
TokenLogprob TokenOf(const PassTensors& t, const char* drawn, int64_t s, int32_t top) {
  const auto at = [&](const TensorView& member, auto type, int64_t index) {
    const int64_t offset = static_cast<char*>(member.data) - static_cast<char*>(t.drawn.data);
    return reinterpret_cast<const decltype(type)*>(drawn + offset)[index];
  };
  TokenLogprob token;
  token.id = at(t.drawn_ids, int32_t{}, s);
  token.logprob = at(t.drawn_logprobs, float{}, s);
  for (int32_t i = 0; i < top; ++i) {
    const int64_t index = s * t.top_ids.shape[1] + i;
    const int32_t id = at(t.top_ids, int32_t{}, index);
    if (id < 0) break;  // the vocabulary is smaller
    token.top.emplace_back(id, at(t.top_logprobs, float{}, index));
  }
  return token;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Runner>> Runner::Create(std::shared_ptr<const Model> model,
                                                       Backend& backend, KvCache& cache,
                                                       const RunnerLimits& limits) {
  ASSIGN_OR_RETURN(const int64_t bytes, RunnerWorkspaceBytes(model->config(), model->quant(),
                                                             backend, cache.page_tokens(), limits));
  ASSIGN_OR_RETURN(DeviceBuffer workspace,
                   backend.allocator().Allocate(bytes, MemoryTag::kWorkspace));
  ASSIGN_OR_RETURN(
      const StagingBytes staging_bytes,
      RunnerStagingBytes(model->config(), model->quant(), backend, cache.page_tokens(), limits));
  ASSIGN_OR_RETURN(Staging staging, Staging::Create(staging_bytes, backend));
  ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, backend.CreateStream(StreamPriority::kHigh));
  return std::unique_ptr<Runner>(new Runner(std::move(model), backend, cache, limits,
                                            std::move(stream), std::move(workspace),
                                            std::move(staging)));
}

Runner::Runner(std::shared_ptr<const Model> model, Backend& backend, KvCache& cache,
               const RunnerLimits& limits, std::unique_ptr<Stream> stream, DeviceBuffer workspace,
               Staging staging)
    : model_(std::move(model)),
      backend_(backend),
      cache_(cache),
      limits_(limits),
      stream_(std::move(stream)),
      workspace_(std::move(workspace)),
      arena_("workspace", workspace_.data(), workspace_.size_bytes()),
      staging_(std::move(staging)),
      graphs_(backend_, *stream_) {}

template <typename Function>
absl::Status Runner::InArena(Function pass) {
  const auto release = absl::MakeCleanup([this] { arena_.Release(0); });
  staging_.Begin();
  const absl::Status status = pass();
  // What was queued before the failure still uses the arena and the staging memory. Its own error,
  // if any, comes after the one that is reported.
  if (!status.ok()) (void)stream_->Synchronize();
  return status;
}

absl::Status Runner::Forward(absl::Span<const SequenceRows> batch, PassKind kind) {
  return InArena([&] { return ForwardInArena(batch, kind); });
}

absl::Status Runner::Draw(absl::Span<const SequenceRows> batch, PassKind kind,
                          absl::Span<const DrawRequest> requests, absl::Span<DrawResult> results) {
  return InArena([&] { return DrawInArena(batch, kind, requests, results); });
}

absl::Status Runner::Score(const SequenceRows& rows, absl::Span<const int32_t> next,
                           absl::Span<float> logprobs) {
  return InArena([&] { return ScoreInArena(rows, next, logprobs); });
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

absl::StatusOr<Runner::Pass> Runner::Prepare(absl::Span<const SequenceRows> batch, PassKind kind,
                                             const Wanted& wanted) {
  RETURN_IF_ERROR(CheckLimits(batch, kind));
  Pass pass;
  pass.rows = Pack(batch, cache_.page_tokens());
  pass.shape = {kind,
                wanted.output,
                pass.rows.tokens(),
                pass.rows.sequences(),
                pass.rows.max_pages,
                limits_.max_rank,
                LargestTop(wanted.draws)};
  ASSIGN_OR_RETURN(pass.tensors,
                   AllocatePass(pass.shape, model_->config(), model_->quant(), backend_, arena_));
  if (!pass.rows.adapters.empty()) {
    ASSIGN_OR_RETURN(LoraBatch lora, LoraBatch::Create(pass.rows.adapters, backend_, arena_));
    pass.lora.emplace(std::move(lora));
  }
  KeepInputs(pass, wanted);
  return pass;
}

void Runner::KeepInputs(const Pass& pass, const Wanted& wanted) {
  const PassTensors& t = pass.tensors;
  const auto put = [&](const TensorView& member, const void* data) {
    staging_.Put(t.inputs, member, data);
  };
  put(t.ids, pass.rows.ids.data());
  put(t.positions, pass.rows.positions.data());
  put(t.slots, pass.rows.slots.data());
  put(t.cu_seqlens, pass.rows.cu_seqlens.data());
  put(t.context_lens, pass.rows.context_lens.data());
  put(t.page_table, pass.rows.page_table.data());
  if (!wanted.labels.empty()) put(t.labels, wanted.labels.data());
  if (!wanted.draws.empty()) {
    std::vector<DrawParams> draws;
    for (const int64_t index : pass.rows.order) draws.push_back(wanted.draws[index].params);
    put(t.draws, draws.data());
  }
}

absl::Status Runner::QueueLayers(Pass& pass) {
  PassTensors& t = pass.tensors;
  RETURN_IF_ERROR(staging_.Upload(t.inputs, *stream_));
  RETURN_IF_ERROR(backend_.ops().Embedding({t.ids, model_->embedding(), t.x}, *stream_));
  const ModelConfig& config = model_->config();
  PagedLayerAttention attention(backend_, cache_, t, model_->rope_inv_freq(),
                                static_cast<float>(1 / std::sqrt(double(config.head_dim))));
  const LayerContext context = {.model = *model_,
                                .backend = backend_,
                                .positions = t.positions,
                                .lora = pass.lora.has_value() ? &*pass.lora : nullptr,
                                .row_invariant = pass.shape.kind == PassKind::kRowInvariant,
                                .workspace = t.workspace};
  for (int64_t layer = 0; layer < config.num_layers; ++layer)
    RETURN_IF_ERROR(LayerForward(layer, context, attention, t.activations, t.x, *stream_));
  return absl::OkStatus();
}

absl::Status Runner::QueueToLogits(Pass& pass) {
  RETURN_IF_ERROR(QueueLayers(pass));
  ASSIGN_OR_RETURN(const TensorView last, LastRows(pass));
  RETURN_IF_ERROR(Normalise(last));
  return Head(last, pass);
}

absl::Status Runner::QueueDraws(Pass& pass, void* drawn) {
  RETURN_IF_ERROR(QueueToLogits(pass));
  RETURN_IF_ERROR(Sample(pass));
  return staging_.Fetch(pass.tensors.drawn, drawn, *stream_);
}

PassKey Runner::KeyOf(const Pass& pass) const {
  PassKey key = {.sequences = pass.shape.sequences,
                 .max_pages = pass.shape.max_pages,
                 .top = pass.shape.top,
                 .adapters = {}};
  for (const AdapterRows& rows : pass.rows.adapters)
    key.adapters.push_back({rows.begin, rows.end, rows.adapter->instance()});
  return key;
}

absl::Status Runner::ForwardInArena(absl::Span<const SequenceRows> batch, PassKind kind) {
  ASSIGN_OR_RETURN(Pass pass, Prepare(batch, kind, {}));
  RETURN_IF_ERROR(QueueLayers(pass));
  return stream_->Synchronize();
}

absl::Status Runner::DrawInArena(absl::Span<const SequenceRows> batch, PassKind kind,
                                 absl::Span<const DrawRequest> requests,
                                 absl::Span<DrawResult> results) {
  RETURN_IF_ERROR(CheckDraws(batch.size(), requests, results.size()));
  const Wanted wanted = {.output = PassOutput::kLogits, .draws = requests, .labels = {}};
  ASSIGN_OR_RETURN(Pass pass, Prepare(batch, kind, wanted));
  const PassTensors& t = pass.tensors;
  const int64_t sequences = pass.rows.sequences(), vocab = model_->config().vocab_size;
  const auto count = std::count_if(requests.begin(), requests.end(),
                                   [](const DrawRequest& request) { return request.logits; });
  void* const drawn = count < sequences ? staging_.PlaceFor(t.drawn) : nullptr;
  std::vector<const void*> rows(sequences);
  if (count > 0) {
    RETURN_IF_ERROR(drawn == nullptr ? QueueToLogits(pass) : QueueDraws(pass, drawn));
    for (int64_t s = 0; s < sequences; ++s) {
      if (!requests[pass.rows.order[s]].logits) continue;
      const TensorView row = Rows(t.logits, s, s + 1);
      void* const place = staging_.PlaceFor(row);
      RETURN_IF_ERROR(staging_.Fetch(row, place, *stream_));
      rows[s] = place;
    }
  } else if (kind == PassKind::kRowInvariant && pass.rows.decodes()) {
    RETURN_IF_ERROR(graphs_.Run(KeyOf(pass), [&] { return QueueDraws(pass, drawn); }));
  } else {
    RETURN_IF_ERROR(QueueDraws(pass, drawn));
  }
  RETURN_IF_ERROR(stream_->Synchronize());

  logits_.resize(count * vocab);
  float* free = logits_.data();
  for (int64_t s = 0; s < sequences; ++s) {
    const int64_t index = pass.rows.order[s];
    results[index] = {};
    if (rows[s] == nullptr) {
      results[index].token =
          TokenOf(t, static_cast<const char*>(drawn), s, requests[index].params.top);
      continue;
    }
    ConvertToFloat(t.logits.dtype, rows[s], vocab, free);
    results[index].logits = absl::MakeConstSpan(free, vocab);
    free += vocab;
  }
  return absl::OkStatus();
}

absl::Status Runner::Sample(const Pass& pass) {
  const PassTensors& t = pass.tensors;
  return backend_.ops().Sample(
      {t.logits, t.draws, t.drawn_ids, t.drawn_logprobs, t.top_ids, t.top_logprobs}, *stream_);
}

// The last row of every sequence: the rows themselves where each sequence has one, a copy
// otherwise.
absl::StatusOr<TensorView> Runner::LastRows(const Pass& pass) {
  const PassTensors& t = pass.tensors;
  if (pass.rows.decodes()) return t.x;
  const auto row_of = [&](int64_t s) { return int64_t{pass.rows.cu_seqlens[s + 1]} - 1; };
  for (int64_t begin = 0, end; begin < pass.rows.sequences(); begin = end) {
    for (end = begin + 1; end < pass.rows.sequences() && row_of(end) == row_of(end - 1) + 1;) ++end;
    const TensorView to = Rows(t.last, begin, end);
    const int64_t row = row_of(begin);
    RETURN_IF_ERROR(
        backend_.Copy(to.data, Rows(t.x, row, row + end - begin).data, to.size_bytes(), *stream_));
  }
  return t.last;
}

absl::Status Runner::Normalise(const TensorView& hidden) {
  const float eps = static_cast<float>(model_->config().rms_norm_eps);
  return backend_.ops().RmsNorm({hidden, model_->final_norm(), hidden, {}, eps}, *stream_);
}

absl::Status Runner::Head(const TensorView& last, const Pass& pass) {
  LinearTerm term;
  term.weight = model_->decode_head();
  term.y = pass.tensors.logits;
  LinearArgs args;
  args.x = last;
  args.terms = absl::MakeSpan(&term, 1);
  args.row_invariant = true;  // also after a matrix pass: the same kernel as in decoding
  args.workspace = pass.tensors.workspace;
  return backend_.ops().Linear(args, *stream_);
}

absl::Status Runner::ScoreInArena(const SequenceRows& rows, absl::Span<const int32_t> next,
                                  absl::Span<float> logprobs) {
  if (next.size() != rows.ids.size() || logprobs.size() != rows.ids.size()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%d labels and %d answers for %d tokens", next.size(), logprobs.size(), rows.ids.size()));
  }
  const Wanted wanted = {.output = PassOutput::kScores, .draws = {}, .labels = next};
  ASSIGN_OR_RETURN(Pass pass, Prepare(absl::MakeConstSpan(&rows, 1), PassKind::kMatrix, wanted));
  RETURN_IF_ERROR(QueueLayers(pass));
  const PassTensors& t = pass.tensors;
  RETURN_IF_ERROR(Normalise(t.x));
  LinearCrossEntropyArgs args;
  args.hidden = t.x;
  args.head = model_->head();
  args.labels = t.labels;
  args.loss = t.losses;
  args.workspace = t.workspace;
  RETURN_IF_ERROR(backend_.ops().LinearCrossEntropy(args, *stream_));
  void* const losses = staging_.PlaceFor(t.losses);
  RETURN_IF_ERROR(staging_.Fetch(t.losses, losses, *stream_));
  RETURN_IF_ERROR(stream_->Synchronize());
  for (size_t i = 0; i < logprobs.size(); ++i) {
    const float loss = static_cast<const float*>(losses)[i];
    logprobs[i] = loss == 0 ? 0 : -loss;
  }
  return absl::OkStatus();
}

}  // namespace lorad
