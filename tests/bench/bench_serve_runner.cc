#include <algorithm>
#include <chrono>
#include <random>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/checked_math.h"
#include "engine/core/status_macros.h"
#include "engine/engine_memory.h"
#include "engine/infer/runner.h"
#include "engine/kv/kv_cache.h"
#include "engine/lora/adapter.h"
#include "engine/lora/adapter_image.h"
#include "engine/lora/pinned_pages.h"
#include "engine/sched/kv_adapter_memory.h"
#include "tests/bench/bench_serve_decode.h"
#include "tests/bench/random_adapters.h"

namespace lorad::bench {
namespace {

// Plans, takes memory and fills the cache as the engine would; see DecodeThroughRunner.
class RunnerDecode final : public DecodeBench {
 public:
  RunnerDecode(const ServeCase& options, std::shared_ptr<const Model> model, Backend& backend)
      : options_(options),
        model_(std::move(model)),
        backend_(backend),
        rows_(*std::max_element(options.batch.begin(), options.batch.end())),
        random_(options.seed) {}
  ~RunnerDecode() override {
    for (KvTable& table : tables_) cache_->Release(table);
  }

  absl::Status Prepare() {
    RETURN_IF_ERROR(TakeMemory());
    RETURN_IF_ERROR(MakeAdapters());
    return Prefill();
  }

  absl::StatusOr<DecodePoint> Measure(int64_t batch) override {
    DecodePoint point;
    point.batch = batch;
    point.distinct_adapters = std::min<int64_t>(batch, options_.adapters);
    for (int64_t i = 0; i < options_.warmup_steps + options_.steps; ++i) {
      const auto begin = std::chrono::steady_clock::now();
      RETURN_IF_ERROR(Step(batch, options_.context + i));
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
      if (i >= options_.warmup_steps) point.step_seconds.push_back(seconds.count());
    }
    // A row sees its own key too.
    point.context = static_cast<double>(options_.context + options_.warmup_steps) +
                    static_cast<double>(options_.steps + 1) / 2;
    point.adapter_parameters = adapter_parameters_;
    CountBytes(*model_, backend_, point);
    return point;
  }

 private:
  int64_t TokensOfRow() const { return options_.context + options_.warmup_steps + options_.steps; }

  absl::Status TakeMemory() {
    EngineConfig config;
    config.model_dir = options_.shape;
    config.quant_head = options_.quant_head;
    config.memory_limit_bytes = options_.memory_limit;
    config.max_batch_tokens = options_.max_batch_tokens;
    config.max_running_requests = static_cast<int32_t>(rows_);
    const int64_t page = KvCacheOptions().page_tokens;
    const int64_t needed = rows_ * CeilDiv(TokensOfRow(), page) * page;
    config.kv_cache_tokens = options_.kv_cache_tokens > 0 ? options_.kv_cache_tokens : needed;
    RETURN_IF_ERROR(ValidateEngineConfig(config));
    ASSIGN_OR_RETURN(const EngineMemory memory,
                     PlanMemory(config, model_->config(), model_->quant(), backend_));
    const int64_t adapters =
        options_.adapter_memory > 0 ? options_.adapter_memory : memory.adapters;
    backend_.allocator().SetLimit(MemoryTag::kAdapters, adapters);
    chunk_tokens_ = memory.chunk_tokens;
    ASSIGN_OR_RETURN(cache_, KvCache::Create(memory.kv, backend_));
    ASSIGN_OR_RETURN(runner_, Runner::Create(model_, backend_, *cache_, memory.runner));
    tables_ = std::vector<KvTable>(rows_);
    for (KvTable& table : tables_) {
      if (!cache_->Reserve(table, TokensOfRow()))
        return absl::ResourceExhaustedError(
            absl::StrCat("--kv_cache_tokens=", config.kv_cache_tokens, ": ", rows_,
                         " sequences of ", TokensOfRow(), " tokens need ", needed));
    }
    return absl::OkStatus();
  }

  absl::Status MakeAdapters() {
    const RandomAdapters random(model_->config(), options_.rank, options_.seed);
    ASSIGN_OR_RETURN(const std::unique_ptr<Stream> stream, backend_.CreateStream());
    adapter_memory_ = std::make_unique<KvAdapterMemory>(*cache_, backend_);
    PinnedPages pinned(backend_.allocator(), adapter_memory_->page_bytes(), /*kept_bytes=*/0);
    const int64_t used = std::min(options_.adapters, rows_);
    for (int64_t i = 0; i < used + options_.idle_adapters; ++i) {
      const HostAdapter host = random.Make(i);
      adapter_parameters_ = host.num_parameters();
      ASSIGN_OR_RETURN(const std::shared_ptr<const AdapterImage> image,
                       AdapterImage::Create(RandomAdapters::Name(i), Views(host),
                                            backend_.activation_dtype(), pinned));
      ASSIGN_OR_RETURN((i < used ? adapters_ : idle_adapters_).emplace_back(),
                       DeviceAdapter::Create(*image, *adapter_memory_, backend_, *stream));
      RETURN_IF_ERROR(stream->Synchronize());  // the image goes
    }
    return absl::OkStatus();
  }

  int32_t RandomId() {
    return static_cast<int32_t>(random_() % static_cast<uint64_t>(model_->config().vocab_size));
  }

  SequenceRows Row(int64_t row, absl::Span<const int32_t> ids, int64_t position) const {
    const auto count = static_cast<int64_t>(adapters_.size());
    return {.ids = ids,
            .position = position,
            .pages = tables_[row].pages(),
            .adapter = count == 0 ? nullptr : adapters_[row % count].get()};
  }

  absl::Status Prefill() {
    std::vector<int32_t> ids;
    for (int64_t row = 0; row < rows_; ++row) {
      for (int64_t begin = 0; begin < options_.context; begin += chunk_tokens_) {
        ids.resize(std::min(chunk_tokens_, options_.context - begin));
        for (int32_t& id : ids) id = RandomId();
        RETURN_IF_ERROR(runner_->Forward({Row(row, ids, begin)}, PassKind::kMatrix));
      }
    }
    return absl::OkStatus();
  }

  // The likeliest token for each of the first `batch` rows; which ids go in does not matter for its
  // time.
  absl::Status Step(int64_t batch, int64_t position) {
    std::vector<int32_t> ids(batch);
    std::vector<SequenceRows> rows;
    for (int64_t row = 0; row < batch; ++row) {
      ids[row] = RandomId();
      rows.push_back(Row(row, absl::MakeConstSpan(&ids[row], 1), position));
    }
    const std::vector<DrawRequest> requests(batch);
    std::vector<DrawResult> drawn(batch);
    return runner_->Draw(rows, PassKind::kRowInvariant, requests, absl::MakeSpan(drawn));
  }

  const ServeCase& options_;
  const std::shared_ptr<const Model> model_;
  Backend& backend_;
  const int64_t rows_;  // of the largest batch
  std::mt19937_64 random_;
  int64_t chunk_tokens_ = 0;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Runner> runner_;
  std::vector<KvTable> tables_;
  std::unique_ptr<KvAdapterMemory> adapter_memory_;
  int64_t adapter_parameters_ = 0;
  std::vector<std::shared_ptr<const DeviceAdapter>> adapters_, idle_adapters_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DecodeBench>> DecodeThroughRunner(const ServeCase& options,
                                                                 std::shared_ptr<const Model> model,
                                                                 Backend& backend) {
  auto bench = std::make_unique<RunnerDecode>(options, std::move(model), backend);
  RETURN_IF_ERROR(bench->Prepare());
  return bench;
}

}  // namespace lorad::bench
