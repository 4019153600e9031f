#include "server/metrics/metrics.h"

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "prometheus/text_serializer.h"
#include "server/metrics/rpc_metrics.h"
#include "server/metrics/serving_metrics.h"
#include "server/metrics/state_metrics.h"
#include "server/metrics/training_metrics.h"

namespace lorad::server {

struct Metrics::State {
  State(const std::string& state_dir, const std::vector<std::string>& methods)
      : serving(registry), training(registry), rpc(registry, methods), gauges(registry, state_dir) {
    transactions = &NewHistogram(registry, "lorad_db_transaction_seconds",
                                 "Time of one durable transaction.", kTransactionSeconds);
    scrape_seconds =
        &NewGauge(registry, "lorad_scrape_seconds", "Time it took to make the last page.");
  }

  prometheus::Registry registry;
  ServingMetrics serving;
  TrainingMetrics training;
  RpcMetrics rpc;
  Totals totals;
  prometheus::Histogram* transactions;
  prometheus::Gauge* scrape_seconds;

  absl::Mutex mu;  // one scrape at a time
  StateMetrics gauges ABSL_GUARDED_BY(mu);
  MetricsSources sources ABSL_GUARDED_BY(mu);
};

Metrics::Metrics(const std::string& version, const std::string& revision,
                 const std::string& state_dir, const std::vector<std::string>& methods)
    : state_(std::make_unique<State>(state_dir, methods)) {
  GaugeFamily(state_->registry, "lorad_build_info", "1; what runs is in the labels.")
      .Add({{"version", version}, {"revision", revision}, {"compiler", __VERSION__}})
      .Set(1);
}

Metrics::~Metrics() = default;

void Metrics::SetSources(const MetricsSources& sources, int32_t queue_limit) {
  const ModelInfo& model = sources.engine->model();
  GaugeFamily(state_->registry, "lorad_model_info", "1; the base model is in the labels.")
      .Add({{"model", model.name},
            {"architecture", model.architecture},
            {"quantization", model.quant},
            {"device", model.device},
            {"sha256_prefix", model.digest.substr(0, 12)}})
      .Set(1);
  absl::MutexLock lock(&state_->mu);
  state_->sources = sources;
  state_->gauges.SetQueueLimit(queue_limit);
}

void Metrics::ClearSources() {
  absl::MutexLock lock(&state_->mu);
  state_->sources = {};
}

void Metrics::SetReady(const std::string& service, bool ready) {
  absl::MutexLock lock(&state_->mu);
  state_->gauges.SetReady(service, ready);
}

void Metrics::SetDraining(bool draining) {
  absl::MutexLock lock(&state_->mu);
  state_->gauges.SetDraining(draining);
}

void Metrics::OnTransaction(double seconds) { state_->transactions->Observe(seconds); }

std::string Metrics::Render() {
  absl::MutexLock lock(&state_->mu);
  const absl::Time start = absl::Now();
  state_->gauges.UpdateProcess();
  if (state_->sources.engine != nullptr) {
    const EngineStats stats = state_->sources.engine->Stats();
    state_->gauges.UpdateEngine(stats);
    state_->training.SetShare(stats.training_share);
  }
  if (state_->sources.adapters != nullptr) {
    state_->gauges.SetAdaptersStored(state_->sources.adapters->NumAdapters());
  }
  std::string page = prometheus::TextSerializer().Serialize(state_->registry.Collect());
  state_->scrape_seconds->Set(absl::ToDoubleSeconds(absl::Now() - start));
  return page;
}

const Totals& Metrics::totals() const { return state_->totals; }

void Metrics::OnFirstToken(bool adapter, double seconds) {
  state_->serving.OnFirstToken(adapter, seconds);
}
void Metrics::OnInterToken(bool adapter, double seconds) {
  state_->serving.OnInterToken(adapter, seconds);
}
void Metrics::OnRequestFinished(const TokenTimes& times) {
  state_->totals.requests += 1;
  state_->totals.prompt_tokens += times.prompt_tokens;
  state_->totals.generated_tokens += times.generated_tokens;
  state_->serving.OnRequestFinished(times);
}
void Metrics::OnServingStep(bool prefill, int32_t rows, double seconds) {
  state_->serving.OnServingStep(prefill, rows, seconds);
}
void Metrics::OnTrainingSlice(SlicePhase phase, double seconds) {
  state_->training.OnSlice(phase, seconds);
}
void Metrics::OnItlTargetMissed() { state_->training.OnItlTargetMissed(); }
void Metrics::OnAdapterLoad(const char* source, const absl::Status& status, double seconds) {
  state_->serving.OnAdapterLoad(source, status, seconds);
}
void Metrics::OnAdapterPrefetch() { state_->serving.OnAdapterPrefetch(); }
void Metrics::OnAdapterEviction() { state_->serving.OnAdapterEviction(); }

void Metrics::OnJobState(v1::JobState from, v1::JobState to) {
  state_->training.OnJobState(from, to);
}
void Metrics::OnJobFinished(const v1::Job& job) { state_->training.OnJobFinished(job); }
void Metrics::OnJobRecovered(bool resumed) { state_->training.OnJobRecovered(resumed); }
void Metrics::OnJobQueued(double seconds) { state_->training.OnJobQueued(seconds); }
void Metrics::OnStep(const StepReport& report) {
  state_->totals.trained_tokens += report.tokens;
  state_->training.OnStep(report);
}
void Metrics::OnEval(const EvalReport& report) { state_->training.OnEval(report); }
void Metrics::OnForecast(const v1::JobForecast& forecast) { state_->training.OnForecast(forecast); }
void Metrics::OnPublication(const PublicationReport& report) {
  state_->training.OnPublication(report);
}
void Metrics::OnCheckpoint(const CheckpointReport& report) {
  state_->training.OnCheckpoint(report);
}

void Metrics::OnCallStarted(absl::string_view method) { state_->rpc.OnCallStarted(method); }
void Metrics::OnCallEnded(absl::string_view method, grpc::StatusCode code, double seconds) {
  state_->rpc.OnCallEnded(method, code, seconds);
}

void Metrics::OnAliasMove(const absl::Status& status) { state_->serving.OnAliasMove(status); }
void Metrics::OnAdapterCheck(const absl::Status& status) { state_->serving.OnAdapterCheck(status); }

}  // namespace lorad::server
