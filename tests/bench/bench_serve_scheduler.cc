#include <algorithm>
#include <functional>
#include <list>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "engine/core/checked_math.h"
#include "engine/core/status_macros.h"
#include "engine/kv/kv_cache.h"
#include "tests/bench/bench_serve_decode.h"
#include "tests/bench/serve_engine.h"

namespace lorad::bench {
namespace {

// No engine cuts prompts into smaller chunks, unless it may run fewer tokens a step.
constexpr int64_t kSmallestChunk = 256;

struct Answer final : RequestListener {
  void OnTokens(int64_t count) override {
    times.insert(times.end(), static_cast<size_t>(count), Clock::now());
  }
  void OnEnd(const absl::Status& ended_with) override {
    status = ended_with;
    ended.Notify();
  }

  std::vector<Clock::time_point> times;  // of its tokens; to be read when it has ended
  absl::Status status;
  absl::Notification ended;
};

// Runs `send` when it hears its last word: on the engine's thread, which takes no step meanwhile.
struct Starter final : RequestListener {
  explicit Starter(std::function<void()> to_run) : send(std::move(to_run)) {}
  void OnTokens(int64_t) override {}
  void OnEnd(const absl::Status& ended_with) override {
    status = ended_with;
    if (status.ok()) send();
    ended.Notify();
  }

  const std::function<void()> send;
  absl::Status status;
  absl::Notification ended;
};

// See DecodeThroughScheduler.
class SchedulerDecode final : public DecodeBench {
 public:
  SchedulerDecode(const ServeCase& options, std::shared_ptr<const Model> model,
                  std::shared_ptr<Backend> backend)
      : options_(options), model_(std::move(model)), backend_(std::move(backend)) {}

  absl::Status Prepare() {
    const int64_t rows = *std::max_element(options_.batch.begin(), options_.batch.end());
    const int64_t page = KvCacheOptions().page_tokens;
    // One page more for each: what admission keeps free for those that run.
    const int64_t pages = CeilDiv(options_.context + OutputTokens(rows), page) + 1;
    EngineConfig config;
    config.max_running_requests = static_cast<int32_t>(rows);
    config.max_queued_requests = static_cast<int32_t>(rows);
    config.kv_cache_tokens =
        options_.kv_cache_tokens > 0 ? options_.kv_cache_tokens : rows * pages * page;
    config.prefix_cache = false;  // each batch size asks the same prompts again
    ASSIGN_OR_RETURN(serve_, ServeEngine::Create(options_, config, model_, backend_));
    return absl::OkStatus();
  }

  absl::StatusOr<DecodePoint> Measure(int64_t batch) override {
    std::list<Answer> answers;
    RETURN_IF_ERROR(SendAndWait(batch, answers));
    DecodePoint point;
    point.batch = batch;
    point.distinct_adapters = std::min<int64_t>(batch, options_.adapters);
    RETURN_IF_ERROR(TakeSteps(answers, point));
    point.adapter_parameters = serve_->adapter_parameters();
    CountBytes(*model_, *backend_, point);
    return point;
  }

 private:
  // While the last prompt is still read, the first request decodes: at least one chunk is run in
  // every step, so these steps are no more than there are chunks.
  int64_t OutputTokens(int64_t batch) const {
    const int64_t chunk = std::min<int64_t>(kSmallestChunk, options_.max_batch_tokens);
    return batch * CeilDiv(options_.context, chunk) + 1 + options_.warmup_steps + options_.steps;
  }

  PlannedRequest Planned(int64_t batch, int64_t row) const {
    PlannedRequest request;
    request.adapter = options_.adapters > 0 ? row % options_.adapters : -1;
    request.prompt_tokens = options_.context;
    request.output_tokens = OutputTokens(batch);
    request.prompt_seed = options_.seed + static_cast<uint64_t>(row) + 1;
    return request;
  }

  // All in one step, whose length no thread that sends can outlast: from the end of one before.
  absl::Status SendAndWait(int64_t batch, std::list<Answer>& answers) {
    absl::Status failure;
    Starter starter([&] {
      for (int64_t row = 0; row < batch && failure.ok(); ++row) {
        failure = serve_->Start(Planned(batch, row), &answers.emplace_back());
        if (!failure.ok()) answers.pop_back();
      }
    });
    PlannedRequest first;
    first.prompt_tokens = first.output_tokens = 1;
    RETURN_IF_ERROR(serve_->Start(first, &starter));
    starter.ended.WaitForNotification();
    RETURN_IF_ERROR(starter.status);
    if (!failure.ok()) serve_->CancelAll();
    for (Answer& answer : answers) {
      answer.ended.WaitForNotification();
      failure.Update(answer.status);
    }
    return failure;
  }

  // The steps between the first request's tokens from when all decode, the warm-up left out.
  absl::Status TakeSteps(const std::list<Answer>& answers, DecodePoint& point) {
    Clock::time_point together = Clock::time_point::min();
    for (const Answer& answer : answers) together = std::max(together, answer.times.front());
    double context = 0;
    for (const Answer& answer : answers) {
      const auto before = std::lower_bound(answer.times.begin(), answer.times.end(), together);
      context += static_cast<double>(options_.context + (before - answer.times.begin()));
    }
    point.context = context / static_cast<double>(answers.size()) +
                    static_cast<double>(options_.warmup_steps) +
                    static_cast<double>(options_.steps + 1) / 2;
    const std::vector<Clock::time_point>& times = answers.front().times;
    auto at = std::lower_bound(times.begin(), times.end(), together);
    if (times.end() - at <= options_.warmup_steps + options_.steps)
      return absl::InternalError(absl::StrCat("only ", times.end() - at, " of the first request's ",
                                              times.size(), " tokens came while all ",
                                              answers.size(), " requests decoded"));
    at += options_.warmup_steps;
    for (int64_t i = 0; i < options_.steps; ++i, ++at)
      point.step_seconds.push_back(std::chrono::duration<double>(*(at + 1) - *at).count());
    return absl::OkStatus();
  }

  const ServeCase& options_;
  const std::shared_ptr<const Model> model_;
  const std::shared_ptr<Backend> backend_;
  std::unique_ptr<ServeEngine> serve_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DecodeBench>> DecodeThroughScheduler(
    const ServeCase& options, std::shared_ptr<const Model> model,
    std::shared_ptr<Backend> backend) {
  auto bench = std::make_unique<SchedulerDecode>(options, std::move(model), std::move(backend));
  RETURN_IF_ERROR(bench->Prepare());
  return bench;
}

}  // namespace lorad::bench
