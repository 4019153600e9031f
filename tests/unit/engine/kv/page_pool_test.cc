#include "engine/kv/page_pool.h"

#include <set>

#include "gtest/gtest.h"

namespace lorad {
namespace {

TEST(PagePoolTest, GivesEachPageOnce) {
  PagePool pool(5);
  std::set<int32_t> pages;
  for (int i = 0; i < 5; ++i) pages.insert(pool.Take());
  EXPECT_EQ(pages, (std::set<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(pool.free(), 0);
  EXPECT_EQ(pool.used(), 5);
  EXPECT_EQ(pool.Take(), -1);
}

TEST(PagePoolTest, TakesBackInAnyOrder) {
  PagePool pool(3);
  for (int i = 0; i < 3; ++i) pool.Take();
  pool.Return(1);
  EXPECT_EQ(pool.free(), 1);
  EXPECT_EQ(pool.Take(), 1);
  pool.Return(0);
  pool.Return(2);
  EXPECT_EQ(pool.free(), 2);
}

TEST(PagePoolTest, SharedPageIsFreeWhenTheLastLetsGo) {
  PagePool pool(1);
  const int32_t page = pool.Take();
  pool.Share(page);
  pool.Return(page);
  EXPECT_EQ(pool.free(), 0);
  EXPECT_EQ(pool.Take(), -1);
  pool.Return(page);
  EXPECT_EQ(pool.free(), 1);
}

TEST(PagePoolDeathTest, ReturningAFreePageEndsTheProcess) {
  PagePool pool(2);
  const int32_t page = pool.Take();
  pool.Return(page);
  EXPECT_DEATH(pool.Return(page), "check failed");
}

TEST(PagePoolTest, RunsAreTheLowestThatFit) {
  PagePool pool(6);
  EXPECT_EQ(pool.Take(), 0);
  EXPECT_EQ(pool.Take(), 1);
  EXPECT_EQ(pool.Take(), 2);
  pool.Return(1);
  EXPECT_EQ(pool.TakeRun(2), 3);
  EXPECT_EQ(pool.used(), 4);
  EXPECT_EQ(pool.TakeRun(2), -1);  // 1 and 5 do not touch
  EXPECT_EQ(pool.used(), 4);
  EXPECT_EQ(pool.TakeRun(1), 1);
  EXPECT_EQ(pool.Take(), 5);
  EXPECT_EQ(pool.Take(), -1);
  EXPECT_EQ(pool.TakeRun(1), -1);
  for (const int32_t page : {3, 4, 5}) pool.Return(page);
  EXPECT_EQ(pool.TakeRun(3), 3);
}

}  // namespace
}  // namespace lorad
