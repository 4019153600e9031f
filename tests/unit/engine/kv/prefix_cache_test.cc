#include "engine/kv/prefix_cache.h"

#include <optional>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace lorad {
namespace {

using Tokens = std::vector<int32_t>;
using Block = PrefixCache::Block;

class PrefixCacheTest : public testing::Test {
 protected:
  static constexpr int64_t kBlockPages = 2;

  // What a sequence does that has computed a block: takes pages, has them kept, and holds both.
  Block* Compute(const PrefixScope& scope, const Block* parent, const Tokens& tokens) {
    const std::vector<int32_t> pages = {pool_.Take(), pool_.Take()};
    EXPECT_GE(pages[1], 0) << "the pool is empty";
    Block* const block = cache_.Add(scope, parent, tokens, pages);
    for (const int32_t page : pages) pool_.Return(page);  // the cache's reference is enough here
    return block;
  }
  // As above, by a sequence that ends at once.
  void Leave(const PrefixScope& scope, const Tokens& tokens) {
    cache_.StopUsing(*Compute(scope, nullptr, tokens));
  }
  bool Knows(const PrefixScope& scope, const Tokens& tokens) {
    return cache_.Find(scope, nullptr, tokens) != nullptr;
  }

  const PrefixScope scope_ = {"base", "adapter", "tenant"};
  PagePool pool_{16};
  PrefixCache cache_{pool_, kBlockPages};
};

TEST_F(PrefixCacheTest, FindsTheSameTokensUnderTheSameScopeAlone) {
  Block* const block = Compute(scope_, nullptr, {1, 2, 3, 4});
  EXPECT_EQ(cache_.Find(scope_, nullptr, {1, 2, 3, 4}), block);
  EXPECT_EQ(PrefixCache::Pages(*block).size(), kBlockPages);
  for (int i = 0; i < 4; ++i) {
    Tokens other = {1, 2, 3, 4};
    other[i] = 9;
    EXPECT_FALSE(Knows(scope_, other)) << i;
  }
  EXPECT_FALSE(Knows(scope_, {1, 2, 3}));
  EXPECT_FALSE(Knows(scope_, {1, 2, 3, 4, 5}));
  for (const PrefixScope& other :
       {PrefixScope{"other", "adapter", "tenant"}, PrefixScope{"base", "other", "tenant"},
        PrefixScope{"base", "adapter", "other"}, PrefixScope{"base", "", "tenant"},
        PrefixScope{"base", "adapter", ""}, PrefixScope{"base", "adapterten", "ant"}}) {
    EXPECT_FALSE(Knows(other, {1, 2, 3, 4})) << other.base << other.adapter << other.tenant;
  }
  cache_.StopUsing(*block);
  EXPECT_TRUE(Knows(scope_, {1, 2, 3, 4})) << "it stays when nobody uses it";
}

TEST_F(PrefixCacheTest, ABlockIsFoundAfterItsParentAlone) {
  Block* const a = Compute(scope_, nullptr, {1, 1});
  Block* const b = Compute(scope_, nullptr, {2, 2});
  Block* const below_a = Compute(scope_, a, {3, 3});
  EXPECT_EQ(cache_.Find(scope_, a, {3, 3}), below_a);
  EXPECT_EQ(cache_.Find(scope_, b, {3, 3}), nullptr);
  EXPECT_EQ(cache_.Find(scope_, nullptr, {3, 3}), nullptr);
  EXPECT_EQ(cache_.Find(scope_, a, {1, 1}), nullptr);
  Block* const below_b = Compute(scope_, b, {3, 3});
  EXPECT_NE(below_a, below_b);
  for (Block* block : {below_a, below_b, a, b}) cache_.StopUsing(*block);
}

TEST_F(PrefixCacheTest, AParentThatCameBackDoesNotFindItsOldChildren) {
  Block* parent = Compute(scope_, nullptr, {1, 1});
  Block* child = Compute(scope_, parent, {2, 2});
  cache_.StopUsing(*child);
  cache_.StopUsing(*parent);
  EXPECT_TRUE(cache_.EvictOne());  // the child
  EXPECT_TRUE(cache_.EvictOne());
  EXPECT_FALSE(cache_.EvictOne());
  parent = Compute(scope_, nullptr, {1, 1});
  EXPECT_EQ(cache_.Find(scope_, parent, {2, 2}), nullptr);
  cache_.StopUsing(*parent);
}

TEST_F(PrefixCacheTest, HoldsOneReferenceOfEachPage) {
  const std::vector<int32_t> pages = {pool_.Take(), pool_.Take()};
  Block* const block = cache_.Add(scope_, nullptr, Tokens{1}, pages);
  EXPECT_EQ(cache_.unused_pages(), 0);
  for (const int32_t page : pages) pool_.Return(page);
  EXPECT_EQ(pool_.used(), kBlockPages) << "the cache's reference is left";
  cache_.Use(*block);
  cache_.StopUsing(*block);
  EXPECT_FALSE(cache_.EvictOne()) << "one user is left";
  cache_.StopUsing(*block);
  EXPECT_EQ(cache_.unused_pages(), kBlockPages);
  EXPECT_TRUE(cache_.EvictOne());
  EXPECT_EQ(pool_.used(), 0);
  EXPECT_EQ(cache_.unused_pages(), 0);
  EXPECT_EQ(cache_.evicted_blocks(), 1);
}

TEST_F(PrefixCacheTest, TheLeastRecentlyUsedGoesFirst) {
  Leave(scope_, {1});
  Leave(scope_, {2});
  Leave(scope_, {3});
  Block* const first = cache_.Find(scope_, nullptr, {1});
  cache_.Use(*first);
  cache_.StopUsing(*first);
  EXPECT_TRUE(cache_.EvictOne());
  EXPECT_FALSE(Knows(scope_, {2}));
  EXPECT_TRUE(cache_.EvictOne());
  EXPECT_FALSE(Knows(scope_, {3}));
  EXPECT_TRUE(Knows(scope_, {1}));
}

TEST_F(PrefixCacheTest, DropsAnAdaptersBlocks) {
  const PrefixScope same_adapter = {"base", "adapter", "another tenant"};
  const PrefixScope base_model = {"base", "", "tenant"};
  Leave(scope_, {1});
  Leave(same_adapter, {1});
  Leave(base_model, {1});
  cache_.DropAdapter("adapter");
  EXPECT_FALSE(Knows(scope_, {1}));
  EXPECT_FALSE(Knows(same_adapter, {1}));
  EXPECT_TRUE(Knows(base_model, {1}));
  EXPECT_EQ(pool_.used(), kBlockPages);
  EXPECT_EQ(cache_.evicted_blocks(), 0) << "nobody needed the pages";
}

TEST_F(PrefixCacheTest, WhatIsUsedWhenDroppedGoesWithItsLastUser) {
  Block* const parent = Compute(scope_, nullptr, {1});
  Block* const child = Compute(scope_, parent, {2});
  cache_.DropAdapter("adapter");
  EXPECT_FALSE(Knows(scope_, {1}));
  EXPECT_EQ(cache_.Find(scope_, parent, {2}), nullptr);
  EXPECT_EQ(cache_.Add(scope_, child, Tokens{3}, PrefixCache::Pages(*child)), nullptr);
  EXPECT_EQ(pool_.used(), 2 * kBlockPages);
  // The same prompt, computed again meanwhile, has nothing to do with it.
  Block* const again = Compute(scope_, nullptr, {1});
  cache_.StopUsing(*child);
  cache_.StopUsing(*parent);
  EXPECT_EQ(pool_.used(), kBlockPages);
  EXPECT_EQ(cache_.Find(scope_, nullptr, {1}), again);
  cache_.StopUsing(*again);
}

TEST(PrefixCacheDeathTest, ABlockThatIsUsedMustNotOutliveTheCache) {
  EXPECT_DEATH(
      {
        PagePool pool(1);
        PrefixCache cache(pool, 1);
        cache.Add({"base", "", ""}, nullptr, Tokens{1}, Tokens{pool.Take()});
      },
      "check failed");
}

}  // namespace
}  // namespace lorad
