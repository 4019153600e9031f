#include "engine/ops/cpu/thread_pool.h"

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace lorad::cpu {
namespace {

TEST(ThreadPoolTest, ForCoversEachItemOnceInPartsOfAtLeastTheGrain) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.num_threads(), threads);
    for (int64_t count : {0, 1, 7, 64, 1000}) {
      for (int64_t grain : {1, 10, 5000}) {
        std::vector<std::atomic<int>> seen(count);
        std::atomic<int> parts = 0;
        pool.For(count, grain, [&](int64_t begin, int64_t end) {
          ++parts;
          EXPECT_TRUE(end - begin >= grain || end == count) << begin << " to " << end;
          for (int64_t i = begin; i < end; ++i) ++seen[i];
        });
        for (const auto& times : seen) EXPECT_EQ(times, 1);
        EXPECT_LE(parts, threads);
      }
    }
  }
}

TEST(ThreadPoolTest, ForEachRunsEachItemOnceOnThreadsOfItsOwn) {
  ThreadPool pool(4);
  for (int64_t count : {0, 1, 3, 500}) {
    std::vector<std::atomic<int>> seen(count), busy(4);
    pool.ForEach(count, [&](int64_t i, int thread) {
      ASSERT_TRUE(thread >= 0 && thread < 4);
      EXPECT_EQ(busy[thread]++, 0) << "two items at once on thread " << thread;
      ++seen[i];
      --busy[thread];
    });
    for (const auto& times : seen) EXPECT_EQ(times, 1);
  }
}

// Loops of which some come at once and some after the threads have gone to sleep.
TEST(ThreadPoolTest, WakesSleepersAndWaitsForAllParts) {
  ThreadPool pool(3);
  for (int round = 0; round < 300; ++round) {
    if (round % 100 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::vector<int> values(300, 0);  // not atomic: For's end must order the writes
    pool.For(300, 1, [&](int64_t begin, int64_t end) {
      if (begin > 0 && round % 50 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      for (int64_t i = begin; i < end; ++i) values[i] = static_cast<int>(i) + round;
    });
    for (int i = 0; i < 300; ++i) ASSERT_EQ(values[i], i + round);
  }
}

}  // namespace
}  // namespace lorad::cpu
