// The prefix cache in serving: a known prompt gives what a new one gives, to the bit, and nobody
// else's; and what is kept costs nobody anything.
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/engine/sched/serving_harness.h"

namespace lorad {
namespace {

using Sinks = std::vector<std::shared_ptr<RecordingSink>>;

constexpr int kChunk = 32;  // two pages
constexpr int kAnswer = 6;

HarnessOptions Chunked(bool prefix_cache = true) {
  HarnessOptions options;
  options.chunk_tokens = kChunk;
  options.prefix_cache = prefix_cache;
  return options;
}

int64_t PrefillRows(const ServingHarness& harness) {
  return std::accumulate(harness.prefill_rows.begin(), harness.prefill_rows.end(), int64_t{0});
}

// Equal to the bit: ids, and the log-probabilities that the logits gave.
void ExpectSame(const RecordingSink& a, const RecordingSink& b) {
  EXPECT_EQ(a.ids, b.ids);
  ASSERT_EQ(a.logprobs.size(), b.logprobs.size());
  for (size_t i = 0; i < a.logprobs.size(); ++i) {
    EXPECT_EQ(a.logprobs[i].logprob, b.logprobs[i].logprob) << i;
    EXPECT_EQ(a.logprobs[i].top, b.logprobs[i].top) << i;
  }
}

class PrefixTest : public testing::Test {
 protected:
  // The prompt of `count` tokens that begins like every other of this seed.
  GenerateRequest Request(int seed, int count, const std::string& adapter = "") {
    std::vector<int32_t> prompt = warm_.LongPrompt(seed, 160);
    prompt.resize(count);
    GenerateRequest request = ServingHarness::Greedy(std::move(prompt), kAnswer, adapter);
    request.logprobs = 5;
    return request;
  }
  std::string Register(const char* name) {
    const std::string id = warm_.Register(warm_.golden.AdapterDir(name));
    EXPECT_EQ(cold_.Register(cold_.golden.AdapterDir(name)), id);
    return id;
  }
  // Serves it with and without the cache, and wants the same; returns the tokens that were known.
  int32_t CachedTokens(const GenerateRequest& request) {
    const auto warm = warm_.Solo(request), cold = cold_.Solo(request);
    ExpectSame(*warm, *cold);
    if (!warm->result.has_value() || !cold->result.has_value()) {
      ADD_FAILURE() << warm->error << cold->error;
      return -1;
    }
    EXPECT_EQ(cold->result->cached_tokens, 0);
    EXPECT_EQ(warm->result->prompt_tokens, static_cast<int32_t>(request.prompt.size()));
    return warm->result->cached_tokens;
  }

  ServingHarness warm_{Chunked()};
  ServingHarness cold_{Chunked(/*prefix_cache=*/false)};
};

TEST_F(PrefixTest, AKnownPromptGivesTheSameAnswerToTheBit) {
  const std::string adapter = Register("adapter_step8");
  for (const std::string& id : {std::string(), adapter}) {
    EXPECT_EQ(CachedTokens(Request(1, 100, id)), 0);
    EXPECT_EQ(CachedTokens(Request(1, 100, id)), 96);
    // Whole chunks only, and the last token is always run.
    EXPECT_EQ(CachedTokens(Request(1, 97, id)), 96);
    EXPECT_EQ(CachedTokens(Request(1, 96, id)), 64);
    EXPECT_EQ(CachedTokens(Request(1, 95, id)), 64);
    EXPECT_EQ(CachedTokens(Request(1, 33, id)), 32);
    EXPECT_EQ(CachedTokens(Request(1, 32, id)), 0);
    EXPECT_EQ(CachedTokens(Request(1, 1, id)), 0);
    // A longer one adds what is new, for the next.
    EXPECT_EQ(CachedTokens(Request(1, 150, id)), 96);
    EXPECT_EQ(CachedTokens(Request(1, 150, id)), 128);
  }
  EXPECT_EQ(warm_.cache->used_pages(), 0);
  EXPECT_EQ(warm_.scheduler->prefixes().query_tokens(),
            2 * (100 + 100 + 97 + 96 + 95 + 33 + 32 + 1 + 150 + 150));
  EXPECT_EQ(warm_.scheduler->prefixes().hit_tokens(), 2 * (96 + 96 + 64 + 64 + 32 + 96 + 128));
  EXPECT_EQ(cold_.scheduler->prefixes().query_tokens(), 0);
}

TEST_F(PrefixTest, KnownTokensAreNotRun) {
  warm_.Solo(Request(1, 100));
  EXPECT_EQ(warm_.prefill_rows, (std::vector<int32_t>{32, 32, 32, 4}));
  warm_.prefill_rows.clear();
  warm_.Solo(Request(1, 100));
  EXPECT_EQ(warm_.prefill_rows, std::vector<int32_t>{4});
}

TEST_F(PrefixTest, PromptsThatPartWaysShareTheBeginning) {
  GenerateRequest other = Request(1, 100);
  other.prompt[70] = 5;
  EXPECT_EQ(CachedTokens(Request(1, 100)), 0);
  EXPECT_EQ(CachedTokens(other), 64);
  EXPECT_EQ(CachedTokens(other), 96);
  other.prompt[0] = 5;
  EXPECT_EQ(CachedTokens(other), 0);
}

TEST_F(PrefixTest, AdaptersAndTenantsShareNothing) {
  const std::string init = Register("adapter_init"), step8 = Register("adapter_step8");
  EXPECT_EQ(CachedTokens(Request(1, 70)), 0);
  EXPECT_EQ(CachedTokens(Request(1, 70, init)), 0);
  EXPECT_EQ(CachedTokens(Request(1, 70, step8)), 0);
  for (const char* tenant : {"one", "two"}) {
    GenerateRequest request = Request(1, 70, step8);
    request.tenant = tenant;
    EXPECT_EQ(CachedTokens(request), 0) << tenant;
    EXPECT_EQ(CachedTokens(request), 64) << tenant;
  }
}

TEST_F(PrefixTest, PagesThatAreKeptAreNotWritten) {
  warm_.Solo(Request(1, 64));
  const int64_t pages = warm_.cache->cached_pages();
  ASSERT_EQ(pages, 4);
  // The four pages were the first ones taken.
  const TensorView keys = warm_.cache->keys(0), values = warm_.cache->values(2);
  const int64_t bytes = pages * warm_.cache->page_tokens() * keys.shape[2] * keys.shape[3] * 4;
  const std::string before[] = {{static_cast<char*>(keys.data), static_cast<size_t>(bytes)},
                                {static_cast<char*>(values.data), static_cast<size_t>(bytes)}};
  Sinks sinks;
  for (int i = 0; i < 8; ++i) sinks.push_back(warm_.Submit(Request(1 + i % 3, 60 + 10 * i)));
  warm_.RunUntilIdle();
  EXPECT_GT(sinks[0]->result->cached_tokens + sinks[3]->result->cached_tokens, 0);
  EXPECT_EQ(std::memcmp(before[0].data(), keys.data, bytes), 0);
  EXPECT_EQ(std::memcmp(before[1].data(), values.data, bytes), 0);
}

TEST_F(PrefixTest, EqualPromptsTogetherAreRunOnce) {
  const auto cold = cold_.Solo(Request(1, 100));
  Sinks sinks;
  for (int i = 0; i < 8; ++i) sinks.push_back(warm_.Submit(Request(1, 100)));
  warm_.RunUntilIdle();
  for (const auto& sink : sinks) ExpectSame(*sink, *cold);
  EXPECT_EQ(PrefillRows(warm_), 96 + 8 * 4);
  EXPECT_EQ(sinks[0]->result->cached_tokens, 0);
  EXPECT_EQ(sinks[7]->result->cached_tokens, 96);
  EXPECT_EQ(warm_.cache->cached_pages(), 6);
}

TEST_F(PrefixTest, ScoresNeitherLookNorKeep) {
  const std::vector<int32_t> ids = warm_.LongPrompt(1, 100);
  ASSERT_OK_AND_ASSIGN(const ScoreResult before, warm_.Score(ids));
  EXPECT_EQ(warm_.cache->cached_pages(), 0);
  warm_.Solo(Request(1, 100));
  ASSERT_OK_AND_ASSIGN(const ScoreResult after, warm_.Score(ids));
  for (size_t i = 1; i < ids.size(); ++i) EXPECT_EQ(before.logprobs[i], after.logprobs[i]) << i;
  EXPECT_EQ(warm_.scheduler->prefixes().query_tokens(), 100);
}

// The failure of others: a prompt's pages of the old version under the new one's name.
TEST_F(PrefixTest, ASwappedAliasGivesTheNewVersionsColdAnswerAHundredTimes) {
  const std::string versions[] = {Register("adapter_init"), Register("adapter_step8")};
  const std::shared_ptr<RecordingSink> cold[] = {cold_.Solo(Request(1, 70, versions[0])),
                                                 cold_.Solo(Request(1, 70, versions[1]))};
  ASSERT_NE(cold[0]->ids, cold[1]->ids);
  for (int swap = 0; swap < 100; ++swap) {
    const int alias = swap % 2;  // what the server resolves
    const auto answer = warm_.Solo(Request(1, 70, versions[alias]));
    ExpectSame(*answer, *cold[alias]);
    ASSERT_TRUE(answer->result.has_value());
    EXPECT_EQ(answer->result->adapter_id, versions[alias]);
    EXPECT_EQ(answer->result->cached_tokens, swap < 2 ? 0 : 64) << swap;
  }
}

TEST_F(PrefixTest, WhatAnUnregisteredAdapterComputedGoes) {
  const std::string init = Register("adapter_init"), step8 = Register("adapter_step8");
  warm_.Solo(Request(1, 70, init));
  warm_.Solo(Request(1, 70, step8));
  EXPECT_EQ(warm_.cache->cached_pages(), 8);
  const auto running = warm_.Submit(Request(1, 70, init));
  warm_.scheduler->RunOneStep();
  ASSERT_OK(warm_.store->Unregister(init));
  warm_.RunUntilIdle();
  EXPECT_TRUE(running->finished(FinishReason::kLength));
  warm_.scheduler->RunOneStep();
  EXPECT_EQ(warm_.cache->cached_pages(), 4);
  EXPECT_EQ(warm_.cache->evicted_tokens(), 0);
  EXPECT_EQ(CachedTokens(Request(1, 70, step8)), 64);
  // Registered again, it begins anew.
  EXPECT_EQ(Register("adapter_init"), init);
  EXPECT_EQ(CachedTokens(Request(1, 70, init)), 0);
}

// Runs prompts that have nothing in common, and says how many ran after each step.
std::vector<int32_t> Schedule(bool prefix_cache) {
  HarnessOptions options = Chunked(prefix_cache);
  options.kv_pages = 24;
  options.max_batch_tokens = 1;  // one chunk a step, however long it takes
  ServingHarness harness(std::move(options));
  Sinks sinks;
  // Answers stay on the prompt's last page, so nobody is preempted, and admission alone decides.
  for (int i = 0; i < 30; ++i) {
    const int pages = 1 + i * 7 % 6;
    sinks.push_back(
        harness.Submit(ServingHarness::Greedy(harness.LongPrompt(i, 16 * pages - 14), 2 + i % 13)));
  }
  std::vector<int32_t> running;
  while (harness.scheduler->RunOneStep()) running.push_back(harness.scheduler->running());
  for (const auto& sink : sinks) EXPECT_TRUE(sink->finished(FinishReason::kLength));
  EXPECT_EQ(harness.scheduler->preemptions(), 0);
  EXPECT_EQ(harness.cache->evicted_tokens() > 0, prefix_cache);
  return running;
}

TEST(PrefixScheduleTest, KeptPagesMakeNobodyWait) {
  const std::vector<int32_t> with = Schedule(true);
  EXPECT_EQ(with, Schedule(false));
  EXPECT_LT(*std::max_element(with.begin(), with.end()), 20) << "pages are what they wait for";
}

TEST(PrefixScheduleTest, AFullCacheAdmitsAtOnce) {
  HarnessOptions options = Chunked();
  options.kv_pages = 16;
  ServingHarness harness(std::move(options));
  for (int i = 0; i < 8; ++i) harness.Solo(ServingHarness::Greedy(harness.LongPrompt(i, 64), 2));
  EXPECT_GT(harness.cache->cached_pages(), 10);
  const auto all = harness.Submit(ServingHarness::Greedy(harness.LongPrompt(99, 250), 2));
  harness.scheduler->RunOneStep();
  EXPECT_EQ(harness.scheduler->running(), 1);
  EXPECT_EQ(harness.cache->used_pages(), 16);
  harness.RunUntilIdle();
  EXPECT_TRUE(all->finished(FinishReason::kLength));
  EXPECT_EQ(harness.scheduler->preemptions(), 0);
}

TEST(PrefixScheduleTest, APreemptedSequenceFindsItsPromptAgain) {
  const auto run = [](bool prefix_cache, int64_t* prefill_rows) {
    HarnessOptions options = Chunked(prefix_cache);
    options.kv_pages = 14;
    ServingHarness harness(std::move(options));
    Sinks sinks;
    for (int i = 0; i < 2; ++i)
      sinks.push_back(harness.Submit(ServingHarness::Greedy(harness.LongPrompt(i, 70), 60)));
    harness.RunUntilIdle();
    EXPECT_GT(harness.scheduler->preemptions(), 0);
    EXPECT_EQ(sinks[1]->result->cached_tokens, 0) << "it is its own prompt";
    *prefill_rows = PrefillRows(harness);
    return std::make_pair(sinks[0]->ids, sinks[1]->ids);
  };
  int64_t with = 0, without = 0;
  EXPECT_EQ(run(true, &with), run(false, &without));
  EXPECT_EQ(with, without - 2 * kChunk);
}

}  // namespace
}  // namespace lorad
