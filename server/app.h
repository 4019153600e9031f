// The daemon's object graph: what is made in which order, and how it ends.
#ifndef LORAD_SERVER_APP_H_
#define LORAD_SERVER_APP_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/adapters/adapter_registry.h"
#include "server/base/thread_pool.h"
#include "server/config.h"
#include "server/datasets/dataset_registry.h"
#include "server/http/http_server.h"
#include "server/jobs/job_manager.h"
#include "server/metrics/metrics.h"
#include "server/rpc/grpc_server.h"
#include "server/store/blob_store.h"
#include "server/store/sqlite_store.h"
#include "server/store/state_dir.h"

namespace lorad::server {

using EngineFactory =
    std::function<absl::StatusOr<std::unique_ptr<Engine>>(const EngineConfig& config)>;

// Thread-safe once started.
class App {
 public:
  // Brings everything up; serves when it returns. The HTTP listener answers from early on (ready
  // only at the end), the gRPC listener after the model is loaded. Nothing is started on an error.
  static absl::StatusOr<std::unique_ptr<App>> Start(const ServerConfig& config,
                                                    const EngineFactory& make_engine);
  // Drains.
  ~App();

  // Ends gracefully: says NOT_SERVING, refuses new work, ends the running job after its step with a
  // checkpoint, lets requests in flight finish for up to drain_timeout. Blocks. Idempotent.
  void Drain();
  // A device error has poisoned the engine: the process must end and be restarted.
  bool healthy() const { return engine_->Stats().healthy; }
  // Says NOT_SERVING because of it.
  void MarkUnhealthy();

  const std::string& grpc_address() const { return grpc_->address(); }
  const std::string& http_address() const { return http_->address(); }
  // "lorad ready grpc=... http=... model=... device=...".
  std::string ReadyLine() const;

 private:
  explicit App(const ServerConfig& config) : config_(config) {}

  absl::Status OpenState();
  absl::Status StartEngine(const EngineFactory& make_engine);
  absl::Status OpenRegistries();
  absl::Status StartServing();
  // Blobs that no record names: what a crash between a blob and its record left.
  absl::Status RemoveUnusedBlobs();
  // Parts of uploads that cannot be continued.
  absl::Status RemoveStaleUploads();
  void SetReady(bool ready, const std::string& why);

  const ServerConfig config_;
  ServerFacts facts_;
  std::atomic<bool> draining_ = false;
  mutable absl::Mutex ready_mu_;
  std::string not_ready_ ABSL_GUARDED_BY(ready_mu_) = "starting";

  // In the order of their making; each may use those before it until it is destroyed.
  std::unique_ptr<StateDir> state_dir_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<SqliteStore> store_;
  std::unique_ptr<LocalBlobStore> blobs_;
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<AdapterRegistry> adapters_;
  std::unique_ptr<DatasetRegistry> datasets_;
  std::unique_ptr<JobManager> jobs_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<ThreadPool> writers_;  // of streams
  Services services_;
  std::unique_ptr<GrpcServer> grpc_;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_APP_H_
