// Everything that Prometheus scrapes. Names and labels are documented by their help texts; they are
// part of lorad's interface: dashboards and alert rules in deploy/ stand on them.
#ifndef LORAD_SERVER_METRICS_METRICS_H_
#define LORAD_SERVER_METRICS_METRICS_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "server/adapters/adapter_observer.h"
#include "server/jobs/job_observer.h"
#include "server/rpc/rpc_observer.h"
#include "server/rpc/services.h"

namespace lorad::server {

// State that is read when a scrape asks for it. Members may be null while the daemon starts.
struct MetricsSources {
  const Engine* engine = nullptr;
  const AdapterRegistry* adapters = nullptr;
};

// Thread-safe. Every labelled series exists from the start with the value 0, so that a rate over
// its first event is right.
class Metrics : public EngineObserver,
                public JobObserver,
                public RpcObserver,
                public AdapterObserver {
 public:
  // `methods`: full names of the RPCs, "/lorad.v1.JobService/Submit".
  Metrics(const std::string& version, const std::string& revision, const std::string& state_dir,
          const std::vector<std::string>& methods);
  ~Metrics() override;

  // Once the engine is there: its model's info metric, and the gauges read from it.
  void SetSources(const MetricsSources& sources, int32_t queue_limit);
  // Before they go: a scrape that is under way ends first, later ones leave them out.
  void ClearSources();
  void SetReady(const std::string& service, bool ready);
  void SetDraining(bool draining);
  void OnTransaction(double seconds);

  // The page in Prometheus' text format 0.0.4. Tens of milliseconds at most; no lock of the engine
  // is held for longer than Engine::Stats takes.
  std::string Render();

  const Totals& totals() const;

  // EngineObserver.
  void OnFirstToken(bool adapter, double seconds) override;
  void OnInterToken(bool adapter, double seconds) override;
  void OnRequestFinished(const TokenTimes& times) override;
  void OnServingStep(bool prefill, int32_t rows, double seconds) override;
  void OnTrainingSlice(SlicePhase phase, double seconds) override;
  void OnItlTargetMissed() override;
  void OnAdapterLoad(const char* source, const absl::Status& status, double seconds) override;
  void OnAdapterEviction() override;
  void OnAdapterPrefetch() override;
  // JobObserver.
  void OnJobState(v1::JobState from, v1::JobState to) override;
  void OnJobFinished(const v1::Job& job) override;
  void OnJobRecovered(bool resumed) override;
  void OnJobQueued(double seconds) override;
  void OnStep(const StepReport& report) override;
  void OnEval(const EvalReport& report) override;
  void OnForecast(const v1::JobForecast& forecast) override;
  void OnCheckpoint(const CheckpointReport& report) override;
  void OnPublication(const PublicationReport& report) override;
  // RpcObserver.
  void OnCallStarted(absl::string_view method) override;
  void OnCallEnded(absl::string_view method, grpc::StatusCode code, double seconds) override;
  // AdapterObserver.
  void OnAliasMove(const absl::Status& status) override;
  void OnAdapterCheck(const absl::Status& status) override;

 private:
  struct State;
  const std::unique_ptr<State> state_;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_METRICS_METRICS_H_
