// A scheduler over a golden model without any thread of its own: tests call RunOneStep.
#ifndef LORAD_TESTS_UNIT_ENGINE_SCHED_SERVING_HARNESS_H_
#define LORAD_TESTS_UNIT_ENGINE_SCHED_SERVING_HARNESS_H_

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/device/backend.h"
#include "engine/infer/runner.h"
#include "engine/kv/kv_cache.h"
#include "engine/lora/store.h"
#include "engine/model/weights.h"
#include "engine/sched/kv_adapter_memory.h"
#include "engine/sched/scheduler.h"
#include "gtest/gtest.h"
#include "tests/support/golden.h"
#include "tests/support/status_matchers.h"

namespace lorad {

// Keeps what one request hears, and checks that the last word comes once.
class RecordingSink : public GenerateSink {
 public:
  void OnDelta(GenerateDelta delta) override {
    EXPECT_FALSE(ended());
    ids.insert(ids.end(), delta.ids.begin(), delta.ids.end());
    text += delta.text;
    for (TokenLogprob& logprob : delta.logprobs) logprobs.push_back(std::move(logprob));
  }
  void OnFinish(const GenerateResult& finished) override {
    EXPECT_FALSE(ended());
    result = finished;
  }
  void OnError(const absl::Status& status) override {
    EXPECT_FALSE(ended());
    error = status;
  }
  bool ended() const { return result.has_value() || !error.ok(); }
  bool finished(FinishReason reason) const {
    return result.has_value() && result->finish_reason == reason;
  }

  std::vector<int32_t> ids;
  std::string text;
  std::vector<TokenLogprob> logprobs;
  std::optional<GenerateResult> result;
  absl::Status error;
};

struct HarnessOptions {
  const char* model = "llama-gqa";
  int64_t kv_pages = 512;
  int32_t page_tokens = 16;
  int32_t max_running = 32;
  int32_t max_queued = 64;
  int64_t max_batch_tokens = 2048;
  int64_t chunk_tokens = 256;
  PassKind prompt_kind = PassKind::kMatrix;
  int64_t row_chunk_tokens = 0;
  bool prefix_cache = true;         // where a chunk is whole pages
  int64_t adapter_limit_bytes = 0;  // of all together on the device; 0: none
  int64_t max_adapter_bytes = 0;    // of one; 0: any
  int64_t host_limit_bytes = int64_t{1} << 30;
  int64_t warm_host_bytes = 0;
  absl::Duration lock_after = absl::ZeroDuration();
  std::unique_ptr<Backend> backend;  // null: the CPU's
  SliceBudgetOptions training;
  std::function<absl::Time()> now;  // null: the clock
};

class ServingHarness : public SchedulerObserver, public AdapterStoreObserver {
 public:
  explicit ServingHarness(HarnessOptions options = {})
      : golden(options.model), backend(std::move(options.backend)) {
    if (backend == nullptr) backend = CreateCpuBackend();
    auto loaded = Model::Load(golden.model_dir(), QuantSpec{}, *backend);
    EXPECT_OK(loaded);
    model = *std::move(loaded);
    const ModelConfig& config = model->config();
    auto made = KvCache::Create({.num_layers = config.num_layers,
                                 .num_kv_heads = config.num_kv_heads,
                                 .head_dim = config.head_dim,
                                 .num_pages = options.kv_pages,
                                 .page_tokens = options.page_tokens,
                                 .dtype = backend->activation_dtype(),
                                 .prefix_block_tokens = PrefixBlock(options)},
                                *backend);
    EXPECT_OK(made);
    cache = *std::move(made);
    context = std::min(config.max_position_embeddings, cache->capacity_tokens());
    auto created =
        Runner::Create(model, *backend, *cache,
                       {.max_sequences = options.max_running,
                        .max_tokens = std::max<int64_t>(options.chunk_tokens, options.max_running),
                        .context_tokens = config.max_position_embeddings,
                        .max_rank = 64});
    EXPECT_OK(created);
    runner = *std::move(created);
    backend->allocator().SetLimit(MemoryTag::kAdapters, options.adapter_limit_bytes);

    AdapterStoreOptions store_options;
    store_options.host_limit_bytes = options.host_limit_bytes;
    store_options.warm_host_bytes = options.warm_host_bytes;
    store_options.lock_after = options.lock_after;
    store_options.max_rank = 64;
    store_options.wake = [this] { scheduler->Wake(); };
    store_options.observer = this;
    store_options.max_adapter_bytes = options.max_adapter_bytes;
    memory = std::make_unique<KvAdapterMemory>(*cache, *backend);
    store = std::make_unique<AdapterStore>(config, *backend, *memory, std::move(store_options));

    SchedulerOptions scheduling;
    scheduling.serving.max_running = options.max_running;
    scheduling.serving.max_batch_tokens = options.max_batch_tokens;
    scheduling.serving.chunk_tokens = options.chunk_tokens;
    scheduling.serving.prompt_kind = options.prompt_kind;
    scheduling.serving.row_chunk_tokens = options.row_chunk_tokens;
    scheduling.serving.observer = this;
    if (options.now) scheduling.serving.now = std::move(options.now);
    scheduling.training = options.training;
    scheduling.max_queued = options.max_queued;
    scheduling.limits = {.vocab = config.vocab_size,
                         .context_tokens = context,
                         .eos_ids = config.eos_token_ids,
                         .tokenizer = nullptr};
    scheduler = std::make_unique<Scheduler>(std::move(scheduling), *runner, *store);
  }
  ~ServingHarness() override {
    store->StopLoading();
    scheduler.reset();  // it still tells of those that it ends
  }

  static int64_t PrefixBlock(const HarnessOptions& options) {
    const bool whole = options.chunk_tokens % options.page_tokens == 0;
    if (!options.prefix_cache || !whole) return 0;
    return options.prompt_kind == PassKind::kMatrix ? options.chunk_tokens : options.page_tokens;
  }
  // The first `count` ids of row `row` of the golden input.
  std::vector<int32_t> Prompt(int row, int count = 16) const {
    const std::vector<int32_t> all = golden.Ints("input_ids");
    return {all.begin() + row * 48, all.begin() + row * 48 + count};
  }
  // A prompt of any length that is not in the golden data.
  std::vector<int32_t> LongPrompt(int seed, int count) const {
    std::vector<int32_t> ids(count);
    uint32_t state = 12345u + static_cast<uint32_t>(seed);
    for (int32_t& id : ids) {
      state = state * 1664525u + 1013904223u;
      id = 3 + static_cast<int32_t>((state >> 8) % (model->config().vocab_size - 3));
    }
    return ids;
  }
  static GenerateRequest Greedy(std::vector<int32_t> prompt, int32_t max_tokens,
                                std::string adapter = "") {
    GenerateRequest request;
    request.prompt = std::move(prompt);
    request.sampling.temperature = 0;
    request.max_tokens = max_tokens;
    request.adapter_id = std::move(adapter);
    request.ignore_eos = true;
    return request;
  }

  std::shared_ptr<RecordingSink> Submit(GenerateRequest request, uint64_t* id = nullptr,
                                        absl::Time deadline = absl::InfiniteFuture()) {
    auto sink = std::make_shared<RecordingSink>();
    const absl::StatusOr<uint64_t> submitted =
        scheduler->Generate(std::move(request), deadline, sink);
    EXPECT_OK(submitted);
    if (id != nullptr) *id = submitted.value_or(0);
    return sink;
  }
  // Runs until there is nothing to do, waiting for files that are being read.
  void RunUntilIdle() {
    const absl::Time end = absl::Now() + absl::Seconds(60);
    while (absl::Now() < end) {
      if (scheduler->RunOneStep()) continue;
      if (scheduler->queued() == 0 && scheduler->running() == 0) return;
      absl::SleepFor(absl::Milliseconds(1));
    }
    ADD_FAILURE() << "still busy after a minute";
  }
  // Runs until `ended`, waiting for files that are being written: a slow disk makes it longer.
  void RunUntil(const absl::Notification& ended) {
    const absl::Time end = absl::Now() + absl::Seconds(60);
    while (!ended.HasBeenNotified()) {
      ASSERT_LT(absl::Now(), end) << "not ended after a minute";
      if (!scheduler->RunOneStep()) absl::SleepFor(absl::Milliseconds(1));
    }
  }
  std::shared_ptr<RecordingSink> Solo(GenerateRequest request) {
    std::shared_ptr<RecordingSink> sink = Submit(std::move(request));
    RunUntilIdle();
    return sink;
  }
  absl::StatusOr<ScoreResult> Score(std::vector<int32_t> ids, std::string adapter = "") {
    absl::StatusOr<ScoreResult> answer = absl::UnknownError("no answer");
    ScoreRequest request;
    request.ids = std::move(ids);
    request.adapter_id = std::move(adapter);
    RETURN_IF_ERROR(scheduler->Score(
        std::move(request), [&answer](absl::StatusOr<ScoreResult> r) { answer = std::move(r); }));
    RunUntilIdle();
    return answer;
  }
  std::string Register(const std::string& dir) {
    const absl::StatusOr<AdapterSummary> summary = store->Register(dir);
    EXPECT_OK(summary);
    return summary.ok() ? summary->id : "";
  }
  int64_t UsedBytes(MemoryTag tag) const { return backend->allocator().Usage(tag).used_bytes; }

  // Observers.
  void OnFirstToken(bool, double seconds) override {
    EXPECT_GE(seconds, 0);
    ++first_tokens;
  }
  void OnInterToken(bool, double) override { ++inter_tokens; }
  void OnRequestFinished(const RequestTimes& times) override { requests.push_back(times); }
  void OnServingStep(bool prefill, int32_t rows, double) override {
    (prefill ? prefill_rows : decode_rows).push_back(rows);
    if (on_rows) on_rows(prefill, rows);
  }
  void OnTrainingSlice(SlicePhase, double seconds) override {
    EXPECT_GE(seconds, 0);
    ++slices;
  }
  void OnItlTargetMissed() override { ++itl_misses; }
  void OnAdapterLoad(const char* source, const absl::Status& status, double) override {
    loads.push_back(status.ok() ? source : "error");
  }
  void OnAdapterEviction() override { ++evictions; }
  void OnAdapterPrefetch() override { ++prefetches; }

  Golden golden;
  std::unique_ptr<Backend> backend;
  std::shared_ptr<const Model> model;
  std::unique_ptr<KvCache> cache;
  std::unique_ptr<Runner> runner;
  std::unique_ptr<KvAdapterMemory> memory;
  std::unique_ptr<AdapterStore> store;
  std::unique_ptr<Scheduler> scheduler;
  int64_t context = 0;

  int first_tokens = 0, inter_tokens = 0, evictions = 0, prefetches = 0, slices = 0, itl_misses = 0;
  std::vector<RequestTimes> requests;
  std::vector<int32_t> prefill_rows, decode_rows;
  std::function<void(bool prefill, int32_t rows)> on_rows;  // may be null
  std::vector<std::string> loads;
};

}  // namespace lorad

#endif  // LORAD_TESTS_UNIT_ENGINE_SCHED_SERVING_HARNESS_H_
