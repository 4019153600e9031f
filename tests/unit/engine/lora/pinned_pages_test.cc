#include "engine/lora/pinned_pages.h"

#include <memory>
#include <utility>
#include <vector>

#include "engine/device/backend.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

constexpr int64_t kPage = 4096;

class PinnedPagesTest : public testing::Test {
 protected:
  int64_t Used() const { return backend_->allocator().Usage(MemoryTag::kPinned).used_bytes; }
  static std::vector<DeviceBuffer> Take(PinnedPages& pages, int count) {
    std::vector<DeviceBuffer> taken;
    for (int i = 0; i < count; ++i) {
      absl::StatusOr<DeviceBuffer> page = pages.Take();
      EXPECT_OK(page);
      EXPECT_EQ(page->size_bytes(), kPage);
      static_cast<char*>(page->data())[kPage - 1] = 1;
      taken.push_back(*std::move(page));
    }
    return taken;
  }
  static void Return(PinnedPages& pages, std::vector<DeviceBuffer> taken) {
    for (DeviceBuffer& page : taken) pages.Return(std::move(page));
  }

  const std::unique_ptr<Backend> backend_ = CreateCpuBackend();
};

TEST_F(PinnedPagesTest, KeepsWhatWasTakenUpToTheLimit) {
  PinnedPages pages(backend_->allocator(), kPage, 3 * kPage);
  Return(pages, Take(pages, 5));
  EXPECT_EQ(Used(), 3 * kPage);
  Return(pages, Take(pages, 2));
  EXPECT_EQ(Used(), 3 * kPage);
}

TEST_F(PinnedPagesTest, WhatIsWarmIsOneBlockWithinTheLimit) {
  {
    PinnedPages pages(backend_->allocator(), kPage, 4 * kPage);
    ASSERT_OK(pages.Warm(3 * kPage + 17));
    EXPECT_EQ(Used(), 3 * kPage);
    std::vector<DeviceBuffer> taken = Take(pages, 3);
    EXPECT_EQ(Used(), 3 * kPage);
    for (int i = 1; i < 3; ++i)
      EXPECT_EQ(static_cast<char*>(taken[i].data()) - static_cast<char*>(taken[0].data()),
                i * kPage);
    std::vector<DeviceBuffer> more = Take(pages, 4);
    EXPECT_EQ(Used(), 7 * kPage);
    // Pages beyond the limit go, but none of the block, which is there in any case.
    Return(pages, std::move(taken));
    EXPECT_EQ(Used(), 7 * kPage);
    Return(pages, std::move(more));
    EXPECT_EQ(Used(), 4 * kPage);
    Return(pages, Take(pages, 4));
    EXPECT_EQ(Used(), 4 * kPage);
  }
  EXPECT_EQ(Used(), 0);
  PinnedPages none(backend_->allocator(), kPage, kPage - 1);
  ASSERT_OK(none.Warm(kPage));
  EXPECT_EQ(Used(), 0);
}

TEST_F(PinnedPagesTest, AddsWhatLacksWithinTheLimit) {
  PinnedPages pages(backend_->allocator(), kPage, 4 * kPage);
  ASSERT_OK(pages.Warm(2 * kPage));
  EXPECT_FALSE(pages.Lacks(2 * kPage + 17));
  std::vector<DeviceBuffer> taken = Take(pages, 1);
  EXPECT_TRUE(pages.Lacks(2 * kPage));
  pages.Add(2 * kPage);
  EXPECT_FALSE(pages.Lacks(2 * kPage));
  std::vector<DeviceBuffer> more = Take(pages, 2);
  EXPECT_TRUE(pages.Lacks(2 * kPage));
  pages.Add(2 * kPage);
  EXPECT_FALSE(pages.Lacks(2 * kPage));  // one, but four are all that may be
  EXPECT_EQ(Used(), 4 * kPage);
  backend_->allocator().SetLimit(MemoryTag::kPinned, 4 * kPage);
  PinnedPages poor(backend_->allocator(), kPage, 4 * kPage);
  EXPECT_TRUE(poor.Lacks(kPage));
  poor.Add(kPage);
  EXPECT_FALSE(poor.Lacks(kPage));
  Return(pages, std::move(taken));
  Return(pages, std::move(more));
}

}  // namespace
}  // namespace lorad
