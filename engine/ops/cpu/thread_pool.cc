#include "engine/ops/cpu/thread_pool.h"

#include <algorithm>

#include "engine/core/checked_math.h"

namespace lorad::cpu {

ThreadPool::ThreadPool(int num_threads) {
  for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this, i] { Work(i); });
}

ThreadPool::~ThreadPool() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::For(int64_t count, int64_t grain,
                     const std::function<void(int64_t, int64_t)>& body) {
  if (count <= 0) return;
  const int64_t part = std::max(grain, CeilDiv(count, num_threads()));
  if (part >= count) return body(0, count);
  {
    absl::MutexLock lock(&mutex_);
    count_ = count;
    part_ = part;
    body_ = &body;
    pending_ = static_cast<int>(workers_.size());
    ++generation_;
  }
  body(0, part);
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(
      +[](int* pending) { return *pending == 0; }, &pending_));
}

void ThreadPool::Work(int index) {
  int64_t seen = 0;
  while (true) {
    int64_t begin, end;
    const std::function<void(int64_t, int64_t)>* body;
    {
      absl::MutexLock lock(&mutex_);
      const auto ready = [this, seen]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stopping_ || generation_ != seen;
      };
      mutex_.Await(absl::Condition(&ready));
      if (stopping_) return;
      seen = generation_;
      begin = std::min(index * part_, count_);
      end = std::min(begin + part_, count_);
      body = body_;
    }
    if (begin < end) (*body)(begin, end);
    absl::MutexLock lock(&mutex_);
    --pending_;
  }
}

}  // namespace lorad::cpu
