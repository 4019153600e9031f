#ifndef LORAD_ENGINE_OPS_CPU_THREAD_POOL_H_
#define LORAD_ENGINE_OPS_CPU_THREAD_POOL_H_

#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace lorad::cpu {

// Splits loops over a fixed set of threads, always at the same places: results do not depend on
// timing. Thread-compatible: one loop at a time.
class ThreadPool {
 public:
  explicit ThreadPool(int num_threads);  // >= 1, the calling thread included
  ~ThreadPool();

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // body(begin, end) over disjoint parts of [0, count), each of at least `grain` items; returns
  // when all are done. `body` must not call For.
  void For(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

 private:
  void Work(int index);

  absl::Mutex mutex_;
  int64_t generation_ ABSL_GUARDED_BY(mutex_) = 0;
  int pending_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t count_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t part_ ABSL_GUARDED_BY(mutex_) = 0;
  const std::function<void(int64_t, int64_t)>* body_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::vector<std::thread> workers_;
};

}  // namespace lorad::cpu

#endif  // LORAD_ENGINE_OPS_CPU_THREAD_POOL_H_
