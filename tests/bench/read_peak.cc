#include "tests/bench/read_peak.h"

#include <time.h>

#include <algorithm>
#include <thread>
#include <vector>

namespace lorad::bench {
namespace {

volatile uint64_t sink;

// Eight independent sums of 64-byte lines: no load waits for another.
#if defined(__x86_64__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
uint64_t
Sum(const uint64_t* data, int64_t count) {
  constexpr int kLanes = 64;
  uint64_t sums[kLanes] = {};
  for (int64_t i = 0; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) sums[lane] += data[i + lane];
  uint64_t total = 0;
  for (const uint64_t sum : sums) total += sum;
  return total;
}

double ThreadCpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace

double MeasureReadBytesPerSecond(int64_t bytes, int num_threads) {
  const int64_t words = std::max<int64_t>(bytes / 8 / num_threads, 64) / 64 * 64;
  // Half a gigabyte a run, so that starting threads does not count.
  const int64_t rounds = std::max<int64_t>(1, (int64_t{1} << 29) / (words * 8 * num_threads));
  double best = 1e30;
  for (int run = 0; run < 5; ++run) {
    std::vector<double> seconds(num_threads);
    std::vector<std::thread> threads;
    for (double& mine : seconds) {
      threads.emplace_back([&mine, words, rounds] {
        const std::vector<uint64_t> share(words, 1);
        const double begin = ThreadCpuSeconds();
        uint64_t total = 0;
        for (int64_t i = 0; i < rounds; ++i) total += Sum(share.data(), words);
        mine = ThreadCpuSeconds() - begin;
        sink = total;
      });
    }
    for (std::thread& thread : threads) thread.join();
    best = std::min(best, *std::max_element(seconds.begin(), seconds.end()));
  }
  return static_cast<double>(words) * 8 * num_threads * static_cast<double>(rounds) / best;
}

}  // namespace lorad::bench
