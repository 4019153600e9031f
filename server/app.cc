#include "server/app.h"

#include <filesystem>
#include <set>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "engine/io/sha256.h"
#include "server/base/listen_address.h"
#include "server/base/log.h"
#include "server/store/keys.h"
#include "server/version.h"

namespace lorad::server {
namespace {

// Calls that block: on the store, the disk, the engine's reading of data.
constexpr int kPoolThreads = 8;
constexpr size_t kPoolQueue = 4096;
constexpr int kWriterThreads = 4;  // a write takes 10 to 20 us: some 200,000 messages a second
// For calls that only wait (Watch, StreamStats) when everything else has ended.
constexpr absl::Duration kLastCalls = absl::Seconds(1);

void WarnIfExposed(const std::string& flag, const std::string& listen) {
  const absl::StatusOr<ListenAddress> address = ParseListenAddress(flag, listen);
  if (!address.ok() || IsLoopback(address->host)) return;
  Log(LogLevel::kWarning,
      absl::StrCat("--", flag, "=", listen,
                   " is reachable from other machines without "
                   "authentication or encryption; keep it inside a private network"));
}

absl::Status CheckAddresses(const ServerConfig& config) {
  ASSIGN_OR_RETURN(const ListenAddress grpc, ParseListenAddress("listen", config.listen));
  ASSIGN_OR_RETURN(const ListenAddress http, ParseListenAddress("http_listen", config.http_listen));
  RETURN_IF_ERROR(CheckCanListen("listen", grpc));
  RETURN_IF_ERROR(CheckCanListen("http_listen", http));
  if (grpc.port != 0 && grpc.port == http.port && grpc.host == http.host) {
    return absl::InvalidArgumentError(
        absl::StrCat("--listen and --http_listen are both ", config.listen));
  }
  WarnIfExposed("listen", config.listen);
  WarnIfExposed("http_listen", config.http_listen);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<App>> App::Start(const ServerConfig& config,
                                                const EngineFactory& make_engine) {
  RETURN_IF_ERROR(CheckAddresses(config));
  auto app = absl::WrapUnique(new App(config));
  RETURN_IF_ERROR(app->OpenState());
  RETURN_IF_ERROR(app->StartEngine(make_engine));
  RETURN_IF_ERROR(app->OpenRegistries());
  RETURN_IF_ERROR(app->StartServing());
  return app;
}

absl::Status App::OpenState() {
  ASSIGN_OR_RETURN(state_dir_, StateDir::Open(config_.state_dir));
  metrics_ =
      std::make_unique<Metrics>(kVersion, kRevision, state_dir_->path(), GrpcServer::MethodNames());
  ASSIGN_OR_RETURN(store_, SqliteStore::Open(state_dir_->DatabasePath(), [this](double seconds) {
                     metrics_->OnTransaction(seconds);
                   }));
  ASSIGN_OR_RETURN(blobs_, LocalBlobStore::Open(state_dir_->BlobsPath()));
  SetReady(false, "the model is being loaded");
  ASSIGN_OR_RETURN(http_, HttpServer::Start(config_.http_listen,
                                            {.metrics = [this] { return metrics_->Render(); },
                                             .not_ready =
                                                 [this] {
                                                   absl::MutexLock lock(&ready_mu_);
                                                   return not_ready_;
                                                 }}));
  return absl::OkStatus();
}

absl::Status App::StartEngine(const EngineFactory& make_engine) {
  EngineConfig engine_config = config_.engine;
  engine_config.observer = metrics_.get();
  ASSIGN_OR_RETURN(engine_, make_engine(engine_config));
  return absl::OkStatus();
}

absl::Status App::OpenRegistries() {
  ASSIGN_OR_RETURN(
      adapters_, AdapterRegistry::Open(store_.get(), blobs_.get(), engine_.get(), metrics_.get()));
  datasets_ =
      std::make_unique<DatasetRegistry>(store_.get(), blobs_.get(), engine_.get(),
                                        DatasetOptions{.uploads_dir = state_dir_->UploadsPath()});
  ASSIGN_OR_RETURN(jobs_,
                   JobManager::Create(store_.get(), adapters_.get(), datasets_.get(), engine_.get(),
                                      {.state_dir = state_dir_->path(),
                                       .jobs_dir = state_dir_->JobsPath(),
                                       .max_queued = config_.max_queued_jobs,
                                       .observer = metrics_.get()}));
  RETURN_IF_ERROR(RemoveUnusedBlobs());
  RETURN_IF_ERROR(RemoveStaleUploads());
  metrics_->SetSources({engine_.get(), adapters_.get()}, config_.engine.max_queued_requests);
  return absl::OkStatus();
}

absl::Status App::RemoveUnusedBlobs() {
  std::set<std::string> used;
  ASSIGN_OR_RETURN(const std::vector<KeyValue> adapters,
                   store_->Range({.prefix = keys::kAdapters}));
  for (const KeyValue& kv : adapters) {
    v1::Adapter adapter;
    if (adapter.ParseFromString(kv.value)) used.insert(adapter.sha256());
  }
  ASSIGN_OR_RETURN(const std::vector<KeyValue> datasets,
                   store_->Range({.prefix = keys::kDatasets}));
  for (const KeyValue& kv : datasets) {
    v1::Dataset dataset;
    if (dataset.ParseFromString(kv.value)) used.insert(dataset.sha256());
  }
  ASSIGN_OR_RETURN(const std::vector<KeyValue> jobs, store_->Range({.prefix = keys::kJobs}));
  for (const KeyValue& kv : jobs) {
    v1::Job job;
    if (!job.ParseFromString(kv.value) || IsFinal(job.state())) continue;
    used.insert(job.train_sha256());
    used.insert(job.eval_sha256());
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> blobs, blobs_->List());
  for (const std::string& id : blobs) {
    if (!used.contains(id)) RETURN_IF_ERROR(blobs_->Delete(id));
  }
  return absl::OkStatus();
}

absl::Status App::RemoveStaleUploads() {
  std::set<std::string> continuable;
  ASSIGN_OR_RETURN(const std::vector<KeyValue> uploads, store_->Range({.prefix = keys::kUploads}));
  for (const KeyValue& kv : uploads) {
    continuable.insert(DatasetRegistry::PartName(kv.key.substr(sizeof(keys::kUploads) - 1)));
  }
  std::vector<std::string> stale;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(state_dir_->UploadsPath(), error)) {
    if (!continuable.contains(entry.path().filename().string())) {
      stale.push_back(entry.path().string());
    }
  }
  for (const std::string& path : stale) {
    RETURN_IF_ERROR(std::filesystem::is_directory(path, error) ? RemoveDirectory(path)
                                                               : RemoveFile(path));
  }
  return absl::OkStatus();
}

absl::Status App::StartServing() {
  pool_ = std::make_unique<ThreadPool>(kPoolThreads, kPoolQueue);
  writers_ = std::make_unique<ThreadPool>(kWriterThreads, kPoolQueue);
  facts_.version = kVersion;
  facts_.grpc_listen = config_.listen;
  facts_.http_address = http_->address();
  facts_.start_time = absl::Now();
  facts_.uploads_dir = state_dir_->UploadsPath();
  facts_.max_stream_backlog_bytes = config_.max_stream_backlog_bytes;
  facts_.max_stream_stall = config_.max_stream_stall;
  facts_.max_queued_jobs = config_.max_queued_jobs;
  facts_.max_queued_requests = config_.engine.max_queued_requests;
  facts_.max_running_requests = config_.engine.max_running_requests;
  facts_.itl_target = absl::Milliseconds(config_.engine.itl_target_ms);
  services_ = {.engine = engine_.get(),
               .pool = pool_.get(),
               .writers = writers_.get(),
               .store = store_.get(),
               .adapters = adapters_.get(),
               .datasets = datasets_.get(),
               .jobs = jobs_.get(),
               .totals = &metrics_->totals(),
               .facts = &facts_,
               .draining = &draining_};
  ASSIGN_OR_RETURN(grpc_, GrpcServer::Start(config_.listen, &services_, metrics_.get()));
  facts_.grpc_port = grpc_->port();
  jobs_->Start();
  SetReady(true, "");
  return absl::OkStatus();
}

void App::SetReady(bool ready, const std::string& why) {
  {
    absl::MutexLock lock(&ready_mu_);
    not_ready_ = why;
  }
  for (const std::string& service : GrpcServer::ServiceNames()) metrics_->SetReady(service, ready);
  if (grpc_ != nullptr) grpc_->SetServing(ready);
}

std::string App::ReadyLine() const {
  const ModelInfo& model = engine_->model();
  return absl::StrCat("lorad ready grpc=", grpc_address(), " http=", http_address(),
                      " model=", model.name, " device=", model.device);
}

void App::MarkUnhealthy() { SetReady(false, "a device error needs a restart"); }

void App::Drain() {
  if (draining_.exchange(true)) return;
  const absl::Time deadline = absl::Now() + config_.drain_timeout;
  metrics_->SetDraining(true);
  SetReady(false, "shutting down");
  Log(LogLevel::kInfo, "draining: new work is refused");
  jobs_->Stop();
  engine_->Shutdown(deadline);
  grpc_->Shutdown(absl::Now() + kLastCalls);
  Log(LogLevel::kInfo, "drained");
}

App::~App() {
  if (grpc_ != nullptr) Drain();
  if (metrics_ != nullptr) metrics_->ClearSources();  // the HTTP listener outlives the engine
}

}  // namespace lorad::server
