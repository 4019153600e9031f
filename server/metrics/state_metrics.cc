#include "server/metrics/state_metrics.h"

#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/io/file.h"

namespace lorad::server {
namespace {

double Seconds(const timeval& time) { return time.tv_sec + 1e-6 * time.tv_usec; }

// To what is counted elsewhere.
void SetCounter(prometheus::Counter& counter, double value) {
  counter.Increment(value - counter.Value());
}

}  // namespace

StateMetrics::StateMetrics(prometheus::Registry& registry, std::string state_dir)
    : state_dir_(std::move(state_dir)) {
  ready_ = &GaugeFamily(registry, "lorad_ready",
                        "1 when the service answers, as grpc.health.v1 tells it.");
  draining_ = &NewGauge(registry, "lorad_draining", "1 while the daemon shuts down.");
  NewGauge(registry, "lorad_start_time_seconds", "Unix time of the daemon's start.")
      .Set(absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()));
  storage_free_ = &NewGauge(registry, "lorad_storage_free_bytes",
                            "Free bytes on the file system of the state directory.");
  MakeEngine(registry);
  MakeProcess(registry);
}

void StateMetrics::MakeEngine(prometheus::Registry& registry) {
  queue_requests_ = &NewGauge(registry, "lorad_inference_queue_requests", "Requests that wait.");
  queue_limit_ = &NewGauge(registry, "lorad_inference_queue_limit", "Requests that may wait.");
  running_requests_ =
      &NewGauge(registry, "lorad_inference_running_requests", "Requests that advance together.");
  auto& blocks = GaugeFamily(registry, "lorad_kv_cache_blocks",
                             "Pages of the KV cache by state; cached ones hold prompts of ended "
                             "requests and are given up as soon as others are wanted.");
  kv_used_ = &blocks.Add({{"state", "used"}});
  kv_cached_ = &blocks.Add({{"state", "cached"}});
  kv_free_ = &blocks.Add({{"state", "free"}});
  kv_usage_ = &NewGauge(registry, "lorad_kv_cache_usage_ratio", "Used pages over all; 0 to 1.");
  prefix_queries_ = &NewCounter(registry, "lorad_prefix_cache_queries_total",
                                "Prompt tokens that were looked up in the prefix cache.");
  prefix_hits_ = &NewCounter(registry, "lorad_prefix_cache_hits_total",
                             "Prompt tokens that the prefix cache had and that were not computed.");
  prefix_evictions_ = &NewCounter(registry, "lorad_prefix_cache_evictions_total",
                                  "Tokens that the prefix cache gave up for running requests.");
  auto& adapters = GaugeFamily(registry, "lorad_adapters_loaded",
                               "Adapters by the fastest memory that holds their weights.");
  const char* const tiers[] = {"gpu", "host", "disk"};
  for (size_t i = 0; i < adapters_.size(); ++i) adapters_[i] = &adapters.Add({{"tier", tiers[i]}});
  adapters_stored_ = &NewGauge(registry, "lorad_adapters_stored", "Versions in the registry.");
  auto& memory = GaugeFamily(registry, "lorad_memory_bytes",
                             "Device memory by what it is for; pinned is the host's.");
  auto& peak = GaugeFamily(registry, "lorad_memory_peak_bytes", "Most of it since the start.");
  auto& limit = GaugeFamily(registry, "lorad_memory_limit_bytes", "Its bound; 0: none of its own.");
  for (int tag = 0; tag < kNumMemoryTags; ++tag) {
    const Labels labels = {{"use", Name(static_cast<MemoryTag>(tag))}};
    memory_[tag] = &memory.Add(labels);
    memory_peak_[tag] = &peak.Add(labels);
    memory_limit_[tag] = &limit.Add(labels);
  }
  engine_healthy_ = &NewGauge(registry, "lorad_engine_healthy",
                              "0 after a device error that only a restart clears.");
}

void StateMetrics::MakeProcess(prometheus::Registry& registry) {
  cpu_seconds_ = &NewCounter(registry, "process_cpu_seconds_total",
                             "User and system CPU time of the process.");
  resident_ = &NewGauge(registry, "process_resident_memory_bytes", "Resident memory.");
  virtual_ = &NewGauge(registry, "process_virtual_memory_bytes", "Virtual memory.");
  open_fds_ = &NewGauge(registry, "process_open_fds", "Open file descriptors.");
  max_fds_ = &NewGauge(registry, "process_max_fds", "Bound of open file descriptors.");
  NewGauge(registry, "process_start_time_seconds", "Unix time of the process's start.")
      .Set(absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()));
}

void StateMetrics::SetReady(const std::string& service, bool ready) {
  ready_->Add({{"service", service}}).Set(ready ? 1 : 0);
}

void StateMetrics::UpdateProcess() {
  if (const auto free = FreeDiskBytes(state_dir_); free.ok()) {
    storage_free_->Set(static_cast<double>(*free));
  }
  rusage usage = {};
  if (::getrusage(RUSAGE_SELF, &usage) == 0) {
    const double seconds = Seconds(usage.ru_utime) + Seconds(usage.ru_stime);
    SetCounter(*cpu_seconds_, seconds);
  }
  int64_t virtual_pages = 0, resident_pages = 0;
  if (std::ifstream("/proc/self/statm") >> virtual_pages >> resident_pages) {
    const double page = static_cast<double>(::sysconf(_SC_PAGESIZE));
    virtual_->Set(static_cast<double>(virtual_pages) * page);
    resident_->Set(static_cast<double>(resident_pages) * page);
  }
  std::error_code error;
  const std::filesystem::directory_iterator fds("/proc/self/fd", error);
  if (!error) open_fds_->Set(static_cast<double>(std::distance(begin(fds), end(fds))));
  rlimit limit = {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    max_fds_->Set(static_cast<double>(limit.rlim_cur));
  }
}

void StateMetrics::UpdateEngine(const EngineStats& stats) {
  queue_requests_->Set(stats.queued_requests);
  running_requests_->Set(stats.running_requests);
  kv_used_->Set(static_cast<double>(stats.kv_pages_used));
  kv_cached_->Set(static_cast<double>(stats.kv_pages_cached));
  kv_free_->Set(static_cast<double>(stats.kv_pages - stats.kv_pages_used - stats.kv_pages_cached));
  kv_usage_->Set(stats.kv_pages > 0 ? static_cast<double>(stats.kv_pages_used) / stats.kv_pages
                                    : 0);
  SetCounter(*prefix_queries_, static_cast<double>(stats.prefix_query_tokens));
  SetCounter(*prefix_hits_, static_cast<double>(stats.prefix_hit_tokens));
  SetCounter(*prefix_evictions_, static_cast<double>(stats.prefix_evicted_tokens));
  adapters_[0]->Set(stats.adapters_device);
  adapters_[1]->Set(stats.adapters_host);
  adapters_[2]->Set(stats.adapters_disk);
  for (int tag = 0; tag < kNumMemoryTags; ++tag) {
    memory_[tag]->Set(static_cast<double>(stats.memory[tag].used_bytes));
    memory_peak_[tag]->Set(static_cast<double>(stats.memory[tag].peak_bytes));
    memory_limit_[tag]->Set(static_cast<double>(stats.memory[tag].limit_bytes));
  }
  engine_healthy_->Set(stats.healthy ? 1 : 0);
}

}  // namespace lorad::server
