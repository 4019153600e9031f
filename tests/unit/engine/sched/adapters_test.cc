// Adapters under load: tiers, eviction, unloading, unregistering and swapping while requests run.
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/failing_backend.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/engine/sched/serving_harness.h"

namespace lorad {
namespace {

using absl::StatusCode;

constexpr int kTokens = 12;

class AdaptersTest : public testing::Test {
 protected:
  // A harness with both golden adapters registered from copies that a test may delete.
  void Start(HarnessOptions options = {}) {
    harness_.emplace(std::move(options));
    for (const char* name : {"adapter_init", "adapter_step8"}) {
      std::filesystem::copy(harness_->golden.AdapterDir(name), Dir(name));
      ids_.push_back(harness_->Register(Dir(name)));
    }
  }
  std::string Dir(const std::string& name) const { return dir_.path() + "/" + name; }

  GenerateRequest Request(const std::string& adapter, int tokens = kTokens) {
    return ServingHarness::Greedy(harness_->Prompt(0), tokens, adapter);
  }
  ResidentTier TierOf(const std::string& id) {
    for (const AdapterStatus& status : harness_->store->List())
      if (status.id == id) return status.tier;
    ADD_FAILURE() << "not listed: " << id;
    return ResidentTier::kDisk;
  }
  // Posts a task and steps until it is answered.
  std::optional<absl::Status> RunTask(AdapterTask::Kind kind, const std::string& id,
                                      absl::Time deadline = absl::InfiniteFuture()) {
    struct Answer {
      std::optional<absl::Status> status;
      absl::Notification given;
    };
    const auto answer = std::make_shared<Answer>();
    const absl::Status posted =
        harness_->scheduler->Post(kind, id, deadline, [answer](const absl::Status& status) {
          answer->status = status;
          answer->given.Notify();
        });
    if (!posted.ok()) return posted;
    harness_->RunUntil(answer->given);
    return answer->status;
  }

  TempDir dir_;
  std::optional<ServingHarness> harness_;
  std::vector<std::string> ids_;
};

TEST_F(AdaptersTest, RegisteredAdaptersComeToTheDeviceWhenUsed) {
  Start();
  EXPECT_EQ(TierOf(ids_[0]), ResidentTier::kHost);
  EXPECT_EQ(harness_->UsedBytes(MemoryTag::kAdapters), 0);
  harness_->Solo(Request(ids_[0]));
  EXPECT_EQ(TierOf(ids_[0]), ResidentTier::kDevice);
  EXPECT_GT(harness_->UsedBytes(MemoryTag::kAdapters), 0);
  EXPECT_EQ(harness_->loads, std::vector<std::string>{"host"});
  harness_->Solo(Request(ids_[0]));
  EXPECT_EQ(harness_->loads.size(), 1);
}

// As after a publication, whose files are registered when they are written.
TEST_F(AdaptersTest, RegisteringWhatHasAHostCopyMakesNoSecond) {
  Start();
  const int64_t pinned = harness_->UsedBytes(MemoryTag::kPinned);
  EXPECT_EQ(harness_->Register(Dir("adapter_init")), ids_[0]);
  EXPECT_EQ(harness_->UsedBytes(MemoryTag::kPinned), pinned);
}

// The files are there: the copy is made when it is needed.
TEST_F(AdaptersTest, RegisteringNeedsNoPinnedMemory) {
  auto backend = std::make_unique<FailingBackend>(CreateCpuBackend());
  FailingBackend& failing = *backend;
  HarnessOptions options;
  options.backend = std::move(backend);
  harness_.emplace(std::move(options));
  failing.FailAllocation(1, {MemoryTag::kPinned});
  const std::string id = harness_->Register(harness_->golden.AdapterDir("adapter_init"));
  EXPECT_TRUE(failing.refusal().has_value());
  EXPECT_EQ(TierOf(id), ResidentTier::kDisk);
  EXPECT_TRUE(harness_->Solo(Request(id))->finished(FinishReason::kLength));
  EXPECT_EQ(harness_->loads, std::vector<std::string>{"disk"});
}

TEST_F(AdaptersTest, UnknownAdaptersAreNotFound) {
  Start();
  EXPECT_THAT(harness_->scheduler->Generate(Request("feed"), absl::InfiniteFuture(),
                                            std::make_shared<RecordingSink>()),
              StatusIs(StatusCode::kNotFound, "feed"));
  EXPECT_THAT(harness_->Score({1, 2}, "feed"), StatusIs(StatusCode::kNotFound, "feed"));
  EXPECT_THAT(harness_->store->Unregister("feed"), StatusIs(StatusCode::kNotFound, "feed"));
  EXPECT_THAT(*RunTask(AdapterTask::Kind::kLoad, "feed"), StatusIs(StatusCode::kNotFound, "feed"));
}

TEST_F(AdaptersTest, EvictionIsNobodysError) {
  Start();
  const std::vector<int32_t> expected[] = {harness_->Solo(Request(ids_[0]))->ids,
                                           harness_->Solo(Request(ids_[1]))->ids};
  const int64_t one = harness_->UsedBytes(MemoryTag::kAdapters) / 2;
  // Room for one of the two on the device, and for none in host memory.
  harness_.reset();
  ids_.clear();
  std::filesystem::remove_all(Dir("adapter_init"));
  std::filesystem::remove_all(Dir("adapter_step8"));
  HarnessOptions options;
  options.adapter_limit_bytes = one * 3 / 2;
  options.host_limit_bytes = 1;
  Start(std::move(options));
  EXPECT_EQ(TierOf(ids_[0]), ResidentTier::kDisk);
  for (int round = 0; round < 6; ++round) {
    const auto sink = harness_->Solo(Request(ids_[round % 2]));
    EXPECT_EQ(sink->ids, expected[round % 2]) << round;
    EXPECT_LE(harness_->UsedBytes(MemoryTag::kAdapters), one * 3 / 2);
  }
  EXPECT_EQ(harness_->evictions, 5);
  EXPECT_EQ(harness_->loads, std::vector<std::string>(6, "disk"));

  // Both at once: the second waits until the first lets go.
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 6; ++i) sinks.push_back(harness_->Submit(Request(ids_[i % 2])));
  harness_->RunUntilIdle();
  for (int i = 0; i < 6; ++i) EXPECT_EQ(sinks[i]->ids, expected[i % 2]) << i;
}

TEST_F(AdaptersTest, AnAdapterLargerThanTheWholeShareIsRefused) {
  HarnessOptions options;
  options.max_adapter_bytes = 1000;
  harness_.emplace(std::move(options));
  EXPECT_THAT(harness_->store->Register(harness_->golden.AdapterDir("adapter_init")),
              StatusIs(StatusCode::kResourceExhausted, "one adapter may have 1000"));
}

TEST_F(AdaptersTest, UnloadFreesTheBytes) {
  Start();
  EXPECT_OK(*RunTask(AdapterTask::Kind::kLoad, ids_[0]));
  EXPECT_OK(*RunTask(AdapterTask::Kind::kLoad, ids_[1]));
  const int64_t both = harness_->UsedBytes(MemoryTag::kAdapters);
  EXPECT_OK(*RunTask(AdapterTask::Kind::kUnload, ids_[0]));
  EXPECT_EQ(harness_->UsedBytes(MemoryTag::kAdapters), both / 2);
  EXPECT_EQ(TierOf(ids_[0]), ResidentTier::kDisk);
  EXPECT_OK(*RunTask(AdapterTask::Kind::kUnload, ids_[0]));  // again: nothing to do
  EXPECT_OK(*RunTask(AdapterTask::Kind::kUnload, ids_[1]));
  EXPECT_EQ(harness_->UsedBytes(MemoryTag::kAdapters), 0);
}

TEST_F(AdaptersTest, LoadingAndUnloadingLeavesNothingBehind) {
  Start();
  for (int i = 0; i < 100; ++i) {
    ASSERT_OK(*RunTask(AdapterTask::Kind::kLoad, ids_[0]));
    ASSERT_GT(harness_->UsedBytes(MemoryTag::kAdapters), 0);
    ASSERT_OK(*RunTask(AdapterTask::Kind::kUnload, ids_[0]));
    ASSERT_EQ(harness_->UsedBytes(MemoryTag::kAdapters), 0);
  }
}

TEST_F(AdaptersTest, UnloadWaitsForRequestsInFlight) {
  Start();
  const std::vector<int32_t> expected = harness_->Solo(Request(ids_[0], 40))->ids;
  const auto sink = harness_->Submit(Request(ids_[0], 40));
  harness_->scheduler->RunOneStep();
  const auto late = harness_->Submit(Request(ids_[0], 5));  // waits, then loads it again
  const std::optional<absl::Status> unloaded = RunTask(AdapterTask::Kind::kUnload, ids_[0]);
  ASSERT_TRUE(unloaded.has_value());
  EXPECT_OK(*unloaded);
  EXPECT_EQ(sink->ids, expected);
  harness_->RunUntilIdle();
  EXPECT_EQ(late->ids, std::vector<int32_t>(expected.begin(), expected.begin() + 5));
}

TEST_F(AdaptersTest, UnloadPastItsDeadlineLeavesTheAdapterThere) {
  Start();
  const auto sink = harness_->Submit(Request(ids_[0], 40));
  harness_->scheduler->RunOneStep();
  EXPECT_THAT(*RunTask(AdapterTask::Kind::kUnload, ids_[0], absl::Now()),
              StatusIs(StatusCode::kDeadlineExceeded, "still held"));
  const auto next = harness_->Submit(Request(ids_[0], 3));
  harness_->scheduler->RunOneStep();
  EXPECT_EQ(next->ids.size(), 1);  // served at once: the unloading was given up
  harness_->RunUntilIdle();
  EXPECT_EQ(sink->ids.size(), 40);
}

TEST_F(AdaptersTest, RequestsEndOnAnAdapterThatIsUnregistered) {
  HarnessOptions options;
  options.max_running = 1;
  options.host_limit_bytes = 1;
  Start(std::move(options));
  const std::vector<int32_t> expected = harness_->Solo(Request(ids_[0]))->ids;
  const auto running = harness_->Submit(Request(ids_[0]));
  harness_->scheduler->RunOneStep();
  const auto between = harness_->Submit(Request(ids_[1]));
  const auto waiting = harness_->Submit(Request(ids_[0]));
  ASSERT_OK(harness_->store->Unregister(ids_[0]));
  std::filesystem::remove_all(Dir("adapter_init"));  // nobody needs the files from now on
  EXPECT_THAT(harness_->scheduler->Generate(Request(ids_[0]), absl::InfiniteFuture(),
                                            std::make_shared<RecordingSink>()),
              StatusIs(StatusCode::kNotFound, ids_[0]));
  harness_->RunUntilIdle();
  EXPECT_EQ(running->ids, expected);
  EXPECT_EQ(waiting->ids, expected);
  EXPECT_TRUE(between->finished(FinishReason::kLength));
  harness_->scheduler->RunOneStep();
  EXPECT_EQ(harness_->store->List().size(), 1);
  ASSERT_OK(harness_->store->Unregister(ids_[1]));
  harness_->scheduler->RunOneStep();
  EXPECT_EQ(harness_->UsedBytes(MemoryTag::kAdapters), 0);
}

TEST_F(AdaptersTest, FilesThatVanishedOrChangedAreThatRequestsError) {
  HarnessOptions options;
  options.host_limit_bytes = 1;
  Start(std::move(options));
  std::filesystem::remove_all(Dir("adapter_init"));
  EXPECT_THAT(harness_->Solo(Request(ids_[0]))->error, StatusIs(StatusCode::kNotFound, "adapter_"));
  std::filesystem::copy(Dir("adapter_step8"), Dir("adapter_init"));
  EXPECT_THAT(harness_->Solo(Request(ids_[0]))->error,
              StatusIs(StatusCode::kDataLoss, "no longer adapter " + ids_[0]));
  EXPECT_TRUE(harness_->Solo(Request(ids_[1]))->finished(FinishReason::kLength));
  // Registered again from good files it works again.
  std::filesystem::remove_all(Dir("adapter_init"));
  std::filesystem::copy(harness_->golden.AdapterDir("adapter_init"), Dir("adapter_init"));
  EXPECT_EQ(harness_->Register(Dir("adapter_init")), ids_[0]);
  EXPECT_TRUE(harness_->Solo(Request(ids_[0]))->finished(FinishReason::kLength));
}

TEST_F(AdaptersTest, ASwapDoesNotTouchRequestsInFlight) {
  Start();
  const std::vector<int32_t> expected[] = {harness_->Solo(Request(ids_[0], 30))->ids,
                                           harness_->Solo(Request(ids_[1], 30))->ids};
  ASSERT_NE(expected[0], expected[1]);
  // "alias" stands for what the server resolves; it moves between any two steps.
  std::vector<std::pair<std::shared_ptr<RecordingSink>, int>> sinks;
  for (int swap = 0; swap < 20; ++swap) {
    const int alias = swap % 2;
    sinks.emplace_back(harness_->Submit(Request(ids_[alias], 30)), alias);
    harness_->scheduler->RunOneStep();
    if (swap % 5 == 4) {
      auto done = [](const absl::Status&) {};
      ASSERT_OK(harness_->scheduler->Post(AdapterTask::Kind::kUnload, ids_[1 - alias],
                                          absl::InfiniteFuture(), done));
    }
  }
  harness_->RunUntilIdle();
  for (const auto& [sink, alias] : sinks) {
    EXPECT_EQ(sink->ids, expected[alias]);
    ASSERT_TRUE(sink->result.has_value());
    EXPECT_EQ(sink->result->adapter_id, ids_[alias]);
  }
}

TEST_F(AdaptersTest, ReadingFilesDoesNotHoldUpOthers) {
  HarnessOptions options;
  options.host_limit_bytes = 1;
  Start(std::move(options));
  const auto slow = harness_->Submit(Request(ids_[0]));
  const auto base = harness_->Submit(Request(""));
  harness_->scheduler->RunOneStep();
  EXPECT_EQ(base->ids.size(), 1);  // behind the other in the queue
  harness_->RunUntilIdle();
  EXPECT_EQ(slow->ids.size(), kTokens);
}

}  // namespace
}  // namespace lorad
