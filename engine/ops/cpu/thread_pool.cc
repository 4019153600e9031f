#include "engine/ops/cpu/thread_pool.h"

#include <algorithm>

#include "engine/core/checked_math.h"

namespace lorad::cpu {
namespace {

// About 40 microseconds: longer than the gaps between the ops of a layer, too short to burn a core
// that has nothing to do.
constexpr int kSpins = 1000;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// True as soon as `condition` holds; false when it did not for a while.
template <typename Condition>
bool Spin(const Condition& condition) {
  for (int i = 0; i < kSpins; ++i) {
    if (condition()) return true;
    Pause();
  }
  return false;
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this, i] { Work(i); });
}

ThreadPool::~ThreadPool() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_.store(true, std::memory_order_relaxed);
  }
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::For(int64_t count, int64_t grain, absl::FunctionRef<void(int64_t, int64_t)> body) {
  if (count <= 0) return;
  const int64_t part = std::max(grain, CeilDiv(count, num_threads()));
  if (part >= count) return body(0, count);
  count_ = count;
  part_ = part;
  body_ = &body;
  pending_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  {
    absl::MutexLock lock(&mutex_);  // its release wakes the workers that sleep
    generation_.fetch_add(1, std::memory_order_release);
  }
  RunPart(0);
  const auto done = [this] { return pending_.load(std::memory_order_acquire) == 0; };
  if (Spin(done)) return;
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&done));
}

void ThreadPool::ForEach(int64_t count, absl::FunctionRef<void(int64_t, int)> body) {
  std::atomic<int64_t> next = 0;
  // A part is one number, that of the thread.
  For(std::min<int64_t>(count, num_threads()), 1, [&](int64_t thread, int64_t) {
    for (int64_t i = next++; i < count; i = next++) body(i, static_cast<int>(thread));
  });
}

void ThreadPool::RunPart(int index) const {
  const int64_t begin = std::min(index * part_, count_);
  const int64_t end = std::min(begin + part_, count_);
  if (begin < end) (*body_)(begin, end);
}

void ThreadPool::Work(int index) {
  int64_t seen = 0;
  while (true) {
    const auto ready = [this, seen] { return StoppedOrNew(seen); };
    if (!Spin(ready)) {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&ready));
    }
    if (stopping_.load(std::memory_order_relaxed)) return;
    seen = generation_.load(std::memory_order_acquire);
    RunPart(index);
    if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      absl::MutexLock lock(&mutex_);  // its release wakes a sleeping For
    }
  }
}

}  // namespace lorad::cpu
