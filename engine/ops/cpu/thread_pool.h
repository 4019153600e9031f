#ifndef LORAD_ENGINE_OPS_CPU_THREAD_POOL_H_
#define LORAD_ENGINE_OPS_CPU_THREAD_POOL_H_

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"

namespace lorad::cpu {

// Splits loops over a fixed set of threads. Ops are short and follow each other closely, so threads
// look for work for some microseconds before they sleep. Thread-compatible: one loop at a time, and
// no loop within a loop.
class ThreadPool {
 public:
  explicit ThreadPool(int num_threads);  // >= 1, the calling thread included
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // body(begin, end) over disjoint parts of [0, count), one a thread at most, each of at least
  // `grain` items. Returns when all are done. Only for items that do not depend on each other.
  void For(int64_t count, int64_t grain, absl::FunctionRef<void(int64_t, int64_t)> body);

  // body(i, thread) for each i in [0, count), by whichever thread is free, thread in
  // [0, num_threads()): for items of unlike cost. Started in ascending order.
  void ForEach(int64_t count, absl::FunctionRef<void(int64_t, int)> body);

 private:
  void Work(int index);
  void RunPart(int index) const;
  bool StoppedOrNew(int64_t seen) const {
    return stopping_.load(std::memory_order_relaxed) ||
           generation_.load(std::memory_order_acquire) != seen;
  }

  // The loop that runs: written before generation_ moves, read after.
  int64_t count_ = 0;
  int64_t part_ = 0;
  const absl::FunctionRef<void(int64_t, int64_t)>* body_ = nullptr;

  std::atomic<int64_t> generation_ = 0;
  std::atomic<int> pending_ = 0;
  std::atomic<bool> stopping_ = false;
  absl::Mutex mutex_;  // for sleeping only
  std::vector<std::thread> workers_;
};

}  // namespace lorad::cpu

#endif  // LORAD_ENGINE_OPS_CPU_THREAD_POOL_H_
