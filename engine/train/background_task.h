#ifndef LORAD_ENGINE_TRAIN_BACKGROUND_TASK_H_
#define LORAD_ENGINE_TRAIN_BACKGROUND_TASK_H_

#include <functional>
#include <optional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace lorad {

// One piece of work at a time on a thread of its own: files and checksums, which take seconds that
// the engine thread does not have. Thread-compatible.
class BackgroundTask {
 public:
  BackgroundTask() = default;
  BackgroundTask(const BackgroundTask&) = delete;
  BackgroundTask& operator=(const BackgroundTask&) = delete;
  ~BackgroundTask();  // waits for the work

  // REQUIRES: none runs, and the last one's result was taken.
  void Start(std::function<absl::Status()> work);
  // Waits up to `timeout` for the end of the work; its result, once, or nothing while it runs.
  // REQUIRES: Start() was called since the last result.
  std::optional<absl::Status> Await(absl::Duration timeout);

 private:
  std::thread thread_;
  absl::Mutex mu_;
  std::optional<absl::Status> result_ ABSL_GUARDED_BY(mu_);
};

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_BACKGROUND_TASK_H_
