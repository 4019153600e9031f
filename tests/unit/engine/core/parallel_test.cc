#include "engine/core/parallel.h"

#include <atomic>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace lorad {
namespace {

TEST(ParallelForTest, CallsEachOnce) {
  for (const int threads : {1, 2, 7}) {
    std::vector<std::atomic<int>> calls(100);
    ParallelFor(100, threads, [&](int64_t i) { ++calls[i]; });
    for (const std::atomic<int>& count : calls) ASSERT_EQ(count, 1) << threads;
  }
  ParallelFor(0, 3, [](int64_t) { FAIL(); });
}

TEST(ParallelForTest, UsesTheThreadsItMay) {
  std::mutex mutex;
  std::set<std::thread::id> ids;
  std::atomic<int> arrived = 0;
  // Each call waits for the other: one thread alone would never end.
  ParallelFor(2, 2, [&](int64_t) {
    ++arrived;
    while (arrived < 2) std::this_thread::yield();
    const std::lock_guard<std::mutex> lock(mutex);
    ids.insert(std::this_thread::get_id());
  });
  EXPECT_EQ(ids.size(), 2u);
}

TEST(WorthwhileThreadsTest, SmallWorkTakesOne) {
  EXPECT_EQ(WorthwhileThreads(0), 1);
  EXPECT_EQ(WorthwhileThreads(1 << 20), 1);
  EXPECT_GE(WorthwhileThreads(int64_t{1} << 40), 1);
  EXPECT_LE(WorthwhileThreads(int64_t{1} << 40), std::max(1u, std::thread::hardware_concurrency()));
}

}  // namespace
}  // namespace lorad
