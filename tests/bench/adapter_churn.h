// Adapters that come onto the device one after another beside a load.
#ifndef LORAD_TESTS_BENCH_ADAPTER_CHURN_H_
#define LORAD_TESTS_BENCH_ADAPTER_CHURN_H_

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "engine/engine.h"
#include "tests/bench/json_lines.h"

namespace lorad::bench {

// Loads them in turn for as long as it lives. Where the device has not room for all of them, each
// load pushes out another that nobody uses.
class AdapterChurn {
 public:
  // Loads each of `ids` once, so that the host knows them, and begins: `rate` loads a second, or
  // with 0 one when the last is done. Errors of loading.
  static absl::StatusOr<std::unique_ptr<AdapterChurn>> Start(Engine& engine,
                                                             std::vector<std::string> ids,
                                                             double rate);
  ~AdapterChurn();

  // Ends it: {"loads", "loads_per_s", "ms"}, the times as of TimesJson, each until the adapter was
  // on the device. Errors of loading.
  absl::StatusOr<Json> Stop();

 private:
  AdapterChurn(Engine& engine, std::vector<std::string> ids, double rate)
      : engine_(engine), ids_(std::move(ids)), rate_(rate) {}
  void Run();
  // False: it is over.
  bool WaitUntil(double seconds);
  void Join();

  Engine& engine_;
  const std::vector<std::string> ids_;
  const double rate_;
  absl::Mutex mu_;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
  // The thread's, until it is joined.
  std::vector<double> seconds_;  // of each load
  double ran_ = 0;
  absl::Status failure_;
};

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_ADAPTER_CHURN_H_
