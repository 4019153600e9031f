#include "tests/bench/adapter_churn.h"

#include <chrono>
#include <utility>

#include "absl/time/time.h"
#include "engine/core/status_macros.h"
#include "tests/bench/load_driver.h"
#include "tests/bench/load_report.h"

namespace lorad::bench {

absl::StatusOr<std::unique_ptr<AdapterChurn>> AdapterChurn::Start(Engine& engine,
                                                                  std::vector<std::string> ids,
                                                                  double rate) {
  for (const std::string& id : ids) RETURN_IF_ERROR(engine.LoadAdapter(id));
  std::unique_ptr<AdapterChurn> churn(new AdapterChurn(engine, std::move(ids), rate));
  churn->thread_ = std::thread([churn = churn.get()] { churn->Run(); });
  return churn;
}

AdapterChurn::~AdapterChurn() { Join(); }

void AdapterChurn::Run() {
  const auto began = Clock::now();
  const auto now = [&] { return std::chrono::duration<double>(Clock::now() - began).count(); };
  for (size_t i = 0; failure_.ok(); ++i) {
    const double due = rate_ > 0 ? static_cast<double>(i) / rate_ : 0;
    if (!WaitUntil(due - now())) break;
    const double at = now();
    failure_ = engine_.LoadAdapter(ids_[i % ids_.size()]);
    seconds_.push_back(now() - at);
  }
  ran_ = now();
}

bool AdapterChurn::WaitUntil(double seconds) {
  absl::MutexLock lock(&mu_);
  mu_.AwaitWithTimeout(absl::Condition(&stop_), absl::Seconds(seconds));
  return !stop_;
}

void AdapterChurn::Join() {
  {
    absl::MutexLock lock(&mu_);
    stop_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

absl::StatusOr<Json> AdapterChurn::Stop() {
  Join();
  RETURN_IF_ERROR(failure_);
  return Json{{"loads", seconds_.size()},
              {"loads_per_s", static_cast<double>(seconds_.size()) / ran_},
              {"ms", TimesJson(seconds_)}};
}

}  // namespace lorad::bench
