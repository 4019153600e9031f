#include "engine/kv/kv_cache.h"

#include <cstring>
#include <memory>
#include <set>
#include <vector>

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

// Every number of `half`, which is [pages, tokens, heads, dim] with pages apart.
template <typename Visit>
void ForEach(const TensorView& half, const Visit& visit) {
  for (int64_t page = 0; page < half.shape[0]; ++page) {
    const TensorView rows = Rows(half, page, page + 1);
    for (int64_t i = 0; i < rows.num_elements(); ++i) visit(rows.as<float>()[i]);
  }
}

TEST_F(KvCacheTest, LayersDoNotOverlap) {
  const std::unique_ptr<KvCache> cache = Make(5);
  for (int64_t layer = 0; layer < 3; ++layer) {
    for (const TensorView& half : {cache->keys(layer), cache->values(layer)}) {
      EXPECT_EQ(half.shape, (Shape{5, 8, 2, 4}));
      EXPECT_EQ(half.stride() * SizeOf(half.dtype), cache->page_bytes());
      ForEach(half, [](float& value) { value = 0; });
    }
  }
  float mark = 0;
  for (int64_t layer = 0; layer < 3; ++layer) {
    for (const TensorView& half : {cache->keys(layer), cache->values(layer)}) {
      ++mark;
      ForEach(half, [&](float& value) { value += mark; });
    }
  }
  mark = 0;
  for (int64_t layer = 0; layer < 3; ++layer) {
    for (const TensorView& half : {cache->keys(layer), cache->values(layer)}) {
      ++mark;
      ForEach(half, [&](float& value) { ASSERT_EQ(value, mark); });
    }
  }
}

TEST_F(KvCacheTest, LendsWholePages) {
  const std::unique_ptr<KvCache> cache = Make(6);
  const auto used = [&](MemoryTag tag) { return backend_->allocator().Usage(tag).used_bytes; };
  KvTable table;
  ASSERT_TRUE(cache->Reserve(table, 9));  // pages 0 and 1
  void* const one = cache->Lend(1, MemoryTag::kAdapters);
  void* const three = cache->Lend(3, MemoryTag::kAdapters);
  ASSERT_NE(one, nullptr);
  ASSERT_NE(three, nullptr);
  EXPECT_EQ(cache->used_pages(), 2);
  EXPECT_EQ(cache->lent_pages(), 4);
  EXPECT_EQ(cache->free_pages(), 0);
  EXPECT_EQ(used(MemoryTag::kAdapters), 4 * cache->page_bytes());
  EXPECT_EQ(used(MemoryTag::kKvCache), 2 * cache->page_bytes());
  EXPECT_EQ(cache->Lend(1, MemoryTag::kAdapters), nullptr);
  // What is lent is no layer's of a page that a sequence has.
  const std::vector<char> pattern(4 * cache->page_bytes(), 7);
  std::memcpy(one, pattern.data(), cache->page_bytes());
  std::memcpy(three, pattern.data(), 3 * cache->page_bytes());
  for (int64_t layer = 0; layer < 3; ++layer) {
    for (const TensorView& half : {cache->keys(layer), cache->values(layer)}) {
      for (const int32_t page : table.pages()) {
        const TensorView rows = Rows(half, page, page + 1);
        std::memset(rows.data, 0, rows.size_bytes());
      }
    }
  }
  EXPECT_EQ(std::memcmp(one, pattern.data(), cache->page_bytes()), 0);
  EXPECT_EQ(std::memcmp(three, pattern.data(), 3 * cache->page_bytes()), 0);
  cache->TakeBack(three, 3, MemoryTag::kAdapters);
  cache->TakeBack(one, 1, MemoryTag::kAdapters);
  EXPECT_EQ(cache->lent_pages(), 0);
  EXPECT_EQ(cache->free_pages(), 4);
  EXPECT_EQ(used(MemoryTag::kAdapters), 0);
  EXPECT_EQ(used(MemoryTag::kKvCache), 6 * cache->page_bytes());
  cache->Release(table);
}

TEST_F(KvCacheTest, ARunThatIsNotThereIsNotLent) {
  const std::unique_ptr<KvCache> cache = Make(5);
  KvTable a, b, c;
  ASSERT_TRUE(cache->Reserve(a, 8));  // page 0
  ASSERT_TRUE(cache->Reserve(b, 8));
  ASSERT_TRUE(cache->Reserve(c, 8));  // page 2
  cache->Release(b);
  EXPECT_EQ(cache->free_pages(), 3);  // 1, 3, 4
  EXPECT_EQ(cache->Lend(3, MemoryTag::kAdapters), nullptr);
  EXPECT_EQ(cache->free_pages(), 3);
  void* const two = cache->Lend(2, MemoryTag::kAdapters);
  ASSERT_NE(two, nullptr);
  ASSERT_TRUE(cache->Reserve(b, 8));
  EXPECT_EQ(b.pages()[0], 1);
  for (KvTable* table : {&a, &b, &c}) cache->Release(*table);
  cache->TakeBack(two, 2, MemoryTag::kAdapters);
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
