#include "engine/train/background_task.h"

#include <utility>

#include "engine/core/check.h"

namespace lorad {

BackgroundTask::~BackgroundTask() {
  if (thread_.joinable()) thread_.join();
}

void BackgroundTask::Start(std::function<absl::Status()> work) {
  LORAD_CHECK(!thread_.joinable());
  thread_ = std::thread([this, work = std::move(work)] {
    absl::Status result = work();
    absl::MutexLock lock(&mu_);
    result_ = std::move(result);
  });
}

std::optional<absl::Status> BackgroundTask::Await(absl::Duration timeout) {
  LORAD_CHECK(thread_.joinable());
  const auto done = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return result_.has_value(); };
  {
    absl::MutexLock lock(&mu_);
    if (!mu_.AwaitWithTimeout(absl::Condition(&done), timeout)) return std::nullopt;
  }
  thread_.join();
  absl::MutexLock lock(&mu_);
  return std::exchange(result_, std::nullopt);
}

}  // namespace lorad
