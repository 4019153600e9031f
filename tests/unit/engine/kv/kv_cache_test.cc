#include "engine/kv/kv_cache.h"

#include <cstring>
#include <memory>
#include <set>

#include "engine/device/backend.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using absl::StatusCode;

class KvCacheTest : public testing::Test {
 protected:
  KvCacheTest() : backend_(CreateCpuBackend()) {}

  std::unique_ptr<KvCache> Make(int64_t pages) {
    options_ = {.num_layers = 3,
                .num_kv_heads = 2,
                .head_dim = 4,
                .num_pages = pages,
                .page_tokens = 8,
                .dtype = DType::kF32};
    absl::StatusOr<std::unique_ptr<KvCache>> cache = KvCache::Create(options_, *backend_);
    EXPECT_OK(cache);
    return *std::move(cache);
  }

  const std::unique_ptr<Backend> backend_;
  KvCacheOptions options_;
};

TEST_F(KvCacheTest, TakesOneTaggedBlock) {
  const std::unique_ptr<KvCache> cache = Make(10);
  // 3 layers, keys and values, 8 tokens of 2 heads of 4 floats.
  EXPECT_EQ(KvPageBytes(options_), 3 * 2 * 8 * 2 * 4 * 4);
  EXPECT_EQ(backend_->allocator().Usage(MemoryTag::kKvCache).used_bytes,
            10 * KvPageBytes(options_));
}

TEST_F(KvCacheTest, LayersDoNotOverlap) {
  const std::unique_ptr<KvCache> cache = Make(5);
  for (int64_t layer = 0; layer < 3; ++layer) {
    for (const TensorView& half : {cache->keys(layer), cache->values(layer)}) {
      EXPECT_EQ(half.shape, (Shape{5, 8, 2, 4}));
      std::memset(half.data, 0, half.size_bytes());
    }
  }
  float mark = 0;
  for (int64_t layer = 0; layer < 3; ++layer) {
    for (const TensorView& half : {cache->keys(layer), cache->values(layer)}) {
      ++mark;
      for (int64_t i = 0; i < half.num_elements(); ++i) half.as<float>()[i] += mark;
    }
  }
  mark = 0;
  for (int64_t layer = 0; layer < 3; ++layer) {
    for (const TensorView& half : {cache->keys(layer), cache->values(layer)}) {
      ++mark;
      for (int64_t i = 0; i < half.num_elements(); ++i) ASSERT_EQ(half.as<float>()[i], mark);
    }
  }
}

TEST_F(KvCacheTest, ReservesWholePagesAndKeepsThem) {
  const std::unique_ptr<KvCache> cache = Make(4);
  KvTable table;
  ASSERT_TRUE(cache->Reserve(table, 1));
  EXPECT_EQ(table.pages().size(), 1);
  const int32_t first = table.pages()[0];
  ASSERT_TRUE(cache->Reserve(table, 8));
  EXPECT_EQ(table.pages().size(), 1);
  ASSERT_TRUE(cache->Reserve(table, 9));
  EXPECT_EQ(table.pages().size(), 2);
  EXPECT_EQ(table.pages()[0], first);
  ASSERT_TRUE(cache->Reserve(table, 3));  // never shorter
  EXPECT_EQ(table.pages().size(), 2);
  EXPECT_EQ(cache->used_pages(), 2);
  cache->Release(table);
  EXPECT_TRUE(table.pages().empty());
  EXPECT_EQ(cache->free_pages(), 4);
}

TEST_F(KvCacheTest, AReservationThatDoesNotFitChangesNothing) {
  const std::unique_ptr<KvCache> cache = Make(4);
  KvTable a, b;
  ASSERT_TRUE(cache->Reserve(a, 20));  // 3 pages
  EXPECT_FALSE(cache->Reserve(b, 9));
  EXPECT_TRUE(b.pages().empty());
  EXPECT_FALSE(cache->Reserve(a, 33));
  EXPECT_EQ(a.pages().size(), 3);
  EXPECT_EQ(cache->free_pages(), 1);
  EXPECT_TRUE(cache->Reserve(b, 8));
  std::set<int32_t> pages(a.pages().begin(), a.pages().end());
  pages.insert(b.pages().begin(), b.pages().end());
  EXPECT_EQ(pages.size(), 4);
  cache->Release(a);
  cache->Release(b);
}

TEST_F(KvCacheTest, RefusesWhatCannotBe) {
  KvCacheOptions options = {.num_layers = 1, .num_kv_heads = 1, .head_dim = 4, .num_pages = 0};
  EXPECT_THAT(KvCache::Create(options, *backend_),
              StatusIs(StatusCode::kInvalidArgument, "0 pages"));
  options.num_pages = int64_t{1} << 60;
  EXPECT_THAT(KvCache::Create(options, *backend_),
              StatusIs(StatusCode::kResourceExhausted, "cannot be addressed"));
  options.num_pages = 100;
  backend_->allocator().SetLimit(MemoryTag::kKvCache, KvPageBytes(options) * 99);
  EXPECT_THAT(KvCache::Create(options, *backend_),
              StatusIs(StatusCode::kResourceExhausted, "kv_cache"));
}

}  // namespace
}  // namespace lorad
