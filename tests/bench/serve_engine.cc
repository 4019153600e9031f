#include "tests/bench/serve_engine.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "engine/core/status_macros.h"
#include "engine/engine_parts.h"

namespace lorad::bench {
namespace {

class Sink final : public GenerateSink {
 public:
  explicit Sink(RequestListener* listener) : listener_(listener) {}

  void OnDelta(GenerateDelta delta) override {
    listener_->OnTokens(static_cast<int64_t>(delta.ids.size()));
  }
  void OnFinish(const GenerateResult& result) override {
    switch (result.finish_reason) {
      case FinishReason::kStop:
      case FinishReason::kLength:
        return listener_->OnEnd(absl::OkStatus());
      case FinishReason::kCancelled:
        return listener_->OnEnd(absl::CancelledError("the load is over"));
      case FinishReason::kDeadline:
      case FinishReason::kError:
        return listener_->OnEnd(absl::InternalError("ended before its last token"));
    }
  }
  void OnError(const absl::Status& status) override { listener_->OnEnd(status); }

 private:
  RequestListener* const listener_;
};

// An engine leaves its own behind, which the next one's plan knows nothing of.
void RemoveLimits(Allocator& allocator) {
  for (int tag = 0; tag < kNumMemoryTags; ++tag) allocator.SetLimit(static_cast<MemoryTag>(tag), 0);
}

}  // namespace

AdapterTraffic::Counts AdapterTraffic::counts() const {
  absl::MutexLock lock(&mu_);
  return counts_;
}

void AdapterTraffic::OnAdapterLoad(const char* source, const absl::Status& status, double seconds) {
  absl::MutexLock lock(&mu_);
  if (!status.ok()) {
    ++counts_.failed;
    return;
  }
  const bool disk = std::strcmp(source, "disk") == 0;
  (disk ? counts_.from_disk : counts_.from_host).push_back(seconds);
}

void AdapterTraffic::OnAdapterEviction() {
  absl::MutexLock lock(&mu_);
  ++counts_.evictions;
}

void AdapterTraffic::OnAdapterPrefetch() {
  absl::MutexLock lock(&mu_);
  ++counts_.prefetches;
}

ServeEngine::ServeEngine(const ServeCase& options, std::shared_ptr<const Model> model,
                         std::shared_ptr<Backend> backend)
    : backend_(std::move(backend)),
      model_(std::move(model)),
      random_adapters_(model_->config(), options.rank, options.seed) {}

absl::StatusOr<std::unique_ptr<ServeEngine>> ServeEngine::Create(const ServeCase& options,
                                                                 EngineConfig config,
                                                                 std::shared_ptr<const Model> model,
                                                                 std::shared_ptr<Backend> backend) {
  std::unique_ptr<ServeEngine> serve(
      new ServeEngine(options, std::move(model), std::move(backend)));
  config.model_dir = options.shape;
  config.quant_head = options.quant_head;
  config.memory_limit_bytes = options.memory_limit;
  config.max_batch_tokens = options.max_batch_tokens;
  config.adapter_host_memory_bytes = options.adapter_host_memory;
  config.observer = &serve->traffic_;
  RemoveLimits(serve->backend_->allocator());
  ASSIGN_OR_RETURN(serve->engine_,
                   CreateEngine(config, {.device = {serve->backend_, ""},
                                         .model = serve->model_,
                                         .read_adapter = serve->random_adapters_.Reader()}));
  if (options.adapter_memory > 0)
    serve->backend_->allocator().SetLimit(MemoryTag::kAdapters, options.adapter_memory);
  RETURN_IF_ERROR(serve->RegisterAdapters(options.adapters + options.churn));
  for (int64_t i = 0; i < options.preload; ++i)
    RETURN_IF_ERROR(serve->engine_->LoadAdapter(serve->adapter_ids_[i]));
  return serve;
}

ServeEngine::~ServeEngine() {
  engine_.reset();
  RemoveLimits(backend_->allocator());
}

// Each is made and hashed: by all cores, for there may be thousands.
absl::Status ServeEngine::RegisterAdapters(int64_t count) {
  adapter_ids_.resize(count);
  std::atomic<int64_t> next{0};
  absl::Mutex mu;
  absl::Status failure;
  const auto work = [&] {
    for (int64_t i = next++; i < count; i = next++) {
      const absl::StatusOr<AdapterInfo> info = engine_->RegisterAdapter(RandomAdapters::Name(i));
      absl::MutexLock lock(&mu);
      failure.Update(info.status());
      if (!failure.ok()) return;
      adapter_ids_[i] = info->id;
      adapter_bytes_each_ = info->device_bytes;
      adapter_parameters_ = info->parameters;
    }
  };
  std::vector<std::thread> threads;
  const int64_t cores = std::max(1u, std::thread::hardware_concurrency());
  for (int64_t i = 0; i < std::min(cores, count); ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  return failure;
}

absl::Status ServeEngine::Start(const PlannedRequest& planned, RequestListener* listener) {
  GenerateRequest request;
  request.prompt = PromptIds(planned, model_->config().vocab_size);
  if (planned.adapter >= 0) request.adapter_id = adapter_ids_[planned.adapter];
  request.sampling.temperature = 0;
  request.max_tokens = static_cast<int32_t>(planned.output_tokens);
  request.ignore_eos = true;
  ASSIGN_OR_RETURN(const RequestId id, engine_->Generate(std::move(request), absl::InfiniteFuture(),
                                                         std::make_shared<Sink>(listener)));
  started_.push_back(id);
  return absl::OkStatus();
}

void ServeEngine::CancelAll() {
  for (const RequestId id : started_) engine_->Cancel(id);
}

}  // namespace lorad::bench
