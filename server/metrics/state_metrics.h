// Gauges that are read when a scrape asks: the engine's state, the process, the disk.
#ifndef LORAD_SERVER_METRICS_STATE_METRICS_H_
#define LORAD_SERVER_METRICS_STATE_METRICS_H_

#include <array>
#include <map>
#include <string>

#include "engine/engine.h"
#include "server/metrics/builder.h"

namespace lorad::server {

// Thread-compatible.
class StateMetrics {
 public:
  StateMetrics(prometheus::Registry& registry, std::string state_dir);

  void SetQueueLimit(int32_t limit) { queue_limit_->Set(limit); }
  void SetReady(const std::string& service, bool ready);
  void SetDraining(bool draining) { draining_->Set(draining ? 1 : 0); }
  // The process and the disk.
  void UpdateProcess();
  void UpdateEngine(const EngineStats& stats);
  void SetAdaptersStored(int64_t count) { adapters_stored_->Set(static_cast<double>(count)); }

 private:
  void MakeEngine(prometheus::Registry& registry);
  void MakeProcess(prometheus::Registry& registry);

  const std::string state_dir_;
  prometheus::Family<prometheus::Gauge>* ready_;
  prometheus::Gauge* draining_;
  prometheus::Gauge* queue_requests_;
  prometheus::Gauge* queue_limit_;
  prometheus::Gauge* running_requests_;
  prometheus::Gauge* kv_used_;
  prometheus::Gauge* kv_cached_;
  prometheus::Gauge* kv_free_;
  prometheus::Gauge* kv_usage_;
  prometheus::Counter* prefix_queries_;
  prometheus::Counter* prefix_hits_;
  prometheus::Counter* prefix_evictions_;
  std::array<prometheus::Gauge*, 3> adapters_;  // device, host, disk
  prometheus::Gauge* adapters_stored_;
  std::array<prometheus::Gauge*, kNumMemoryTags> memory_;
  std::array<prometheus::Gauge*, kNumMemoryTags> memory_peak_;
  std::array<prometheus::Gauge*, kNumMemoryTags> memory_limit_;
  prometheus::Gauge* engine_healthy_;
  prometheus::Gauge* storage_free_;
  prometheus::Gauge* resident_;
  prometheus::Gauge* virtual_;
  prometheus::Counter* cpu_seconds_;
  prometheus::Gauge* open_fds_;
  prometheus::Gauge* max_fds_;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_METRICS_STATE_METRICS_H_
