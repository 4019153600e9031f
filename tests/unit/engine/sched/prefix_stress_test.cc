// Arrivals, cancellations and preemptions at random, over few pages: no page is lost, none is given
// twice, and every answer is that of a cold, quiet server.
#include <algorithm>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/engine/sched/serving_harness.h"

namespace lorad {
namespace {

constexpr int kChunk = 32;
constexpr int kAnswer = 24;

HarnessOptions Options(PassKind prompts, int64_t pages, bool prefix_cache) {
  HarnessOptions options;
  options.chunk_tokens = kChunk;
  options.prefix_cache = prefix_cache;
  options.kv_pages = pages;
  options.max_running = 8;
  options.prompt_kind = prompts;
  // Rows of prompts are cut where time is up, which it always is.
  if (prompts == PassKind::kRowInvariant) options.training.itl_target = absl::Microseconds(1);
  return options;
}

// Twelve requests, six prompts of which begin alike, over the base and two adapters.
std::vector<GenerateRequest> Requests(ServingHarness& harness) {
  const std::string adapters[] = {"", harness.Register(harness.golden.AdapterDir("adapter_init")),
                                  harness.Register(harness.golden.AdapterDir("adapter_step8"))};
  std::vector<GenerateRequest> requests;
  for (int i = 0; i < 12; ++i) {
    std::vector<int32_t> prompt = harness.LongPrompt(i % 2 == 0 ? 0 : i, 10 + 11 * i);
    if (i % 4 == 0) prompt.back() = 4 + i;
    requests.push_back(ServingHarness::Greedy(std::move(prompt), kAnswer, adapters[i % 3]));
    requests.back().priority = i % 3 - 1;
  }
  return requests;
}

struct InFlight {
  std::shared_ptr<RecordingSink> sink;
  uint64_t id = 0;
  size_t request = 0;
};

class PrefixStressTest : public testing::TestWithParam<PassKind> {
 protected:
  void Start(int64_t pages) {
    harness_.emplace(Options(GetParam(), pages, true));
    requests_ = Requests(*harness_);
    ServingHarness cold(Options(GetParam(), 512, false));
    Requests(cold);  // registers
    for (const GenerateRequest& request : requests_) answers_.push_back(cold.Solo(request)->ids);
  }
  void Submit() {
    InFlight flight;
    flight.request = random_() % requests_.size();
    flight.sink = harness_->Submit(requests_[flight.request], &flight.id);
    flights_.push_back(std::move(flight));
  }
  void Cancel() {
    if (flights_.empty()) return;
    const auto victim = flights_.begin() + static_cast<int64_t>(random_() % flights_.size());
    harness_->scheduler->Cancel(victim->id);
    cancelled_ += !victim->sink->ended();
    harness_->scheduler->RunOneStep();
    EXPECT_TRUE(victim->sink->ended()) << "a cancelled request goes on";
    CheckEnded();
  }
  // Takes the ended ones away: each has the cold answer, or its beginning.
  void CheckEnded() {
    std::erase_if(flights_, [this](const InFlight& flight) {
      if (!flight.sink->ended()) return false;
      EXPECT_OK(flight.sink->error);
      const std::vector<int32_t>& expected = answers_[flight.request];
      const std::vector<int32_t>& ids = flight.sink->ids;
      if (flight.sink->finished(FinishReason::kLength)) {
        EXPECT_EQ(ids, expected) << flight.request;
        ++finished_;
      } else {
        EXPECT_TRUE(flight.sink->finished(FinishReason::kCancelled));
        EXPECT_TRUE(std::equal(ids.begin(), ids.end(), expected.begin())) << flight.request;
      }
      hits_ += flight.sink->result.has_value() ? flight.sink->result->cached_tokens : 0;
      return true;
    });
  }
  void CheckPages() {
    const KvCache& cache = *harness_->cache;
    ASSERT_EQ(cache.used_pages() + cache.lent_pages() + cache.free_pages(), cache.num_pages());
    ASSERT_LE(cache.cached_pages(), cache.free_pages());
    if (harness_->scheduler->running() == 0) {
      ASSERT_EQ(cache.used_pages(), 0);
    }
  }
  // Nothing runs: every page can be had.
  void CheckNothingIsLost() {
    KvCache& cache = *harness_->cache;
    EXPECT_EQ(cache.used_pages(), 0);
    EXPECT_TRUE(harness_->store->GiveUpPages(cache.lent_pages(), /*place=*/-1));
    EXPECT_EQ(cache.lent_pages(), 0);
    KvTable all;
    EXPECT_TRUE(cache.Reserve(all, cache.capacity_tokens()));
    EXPECT_EQ(cache.used_pages(), cache.num_pages());
    EXPECT_EQ(cache.cached_pages(), 0);
    cache.Release(all);
    EXPECT_EQ(cache.used_pages(), 0);
  }

  std::mt19937 random_{1};
  std::optional<ServingHarness> harness_;
  std::vector<GenerateRequest> requests_;
  std::vector<std::vector<int32_t>> answers_;  // of a cold server, alone
  std::vector<InFlight> flights_;
  int cancelled_ = 0, finished_ = 0;
  int64_t hits_ = 0;
};

INSTANTIATE_TEST_SUITE_P(, PrefixStressTest,
                         testing::Values(PassKind::kMatrix, PassKind::kRowInvariant),
                         [](const auto& info) {
                           return info.param == PassKind::kMatrix ? "Matrix" : "Rows";
                         });

TEST_P(PrefixStressTest, CancelledAtAThousandPointsEveryPageComesBack) {
  Start(64);
  while (cancelled_ < 1000) {
    while (flights_.size() < 1 + random_() % 6) Submit();
    for (size_t step = random_() % 4; step > 0; --step) harness_->scheduler->RunOneStep();
    CheckEnded();
    // In a third of the rounds all go, and then nothing may be used.
    if (random_() % 3 == 0) {
      while (!flights_.empty()) Cancel();
      ASSERT_EQ(harness_->cache->used_pages(), 0) << cancelled_;
    } else {
      Cancel();
    }
    ASSERT_NO_FATAL_FAILURE(CheckPages());
  }
  harness_->RunUntilIdle();
  CheckEnded();
  CheckNothingIsLost();
  EXPECT_GT(hits_, 1000);
}

TEST_P(PrefixStressTest, RandomLoadKeepsAccountsExactAndAnswersRight) {
  Start(24);  // the longest request takes ten
  for (int step = 0; step < 1500; ++step) {
    if (flights_.size() < 12 && random_() % 3 == 0) Submit();
    if (random_() % 40 == 0) Cancel();
    harness_->scheduler->RunOneStep();
    CheckEnded();
    ASSERT_NO_FATAL_FAILURE(CheckPages());
    ASSERT_FALSE(HasFailure()) << step;
  }
  harness_->RunUntilIdle();
  CheckEnded();
  EXPECT_TRUE(flights_.empty());
  CheckNothingIsLost();
  EXPECT_GT(finished_, 100);
  EXPECT_GT(cancelled_, 10);
  EXPECT_GT(hits_, 1000);
  EXPECT_GT(harness_->scheduler->preemptions(), 10);
  EXPECT_GT(harness_->cache->evicted_tokens(), 1000);
}

}  // namespace
}  // namespace lorad
