#include "tests/bench/bench_serve_load.h"

#include <chrono>
#include <utility>

#include "engine/core/status_macros.h"
#include "tests/bench/adapter_churn.h"
#include "tests/bench/bench_serve_training.h"
#include "tests/bench/load_driver.h"
#include "tests/bench/load_report.h"
#include "tests/bench/serve_engine.h"

namespace lorad::bench {
namespace {

Json TrafficJson(const AdapterTraffic::Counts& counts) {
  return {{"loads_from_disk", counts.from_disk.size()},
          {"loads_from_host", counts.from_host.size()},
          {"failed_loads", counts.failed},
          {"evictions", counts.evictions},
          {"prefetches", counts.prefetches},
          {"disk_ms", TimesJson(counts.from_disk)},
          {"host_ms", TimesJson(counts.from_host)}};
}

Json ResidencyJson(const EngineStats& stats, int64_t bytes_each) {
  const MemoryUsage& memory = stats.memory[static_cast<int>(MemoryTag::kAdapters)];
  return {{"bytes_each", bytes_each},          {"resident_bytes", memory.used_bytes},
          {"limit_bytes", memory.limit_bytes}, {"on_device", stats.adapters_device},
          {"on_host", stats.adapters_host},    {"on_disk", stats.adapters_disk}};
}

}  // namespace

absl::Status MeasureLoad(const ServeCase& options, std::shared_ptr<const Model> model,
                         std::shared_ptr<Backend> backend, Json& json) {
  ASSIGN_OR_RETURN(const LoadPlan plan, MakeLoadPlan(options, options.adapters, options.seed));
  EngineConfig config;
  config.kv_cache_tokens = options.kv_cache_tokens;
  config.max_running_requests = options.max_running;
  config.itl_target_ms = options.itl_target_ms;
  const auto begin = Clock::now();
  ASSIGN_OR_RETURN(const std::unique_ptr<ServeEngine> serve,
                   ServeEngine::Create(options, config, std::move(model), std::move(backend)));
  json["prepare_s"] = std::chrono::duration<double>(Clock::now() - begin).count();

  std::unique_ptr<TrainingBeside> training;
  double solo = 0;
  if (!options.train.empty()) {
    ASSIGN_OR_RETURN(training, TrainingBeside::Start(options, serve->engine()));
    ASSIGN_OR_RETURN(solo, training->MeasureAlone(options.train_solo_seconds));
  }
  std::unique_ptr<AdapterChurn> churn;
  if (options.churn > 0) {
    const std::vector<std::string>& ids = serve->adapter_ids();
    ASSIGN_OR_RETURN(
        churn, AdapterChurn::Start(serve->engine(), {ids.begin() + options.adapters, ids.end()},
                                   options.churn_rate));
  }
  const LoadResult result = RunLoad(plan, *serve);
  json.update(LoadJson(plan, result.records));
  if (churn != nullptr) {
    ASSIGN_OR_RETURN(json["churn"], churn->Stop());
  }
  if (training != nullptr) {
    ASSIGN_OR_RETURN(const TrainingProgress progress, training->Progress());
    json["training"] = TrainingJson(solo, progress, plan, result.began);
    json["training"]["peak_bytes"] = training->peak_bytes();
  }
  const EngineStats stats = serve->engine().Stats();
  json["preemptions"] = stats.preemptions;
  json["kv_cache_tokens"] = stats.kv_pages * stats.kv_page_tokens;
  if (options.adapters + options.churn > 0) {
    json["adapter_traffic"] = TrafficJson(serve->traffic().counts());
    json["adapter_memory"] = ResidencyJson(stats, serve->adapter_bytes_each());
  }
  return absl::OkStatus();
}

}  // namespace lorad::bench
