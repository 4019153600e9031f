// Prompts in the KV cache: which pages a table shares, and that accounts stay exact.
#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "engine/device/backend.h"
#include "engine/kv/kv_cache.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using Tokens = std::vector<int32_t>;

constexpr int32_t kPageTokens = 2;
constexpr int64_t kBlockTokens = 4;

class KvPrefixTest : public testing::Test {
 protected:
  KvPrefixTest() : backend_(CreateCpuBackend()) {}

  absl::StatusOr<std::unique_ptr<KvCache>> Create(int64_t pages, int64_t block) {
    return KvCache::Create({.num_layers = 1,
                            .num_kv_heads = 1,
                            .head_dim = 1,
                            .num_pages = pages,
                            .page_tokens = kPageTokens,
                            .dtype = DType::kF32,
                            .prefix_block_tokens = block},
                           *backend_);
  }
  void Make(int64_t pages) {
    auto made = Create(pages, kBlockTokens);
    ASSERT_OK(made);
    cache_ = *std::move(made);
  }
  // A prompt that was computed and has ended.
  void Leave(const Tokens& prompt) {
    KvTable table;
    ASSERT_TRUE(cache_->Reserve(table, static_cast<int64_t>(prompt.size())));
    cache_->KeepPrefix(table, scope_, prompt);
    cache_->Release(table);
  }
  void ExpectPages(int64_t used, int64_t cached) {
    EXPECT_EQ(cache_->used_pages(), used);
    EXPECT_EQ(cache_->cached_pages(), cached);
    EXPECT_EQ(cache_->free_pages(), cache_->num_pages() - used);
  }

  const std::unique_ptr<Backend> backend_;
  const PrefixScope scope_ = {"base", "", ""};
  std::unique_ptr<KvCache> cache_;
};

TEST_F(KvPrefixTest, BlocksAreWholePages) {
  EXPECT_THAT(Create(8, 3), StatusIs(absl::StatusCode::kInvalidArgument, "blocks of 3 tokens"));
  EXPECT_THAT(Create(8, -4), StatusIs(absl::StatusCode::kInvalidArgument, "-4"));
  ASSERT_OK_AND_ASSIGN(cache_, Create(8, 0));
  Leave({1, 2, 3, 4, 5, 6, 7, 8});
  KvTable table;
  EXPECT_EQ(cache_->AdoptPrefix(table, scope_, Tokens{1, 2, 3, 4}), 0) << "it is off";
  ExpectPages(0, 0);
}

TEST_F(KvPrefixTest, AKnownPromptBringsItsPages) {
  Make(8);
  KvTable first;
  ASSERT_TRUE(cache_->Reserve(first, 10));
  cache_->KeepPrefix(first, scope_, Tokens{1, 2, 3, 4, 5, 6, 7, 8, 9});
  ExpectPages(5, 0);
  KvTable second;
  // Two whole blocks, one of which differs.
  EXPECT_EQ(cache_->AdoptPrefix(second, scope_, Tokens{1, 2, 3, 4, 5, 6, 7, 9}), kBlockTokens);
  EXPECT_EQ(second.pages(), first.pages().subspan(0, 2));
  ASSERT_TRUE(cache_->Reserve(second, 8));
  ExpectPages(7, 0);
  cache_->Release(first);
  ExpectPages(4, 2);  // the second block of the first; its last page held no whole one
  cache_->Release(second);
  ExpectPages(0, 4);
}

TEST_F(KvPrefixTest, LentPagesAreThoseOfPromptsThatNobodyUses) {
  Make(8);
  KvTable user;
  ASSERT_TRUE(cache_->Reserve(user, 4));  // pages 0 and 1
  cache_->KeepPrefix(user, scope_, Tokens{1, 2, 3, 4});
  Leave({5, 6, 7, 8});
  Leave({9, 10, 11, 12});
  ExpectPages(2, 4);
  EXPECT_EQ(cache_->Lend(7, MemoryTag::kAdapters), nullptr);
  EXPECT_EQ(cache_->evicted_tokens(), 0) << "for nothing";
  void* const lent = cache_->Lend(4, MemoryTag::kAdapters);
  ASSERT_NE(lent, nullptr);
  EXPECT_EQ(cache_->lent_pages(), 4);
  EXPECT_EQ(cache_->used_pages(), 2);
  EXPECT_EQ(cache_->free_pages(), 2);
  EXPECT_GT(cache_->evicted_tokens(), 0);
  KvTable again;
  EXPECT_EQ(cache_->AdoptPrefix(again, scope_, Tokens{1, 2, 3, 4}), 4) << "it is in use";
  cache_->Release(again);
  EXPECT_FALSE(cache_->Reserve(again, 6));
  ASSERT_TRUE(cache_->Reserve(again, 4));
  EXPECT_EQ(cache_->free_pages(), 0);
  cache_->TakeBack(lent, 4, MemoryTag::kAdapters);
  cache_->Release(again);
  cache_->Release(user);
  ExpectPages(0, 2);
}

TEST_F(KvPrefixTest, ATableTakesUpWhatOthersComputedMeanwhile) {
  Make(12);
  KvTable slow, quick;
  const Tokens prompt = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  ASSERT_TRUE(cache_->Reserve(slow, 10));
  ASSERT_TRUE(cache_->Reserve(quick, 10));
  ExpectPages(10, 0);
  cache_->KeepPrefix(quick, scope_, prompt);
  EXPECT_EQ(cache_->AdoptPrefix(slow, scope_, prompt), 8);
  EXPECT_EQ(slow.pages().subspan(0, 4), quick.pages().subspan(0, 4));
  EXPECT_NE(slow.pages()[4], quick.pages()[4]);
  ExpectPages(6, 0);
  cache_->Release(quick);
  ExpectPages(5, 0);
  cache_->Release(slow);
  ExpectPages(0, 4);
}

TEST_F(KvPrefixTest, TheSlowerOfTwoGivesItsPagesUp) {
  Make(8);
  KvTable slow, quick;
  ASSERT_TRUE(cache_->Reserve(slow, 4));
  ASSERT_TRUE(cache_->Reserve(quick, 4));
  cache_->KeepPrefix(quick, scope_, Tokens{1, 2, 3, 4});
  cache_->KeepPrefix(slow, scope_, Tokens{1, 2, 3, 4});
  EXPECT_EQ(slow.pages(), quick.pages());
  ExpectPages(2, 0);
  cache_->Release(slow);
  cache_->Release(quick);
  ExpectPages(0, 2);
}

TEST_F(KvPrefixTest, CachedPagesAreAsGoodAsFree) {
  Make(8);
  Leave({1, 2, 3, 4, 5, 6, 7, 8});
  Leave({11, 12, 13, 14, 15, 16, 17, 18});
  ExpectPages(0, 8);
  KvTable table;
  ASSERT_TRUE(cache_->Reserve(table, 6));  // three pages: two blocks go, the oldest's end first
  ExpectPages(3, 4);
  EXPECT_EQ(cache_->evicted_tokens(), 2 * kBlockTokens);
  KvTable known;
  EXPECT_EQ(cache_->AdoptPrefix(known, scope_, Tokens{1, 2, 3, 4}), 0);
  EXPECT_EQ(cache_->AdoptPrefix(known, scope_, Tokens{11, 12, 13, 14, 15, 16, 17, 18}), 8);
  ExpectPages(7, 0);
  EXPECT_FALSE(cache_->Reserve(table, 10)) << "what is used is not given up";
  EXPECT_TRUE(cache_->Reserve(table, 8));
  cache_->Release(table);
  cache_->Release(known);
  KvTable all;
  EXPECT_TRUE(cache_->Reserve(all, 16));
  ExpectPages(8, 0);
  cache_->Release(all);
}

TEST_F(KvPrefixTest, TheEndOfAPromptIsGivenUpBeforeItsBeginning) {
  Make(6);
  Leave({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
  KvTable table;
  ASSERT_TRUE(cache_->Reserve(table, 1));
  KvTable known;
  EXPECT_EQ(cache_->AdoptPrefix(known, scope_, Tokens{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}), 8);
  cache_->Release(known);
  cache_->Release(table);
}

TEST_F(KvPrefixTest, DroppedPrefixesAreFree) {
  Make(8);
  const PrefixScope adapted = {"base", "adapter", ""};
  KvTable table;
  ASSERT_TRUE(cache_->Reserve(table, 8));
  cache_->KeepPrefix(table, adapted, Tokens{1, 2, 3, 4});
  cache_->DropPrefixes("adapter");
  cache_->KeepPrefix(table, adapted, Tokens{1, 2, 3, 4, 5, 6, 7, 8});
  ExpectPages(4, 0);
  cache_->Release(table);
  ExpectPages(0, 0);
}

// A cache used at random, beside a shadow of it: each page's content is the tokens up to its end
// that were last written there.
class RandomUse {
 public:
  RandomUse(KvCache& cache, uint32_t seed) : cache_(cache), random_(seed) {}

  void Step() {
    const size_t i = Draw(kTables);
    Sequence& sequence = sequences_[i];
    switch (sequence.prompt.empty() ? 0 : 1 + Draw(4)) {
      case 0:
        Begin(sequence);
        break;
      case 1:
        End(sequence);
        break;
      default:
        Run(sequence);
    }
    Check();
  }
  void EndAll() {
    for (Sequence& sequence : sequences_) End(sequence);
    Check();
  }
  int64_t hits() const { return hits_; }

 private:
  static constexpr size_t kTables = 5;
  struct Sequence {
    KvTable table;
    PrefixScope scope;
    Tokens prompt;
    int64_t computed = 0;
  };

  size_t Draw(size_t bound) { return random_() % bound; }
  static std::string Content(const Sequence& sequence, int64_t page) {
    std::string content = sequence.scope.adapter + ":";
    for (int64_t i = 0; i < (page + 1) * kPageTokens; ++i)
      content += std::to_string(sequence.prompt[i]) + ",";
    return content;
  }

  void Begin(Sequence& sequence) {
    sequence.scope = {"base", std::string(1, static_cast<char>('a' + Draw(2))), ""};
    // Few tokens, so that prompts often begin alike.
    Tokens prompt(1 + Draw(14));
    for (int32_t& token : prompt) token = static_cast<int32_t>(Draw(8) / 7);
    sequence.prompt = prompt;
    sequence.computed = cache_.AdoptPrefix(sequence.table, sequence.scope, prompt);
    hits_ += sequence.computed;
    const int64_t missing = cache_.PagesFor(static_cast<int64_t>(prompt.size())) -
                            static_cast<int64_t>(sequence.table.pages().size());
    const bool fits = missing <= cache_.free_pages();
    EXPECT_EQ(cache_.Reserve(sequence.table, static_cast<int64_t>(prompt.size())), fits);
    if (!fits) End(sequence);
  }
  void Run(Sequence& sequence) {
    const auto size = static_cast<int64_t>(sequence.prompt.size());
    const int64_t shared = cache_.AdoptPrefix(sequence.table, sequence.scope, sequence.prompt);
    hits_ += std::max<int64_t>(0, shared - sequence.computed);
    sequence.computed = std::max(sequence.computed, shared);
    const int64_t end = std::min(size, (sequence.computed / kBlockTokens + 1) * kBlockTokens);
    for (int64_t page = sequence.computed / kPageTokens; page < end / kPageTokens; ++page)
      content_[sequence.table.pages()[page]] = Content(sequence, page);
    sequence.computed = end;
    cache_.KeepPrefix(sequence.table, sequence.scope,
                      absl::MakeConstSpan(sequence.prompt).subspan(0, end));
  }
  void End(Sequence& sequence) {
    cache_.Release(sequence.table);
    sequence.prompt.clear();
    sequence.computed = 0;
  }
  void Check() {
    std::set<int32_t> used;
    for (const Sequence& sequence : sequences_) {
      for (const int32_t page : sequence.table.pages()) used.insert(page);
      for (int64_t page = 0; page < sequence.computed / kPageTokens; ++page) {
        ASSERT_EQ(content_[sequence.table.pages()[page]], Content(sequence, page))
            << "a page was given to another while it was needed, or is another's";
      }
    }
    ASSERT_EQ(cache_.used_pages(), static_cast<int64_t>(used.size()));
    ASSERT_LE(cache_.used_pages() + cache_.cached_pages(), cache_.num_pages());
  }

  KvCache& cache_;
  std::mt19937 random_;
  Sequence sequences_[kTables];
  std::map<int32_t, std::string> content_;  // by page
  int64_t hits_ = 0;
};

TEST_F(KvPrefixTest, AccountsStayExactWhateverIsDone) {
  for (const uint32_t seed : {1u, 2u, 3u}) {
    Make(20);
    RandomUse use(*cache_, seed);
    for (int step = 0; step < 20'000 && !HasFailure(); ++step) {
      use.Step();
      if (step % 500 == 499) cache_->DropPrefixes(step % 1000 == 999 ? "a" : "b");
    }
    use.EndAll();
    EXPECT_GT(use.hits(), 1000);
    EXPECT_GT(cache_->evicted_tokens(), 100);
    EXPECT_EQ(cache_->used_pages(), 0);
    KvTable all;
    EXPECT_TRUE(cache_->Reserve(all, cache_->capacity_tokens())) << "no page was lost";
    cache_->Release(all);
  }
}

}  // namespace
}  // namespace lorad
