// The engine under test: lorad's own, over a model and adapters that are in no file.
#ifndef LORAD_TESTS_BENCH_SERVE_ENGINE_H_
#define LORAD_TESTS_BENCH_SERVE_ENGINE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "engine/device/backend.h"
#include "engine/engine.h"
#include "engine/model/weights.h"
#include "tests/bench/bench_serve_options.h"
#include "tests/bench/load_driver.h"
#include "tests/bench/random_adapters.h"

namespace lorad::bench {

// Counts adapters that come onto the device and leave it. Thread-safe.
class AdapterTraffic final : public EngineObserver {
 public:
  struct Counts {
    std::vector<double> from_disk, from_host;  // seconds of each load
    int64_t failed = 0, evictions = 0, prefetches = 0;
  };
  Counts counts() const;

  void OnFirstToken(bool, double) override {}
  void OnInterToken(bool, double) override {}
  void OnRequestFinished(const TokenTimes&) override {}
  void OnServingStep(bool, int32_t, double) override {}
  void OnAdapterLoad(const char* source, const absl::Status& status, double seconds) override;
  void OnAdapterEviction() override;
  void OnAdapterPrefetch() override;

 private:
  mutable absl::Mutex mu_;
  Counts counts_ ABSL_GUARDED_BY(mu_);
};

// Thread-compatible; Start and CancelAll as LoadClient says.
class ServeEngine final : public LoadClient {
 public:
  // `config` as for the engine; what the parts say need not be set. All adapters of the case are
  // registered, those of ServeCase::churn behind them, and ServeCase::preload of them loaded.
  static absl::StatusOr<std::unique_ptr<ServeEngine>> Create(const ServeCase& options,
                                                             EngineConfig config,
                                                             std::shared_ptr<const Model> model,
                                                             std::shared_ptr<Backend> backend);
  ~ServeEngine() override;

  absl::Status Start(const PlannedRequest& request, RequestListener* listener) override;
  void CancelAll() override;

  Engine& engine() { return *engine_; }
  const AdapterTraffic& traffic() const { return traffic_; }
  int64_t adapter_bytes_each() const { return adapter_bytes_each_; }  // on the device, whole pages
  const std::vector<std::string>& adapter_ids() const { return adapter_ids_; }
  int64_t adapter_parameters() const { return adapter_parameters_; }

 private:
  ServeEngine(const ServeCase& options, std::shared_ptr<const Model> model,
              std::shared_ptr<Backend> backend);
  absl::Status RegisterAdapters(int64_t count);

  const std::shared_ptr<Backend> backend_;
  const std::shared_ptr<const Model> model_;
  const RandomAdapters random_adapters_;
  AdapterTraffic traffic_;
  std::unique_ptr<Engine> engine_;
  std::vector<std::string> adapter_ids_;
  int64_t adapter_bytes_each_ = 0, adapter_parameters_ = 0;
  std::vector<RequestId> started_;
};

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_SERVE_ENGINE_H_
