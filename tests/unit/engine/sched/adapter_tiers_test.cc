// How adapters come to the device and go: without anybody waiting, before their turn, in the pages
// of the KV cache.
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/lora/peft.h"
#include "gtest/gtest.h"
#include "tests/support/deferred_backend.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/engine/sched/serving_harness.h"

namespace lorad {
namespace {

constexpr char kInit[] = "adapter_init", kStep8[] = "adapter_step8";

class AdapterTiersTest : public testing::Test {
 protected:
  void Start(HarnessOptions options = {}) {
    auto deferred = std::make_unique<DeferredBackend>(CreateCpuBackend());
    device_ = deferred.get();
    options.backend = std::move(deferred);
    harness_.emplace(std::move(options));
    init_ = harness_->Register(harness_->golden.AdapterDir(kInit));
    step8_ = harness_->Register(harness_->golden.AdapterDir(kStep8));
  }
  // Of the adapter, in pages.
  int64_t PagesOf(const std::string& id) {
    const absl::StatusOr<AdapterSummary> summary = harness_->store->Describe(id);
    EXPECT_OK(summary);
    return summary.ok() ? summary->device_bytes / harness_->cache->page_bytes() : 0;
  }
  GenerateRequest Request(const std::string& adapter, int tokens, int prompt = 0) {
    return ServingHarness::Greedy(harness_->Prompt(prompt), tokens, adapter);
  }
  ResidentTier TierOf(const std::string& id) {
    for (const AdapterStatus& status : harness_->store->List())
      if (status.id == id) return status.tier;
    ADD_FAILURE() << "not listed: " << id;
    return ResidentTier::kDisk;
  }
  void Steps(int count) {
    for (int i = 0; i < count; ++i) harness_->scheduler->RunOneStep();
  }

  DeferredBackend* device_ = nullptr;  // the harness's
  std::optional<ServingHarness> harness_;
  std::string init_, step8_;
};

// Whatever the engine thread is doing when the copy ends, it does not fall asleep over it.
TEST_F(AdapterTiersTest, ACopyThatEndsAtAnyMomentIsNoticed) {
  for (int asks = 1; asks <= 8; ++asks) {
    Start();
    device_->DeferNewStreams(true);
    device_->ReleaseWhenAsked(asks);
    const auto answer = harness_->Submit(Request(init_, 2));
    harness_->scheduler->Drain(absl::Now() + absl::Seconds(3));  // fails what is left by then
    harness_->scheduler->Run();
    EXPECT_TRUE(answer->finished(FinishReason::kLength)) << asks << ": " << answer->error;
  }
}

TEST_F(AdapterTiersTest, DecodingDoesNotWaitForACopy) {
  Start();
  const std::vector<int32_t> alone = harness_->Solo(Request("", 20))->ids;
  device_->DeferNewStreams(true);
  const auto base = harness_->Submit(Request("", 20));
  const auto adapter = harness_->Submit(Request(init_, 5));
  Steps(15);
  EXPECT_EQ(base->ids.size(), 15u);
  EXPECT_TRUE(adapter->ids.empty());
  EXPECT_EQ(device_->waiting(), PagesOf(init_)) << "one copy a page";
  EXPECT_EQ(TierOf(init_), ResidentTier::kHost);
  device_->Release(device_->waiting() - 1);
  Steps(1);
  EXPECT_TRUE(adapter->ids.empty());
  device_->ReleaseAll();
  Steps(1);
  EXPECT_EQ(adapter->ids.size(), 1u);
  EXPECT_EQ(TierOf(init_), ResidentTier::kDevice);
  harness_->RunUntilIdle();
  EXPECT_EQ(base->ids, alone);
  EXPECT_EQ(device_->waits(), 0);
}

// Of the runner, which is pinned too.
int64_t StagingBytes() {
  const ServingHarness harness;
  return harness.UsedBytes(MemoryTag::kPinned);
}

// So that the next one to come finds them: the driver takes its time.
TEST_F(AdapterTiersTest, PagesAreLockedBeforeTheyAreNeeded) {
  const int64_t staging = StagingBytes();
  HarnessOptions options;
  options.warm_host_bytes = int64_t{1} << 20;
  Start(std::move(options));
  const int64_t page = harness_->cache->page_bytes();
  const int64_t taken = (PagesOf(init_) + PagesOf(step8_)) * page;
  const int64_t warm = (int64_t{1} << 20) / page * page;
  const absl::Time end = absl::Now() + absl::Seconds(20);
  const auto used = [&] { return harness_->UsedBytes(MemoryTag::kPinned) - staging; };
  while (used() < taken + warm) {
    ASSERT_LT(absl::Now(), end);
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_EQ(used(), taken + warm);
}

// For then the driver is wanted for its way to the device.
TEST_F(AdapterTiersTest, NoPageIsLockedSoonAfterAnAdapterCame) {
  const int64_t staging = StagingBytes();
  HarnessOptions options;
  options.warm_host_bytes = int64_t{1} << 20;
  options.lock_after = absl::Hours(1);
  Start(std::move(options));
  const int64_t page = harness_->cache->page_bytes();
  ASSERT_GT(PagesOf(init_) + PagesOf(step8_), 0) << "of those locked at first";
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_EQ(harness_->UsedBytes(MemoryTag::kPinned) - staging, (int64_t{1} << 20) / page * page);
}

TEST_F(AdapterTiersTest, AnIdleLoopLooksForCopiesThatEnd) {
  Start();
  device_->DeferNewStreams(true);
  const auto adapter = harness_->Submit(Request(init_, 1));
  EXPECT_FALSE(harness_->scheduler->RunOneStep());
  harness_->scheduler->WaitForWork();  // returns by itself
  device_->ReleaseAll();
  EXPECT_TRUE(harness_->scheduler->RunOneStep());
  EXPECT_TRUE(adapter->ended());
}

TEST_F(AdapterTiersTest, ALoadBeginsWhileTheBatchIsFull) {
  HarnessOptions options;
  options.max_running = 1;
  Start(std::move(options));
  const auto base = harness_->Submit(Request("", 10));
  Steps(1);
  const auto adapter = harness_->Submit(Request(init_, 3));
  Steps(1);
  EXPECT_EQ(TierOf(init_), ResidentTier::kDevice);
  EXPECT_TRUE(adapter->ids.empty());
  EXPECT_EQ(harness_->prefetches, 1);
  EXPECT_EQ(harness_->loads, std::vector<std::string>{"host"});
  while (!base->ended()) Steps(1);
  Steps(1);
  EXPECT_EQ(adapter->ids.size(), 1u);
  harness_->RunUntilIdle();
  EXPECT_EQ(harness_->prefetches, 1);
}

TEST_F(AdapterTiersTest, AReadBeginsWhileTheBatchIsFull) {
  HarnessOptions options;
  options.max_running = 1;
  options.host_limit_bytes = 1;
  Start(std::move(options));
  EXPECT_EQ(TierOf(init_), ResidentTier::kDisk);
  const auto base = harness_->Submit(Request("", 60));
  Steps(1);
  const auto adapter = harness_->Submit(Request(init_, 3));
  const absl::Time end = absl::Now() + absl::Seconds(30);
  while (TierOf(init_) != ResidentTier::kDevice && !base->ended() && absl::Now() < end) {
    Steps(1);
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_EQ(TierOf(init_), ResidentTier::kDevice);
  EXPECT_FALSE(base->ended());
  EXPECT_EQ(harness_->loads, std::vector<std::string>{"disk"});
  harness_->RunUntilIdle();
  EXPECT_EQ(adapter->ids.size(), 3u);
}

TEST_F(AdapterTiersTest, WhatAnOlderRequestWantsIsNotEvictedForAYoungerOne) {
  Start();
  const int64_t one = harness_->store->Describe(init_)->device_bytes;
  HarnessOptions options;
  options.max_running = 1;
  options.adapter_limit_bytes = one * 3 / 2;  // room for one of the two
  Start(std::move(options));
  const auto base = harness_->Submit(Request("", 10));
  Steps(1);
  const auto first = harness_->Submit(Request(init_, 3));
  const auto second = harness_->Submit(Request(step8_, 3));
  Steps(5);
  EXPECT_EQ(TierOf(init_), ResidentTier::kDevice);
  EXPECT_EQ(TierOf(step8_), ResidentTier::kHost);
  EXPECT_EQ(harness_->evictions, 0);
  // Nobody waits for it any more, so the next one may have its room while it still runs? No: it is
  // pinned. When it has ended, the idle adapter goes.
  harness_->RunUntilIdle();
  EXPECT_TRUE(first->finished(FinishReason::kLength));
  EXPECT_TRUE(second->finished(FinishReason::kLength));
  EXPECT_EQ(harness_->evictions, 1);
  EXPECT_EQ(harness_->loads, std::vector<std::string>(2, "host"));
}

TEST_F(AdapterTiersTest, AnOlderRequestGetsWhatAYoungerOneWaitsFor) {
  Start();
  const int64_t one = harness_->store->Describe(init_)->device_bytes;
  HarnessOptions options;
  options.max_running = 1;
  options.adapter_limit_bytes = one * 3 / 2;
  options.host_limit_bytes = 1;  // the older one's adapter has to be read
  Start(std::move(options));
  const auto base = harness_->Submit(Request("", 200));
  Steps(1);
  // Brought to the device by a younger request while the older one's is being read, at times.
  const auto older = harness_->Submit(Request(init_, 3));
  const auto younger = harness_->Submit(Request(step8_, 3));
  const absl::Time end = absl::Now() + absl::Seconds(30);
  while (TierOf(init_) != ResidentTier::kDevice && !base->ended() && absl::Now() < end) {
    Steps(1);
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_EQ(TierOf(init_), ResidentTier::kDevice);
  EXPECT_FALSE(base->ended());
  harness_->RunUntilIdle();
  EXPECT_TRUE(older->finished(FinishReason::kLength));
  EXPECT_TRUE(younger->finished(FinishReason::kLength));
}

TEST_F(AdapterTiersTest, IdleAdaptersGiveTheirPagesToSequences) {
  Start();
  const int64_t pages = PagesOf(init_);
  ASSERT_GT(pages, 1);
  HarnessOptions options;
  options.kv_pages = pages + 4;
  Start(std::move(options));
  EXPECT_TRUE(harness_->Solo(Request(init_, 3))->finished(FinishReason::kLength));
  EXPECT_EQ(TierOf(init_), ResidentTier::kDevice);
  EXPECT_EQ(harness_->cache->lent_pages(), pages);
  // Five pages of tokens: one more than is free.
  const auto sink = harness_->Submit(ServingHarness::Greedy(harness_->LongPrompt(1, 70), 8));
  Steps(1);
  EXPECT_EQ(sink->ids.size(), 1u);
  EXPECT_EQ(harness_->cache->lent_pages(), 0);
  EXPECT_EQ(harness_->evictions, 1);
  harness_->RunUntilIdle();
  EXPECT_EQ(harness_->scheduler->preemptions(), 0);
  EXPECT_EQ(harness_->cache->free_pages(), harness_->cache->num_pages());
}

// The limit is of adapters: what they give up is any sequence's, however much that wants.
TEST_F(AdapterTiersTest, AdaptersAtTheirLimitGiveTheirPagesToo) {
  Start();
  const int64_t pages = PagesOf(init_);
  HarnessOptions options;
  options.kv_pages = pages + 1;
  options.adapter_limit_bytes = harness_->store->Describe(init_)->device_bytes;
  Start(std::move(options));
  harness_->Solo(ServingHarness::Greedy(harness_->Prompt(0, 8), 3, init_));
  ASSERT_EQ(harness_->cache->lent_pages(), pages);
  // All pages there are.
  const auto tokens = static_cast<int>(pages * harness_->cache->page_tokens() + 4);
  const auto sink = harness_->Submit(ServingHarness::Greedy(harness_->LongPrompt(1, tokens), 5));
  Steps(1);
  ASSERT_EQ(sink->ids.size(), 1u);
  EXPECT_EQ(harness_->evictions, 1);
  harness_->RunUntilIdle();
  EXPECT_TRUE(sink->finished(FinishReason::kLength));
}

TEST_F(AdapterTiersTest, DecodingTakesTheIdleAdaptersBeforeItPreempts) {
  Start();
  const int64_t pages = PagesOf(init_);
  HarnessOptions options;
  options.kv_pages = pages + 4;
  Start(std::move(options));
  harness_->Solo(Request(init_, 1));
  // Two sequences of one page each that grow to three.
  const auto a = harness_->Submit(ServingHarness::Greedy(harness_->LongPrompt(1, 8), 36));
  const auto b = harness_->Submit(ServingHarness::Greedy(harness_->LongPrompt(2, 8), 36));
  harness_->RunUntilIdle();
  EXPECT_EQ(a->ids.size(), 36u);
  EXPECT_EQ(b->ids.size(), 36u);
  EXPECT_EQ(harness_->scheduler->preemptions(), 0);
  EXPECT_EQ(harness_->evictions, 1);
}

TEST_F(AdapterTiersTest, ALoadPreemptsNobody) {
  Start();
  const int64_t pages = PagesOf(init_);
  HarnessOptions options;
  options.kv_pages = pages + 4;
  Start(std::move(options));
  // Takes five pages at first, so the adapter has no room before it ends.
  const auto base = harness_->Submit(ServingHarness::Greedy(harness_->LongPrompt(1, 70), 5));
  Steps(1);
  const auto adapter = harness_->Submit(Request(init_, 3));
  while (!base->ended()) {
    EXPECT_EQ(harness_->cache->lent_pages(), 0);
    Steps(1);
  }
  EXPECT_TRUE(base->finished(FinishReason::kLength));
  harness_->RunUntilIdle();
  EXPECT_TRUE(adapter->finished(FinishReason::kLength));
  EXPECT_EQ(harness_->scheduler->preemptions(), 0);
}

TEST_F(AdapterTiersTest, AnswersInSharedPagesAreThoseAlone) {
  Start();
  const std::string ids[] = {"", init_, step8_};
  const auto request = [&](int i) {
    return ServingHarness::Greedy(harness_->LongPrompt(i, 10 + 3 * i), 20, ids[i % 3]);
  };
  std::vector<std::vector<int32_t>> expected;
  for (int i = 0; i < 12; ++i) expected.push_back(harness_->Solo(request(i))->ids);
  const int64_t pages = std::max(PagesOf(init_), PagesOf(step8_));
  HarnessOptions options;
  options.kv_pages = pages + 12;  // one adapter and some sequences: both compete all the time
  options.max_running = 4;
  Start(std::move(options));
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 12; ++i) sinks.push_back(harness_->Submit(request(i)));
  harness_->RunUntilIdle();
  for (int i = 0; i < 12; ++i) EXPECT_EQ(sinks[i]->ids, expected[i]) << i;
  EXPECT_GT(harness_->evictions, 0);
}

TEST_F(AdapterTiersTest, AdaptersAndKeptPromptsShareThePages) {
  HarnessOptions cold;
  cold.chunk_tokens = 16;
  cold.prefix_cache = false;
  Start(std::move(cold));
  const std::string ids[] = {"", init_, step8_};
  const auto request = [&](int i) {
    return ServingHarness::Greedy(harness_->LongPrompt(i % 6, 40 + i % 6), 12, ids[i % 3]);
  };
  std::vector<std::vector<int32_t>> expected;
  for (int i = 0; i < 6; ++i) expected.push_back(harness_->Solo(request(i))->ids);
  HarnessOptions options;
  options.chunk_tokens = 16;  // a page
  // For one adapter, what runs, and not quite what the prompts would take.
  options.kv_pages = std::max(PagesOf(init_), PagesOf(step8_)) + 14;
  options.max_running = 3;
  Start(std::move(options));
  std::mt19937 random(1);
  for (int round = 0; round < 10; ++round) {
    std::vector<std::pair<int, std::shared_ptr<RecordingSink>>> sinks;
    for (int i = 0; i < 12; ++i) {
      const int which = static_cast<int>(random() % 6);
      sinks.emplace_back(which, harness_->Submit(request(which)));
    }
    harness_->RunUntilIdle();
    for (const auto& [which, sink] : sinks) EXPECT_EQ(sink->ids, expected[which]) << which;
  }
  EXPECT_GT(harness_->evictions, 0);
  EXPECT_GT(harness_->cache->evicted_tokens(), 0);
  EXPECT_GT(harness_->scheduler->prefixes().hit_tokens(), 0);
  EXPECT_EQ(harness_->cache->used_pages(), 0);
  // The largest run of pages is there for who comes alone, whatever is kept.
  for (const std::string& id : {init_, step8_, init_}) {
    EXPECT_TRUE(harness_->Solo(Request(id, 3))->finished(FinishReason::kLength));
    EXPECT_EQ(TierOf(id), ResidentTier::kDevice);
  }
}

TEST_F(AdapterTiersTest, APublishedAdapterServesBeforeItHasFiles) {
  HarnessOptions options;
  options.host_limit_bytes = 1;
  Start(std::move(options));
  const std::vector<int32_t> expected = harness_->Solo(Request(init_, 10))->ids;
  ASSERT_OK(harness_->store->Unregister(init_));
  Steps(1);
  ASSERT_OK_AND_ASSIGN(
      const HostAdapter adapter,
      ReadPeftAdapter(harness_->golden.AdapterDir(kInit), harness_->model->config()));
  ASSERT_OK_AND_ASSIGN(const AdapterSummary summary,
                       harness_->store->Publish(adapter.config, Views(adapter)));
  EXPECT_EQ(summary.id, init_);
  harness_->loads.clear();
  Steps(1);
  EXPECT_EQ(TierOf(init_), ResidentTier::kDevice) << "nobody has asked for it";
  EXPECT_EQ(harness_->loads, std::vector<std::string>{"training"});
  EXPECT_EQ(harness_->Solo(Request(init_, 10))->ids, expected);
  // Off the device it comes back from host memory, although that has no room for others.
  ASSERT_OK_AND_ASSIGN(const AdapterStore::Lease lease, harness_->store->Find(init_));
  EXPECT_TRUE(harness_->store->TryUnload(lease));
  EXPECT_EQ(TierOf(init_), ResidentTier::kHost);
  EXPECT_EQ(harness_->Solo(Request(init_, 10))->ids, expected);
  // With files it is one like others.
  EXPECT_EQ(harness_->Register(harness_->golden.AdapterDir(kInit)), init_);
  EXPECT_TRUE(harness_->store->TryUnload(lease));
  EXPECT_EQ(TierOf(init_), ResidentTier::kDisk);
}

int64_t ResidentBytes() {
  int64_t virtual_pages = 0, pages = 0;
  std::ifstream("/proc/self/statm") >> virtual_pages >> pages;
  return pages * ::sysconf(_SC_PAGESIZE);
}

TEST_F(AdapterTiersTest, TenThousandLoadsAndUnloadsLeaveMemoryFlat) {
  Start();
  ASSERT_OK_AND_ASSIGN(const AdapterStore::Lease lease, harness_->store->Find(init_));
  const auto run = [&](AdapterTask::Kind kind) {
    std::optional<absl::Status> answer;
    ASSERT_OK(harness_->scheduler->Post(kind, init_, absl::InfiniteFuture(),
                                        [&](const absl::Status& status) { answer = status; }));
    while (!answer.has_value()) {
      if (!harness_->scheduler->RunOneStep() && !answer.has_value()) std::this_thread::yield();
    }
    ASSERT_OK(*answer);
  };
  std::vector<int64_t> used;
  int64_t resident = 0;
  for (int i = 0; i < 10000; ++i) {
    if (i == 1000) {  // what is kept for reuse is there by now
      resident = ResidentBytes();
      for (int tag = 0; tag < kNumMemoryTags; ++tag)
        used.push_back(harness_->UsedBytes(static_cast<MemoryTag>(tag)));
    }
    ASSERT_NO_FATAL_FAILURE(run(AdapterTask::Kind::kLoad));
    ASSERT_EQ(harness_->UsedBytes(MemoryTag::kAdapters),
              PagesOf(init_) * harness_->cache->page_bytes());
    ASSERT_NO_FATAL_FAILURE(run(AdapterTask::Kind::kUnload));
    ASSERT_EQ(harness_->UsedBytes(MemoryTag::kAdapters), 0);
  }
  for (int tag = 0; tag < kNumMemoryTags; ++tag)
    EXPECT_EQ(harness_->UsedBytes(static_cast<MemoryTag>(tag)), used[tag])
        << Name(static_cast<MemoryTag>(tag));
  EXPECT_EQ(harness_->cache->free_pages(), harness_->cache->num_pages());
  // The heap's own ups and downs; one adapter a cycle would be a thousand times that.
  EXPECT_LT(ResidentBytes(), resident + (int64_t{1} << 20));
  EXPECT_EQ(lease.use_count(), 2);  // the store's and this one
}

}  // namespace
}  // namespace lorad
