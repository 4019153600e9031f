// What the services stand on.
#ifndef LORAD_SERVER_RPC_SERVICES_H_
#define LORAD_SERVER_RPC_SERVICES_H_

#include <atomic>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "server/adapters/adapter_registry.h"
#include "server/base/thread_pool.h"
#include "server/datasets/dataset_registry.h"
#include "server/jobs/job_manager.h"
#include "server/store/store.h"

namespace lorad::server {

// Totals since start, for AdminService.StreamStats. Thread-safe.
struct Totals {
  std::atomic<int64_t> prompt_tokens = 0;
  std::atomic<int64_t> generated_tokens = 0;
  std::atomic<int64_t> requests = 0;
  std::atomic<int64_t> trained_tokens = 0;
};

struct ServerFacts {
  std::string version;
  std::string grpc_listen;         // as the flag says
  std::atomic<int> grpc_port = 0;  // set once the listener has one
  std::string http_address;
  absl::Time start_time;
  std::string uploads_dir;  // for unfinished imports
  int64_t max_message_bytes = int64_t{8} << 20;
  int64_t max_adapter_bytes = int64_t{4} << 30;
  int32_t max_queued_jobs = 0;
  int32_t max_queued_requests = 0;
  int32_t max_running_requests = 0;
  absl::Duration itl_target;  // zero: none
  // Output that a stream may have waiting for its reader, and how long the reader may take for one
  // message, before it is cut off.
  int64_t max_stream_backlog_bytes = int64_t{1} << 20;
  absl::Duration max_stream_stall = absl::Seconds(30);
};

// Not owned; all outlive the gRPC server.
struct Services {
  Engine* engine = nullptr;
  ThreadPool* pool = nullptr;
  ThreadPool* writers = nullptr;  // of streams: short tasks that do not block
  Store* store = nullptr;
  AdapterRegistry* adapters = nullptr;
  DatasetRegistry* datasets = nullptr;
  JobManager* jobs = nullptr;
  const Totals* totals = nullptr;
  const ServerFacts* facts = nullptr;
  const std::atomic<bool>* draining = nullptr;
};

// kUnavailable with RetryInfo while the server drains.
absl::Status CheckNotDraining(const Services& services);

}  // namespace lorad::server

#endif  // LORAD_SERVER_RPC_SERVICES_H_
