// Threads for work that may block, so that gRPC's own threads never do.
#ifndef LORAD_SERVER_BASE_THREAD_POOL_H_
#define LORAD_SERVER_BASE_THREAD_POOL_H_

#include <cstddef>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace lorad::server {

// Thread-safe. The destructor runs what is queued and joins.
class ThreadPool {
 public:
  // REQUIRES: num_threads >= 1.
  ThreadPool(int num_threads, size_t max_queued);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // False when max_queued tasks wait already: the caller refuses its work.
  [[nodiscard]] bool TrySchedule(std::function<void()> task) ABSL_LOCKS_EXCLUDED(mu_);
  // Whatever the length of the queue: for the next part of work accepted before, of which the
  // caller keeps at most one queued.
  void Schedule(std::function<void()> task) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void Run();

  const size_t max_queued_;
  absl::Mutex mu_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_BASE_THREAD_POOL_H_
