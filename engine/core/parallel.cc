#include "engine/core/parallel.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "engine/core/check.h"

namespace lorad {

int WorthwhileThreads(int64_t bytes) {
  constexpr int64_t kBytesOfThread = 4 << 20;
  const int64_t cores = std::max<int64_t>(std::thread::hardware_concurrency() / 4 * 3, 1);
  return static_cast<int>(std::clamp<int64_t>(bytes / kBytesOfThread, 1, cores));
}

void ParallelFor(int64_t count, int threads, const std::function<void(int64_t)>& body) {
  LORAD_CHECK(threads >= 1);
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t i = next++; i < count; i = next++) body(i);
  };
  std::vector<std::thread> others;
  const int64_t extra = std::min<int64_t>(threads, count) - 1;
  for (int64_t t = 0; t < extra; ++t) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
}

}  // namespace lorad
