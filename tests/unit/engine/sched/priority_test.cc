// Who goes first, who gives way, and that everybody's turn comes.
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/unit/engine/sched/serving_harness.h"

namespace lorad {
namespace {

using Sinks = std::vector<std::shared_ptr<RecordingSink>>;

Turn TurnOf(double arrival_seconds, int32_t priority, uint64_t id) {
  Sequence sequence;
  sequence.id = id;
  sequence.arrival = absl::UnixEpoch() + absl::Seconds(arrival_seconds);
  sequence.priority = priority;
  return sequence.turn();
}

TEST(TurnTest, PriorityThenArrivalThenId) {
  EXPECT_LT(TurnOf(5, 1, 2), TurnOf(0, 0, 1));
  EXPECT_LT(TurnOf(5, 0, 2), TurnOf(0, -1, 1));
  EXPECT_LT(TurnOf(0, 3, 1), TurnOf(5, 3, 2));
  EXPECT_LT(TurnOf(0, 3, 1), TurnOf(0, 3, 2));
  EXPECT_EQ(TurnOf(0, 3, 1), TurnOf(0, 3, 1));
}

TEST(TurnTest, AStepIsWorthAHeadStartAndNoMore) {
  const double step = absl::ToDoubleSeconds(kHeadStart);
  EXPECT_LT(TurnOf(step - 0.001, 1, 2), TurnOf(0, 0, 1));
  EXPECT_LT(TurnOf(0, 0, 1), TurnOf(step + 0.001, 1, 2));
  EXPECT_LT(TurnOf(200 * step - 0.001, kMaxPriority, 2), TurnOf(0, -kMaxPriority, 1));
  EXPECT_LT(TurnOf(0, -kMaxPriority, 1), TurnOf(200 * step + 0.001, kMaxPriority, 2));
}

class PriorityTest : public testing::Test {
 protected:
  void Start(HarnessOptions options = {}) { harness_.emplace(std::move(options)); }
  std::shared_ptr<RecordingSink> Submit(int32_t priority, int tokens, int prompt = 0) {
    GenerateRequest request = ServingHarness::Greedy(harness_->Prompt(prompt), tokens);
    request.priority = priority;
    return harness_->Submit(std::move(request));
  }
  // Runs until all have ended; their indices in the order in which they did.
  std::vector<size_t> EndOrder(const Sinks& sinks) {
    std::vector<size_t> order;
    while (harness_->scheduler->RunOneStep() && order.size() < sinks.size()) {
      for (size_t i = 0; i < sinks.size(); ++i) {
        const bool known = std::find(order.begin(), order.end(), i) != order.end();
        if (sinks[i]->ended() && !known) order.push_back(i);
      }
    }
    return order;
  }

  std::optional<ServingHarness> harness_;
};

TEST_F(PriorityTest, TheLargerGoesFirstAndEqualsInOrderOfArrival) {
  HarnessOptions options;
  options.max_running = 1;
  Start(std::move(options));
  Sinks sinks;
  for (const int32_t priority : {0, -1, 2, 0, 2, 100, -100}) sinks.push_back(Submit(priority, 2));
  EXPECT_EQ(EndOrder(sinks), (std::vector<size_t>{5, 2, 4, 0, 3, 1, 6}));
}

TEST_F(PriorityTest, NobodyLosesASlotToOneThatWaits) {
  HarnessOptions options;
  options.max_running = 1;
  Start(std::move(options));
  const auto low = Submit(-100, 10);
  harness_->scheduler->RunOneStep();
  const auto next = Submit(0, 10);
  const auto high = Submit(100, 10);
  EXPECT_EQ(EndOrder({low, next, high}), (std::vector<size_t>{0, 2, 1}));
  EXPECT_EQ(harness_->scheduler->preemptions(), 0);
}

TEST_F(PriorityTest, TheLowestPriorityGivesItsPagesBack) {
  std::vector<int32_t> solo[2];
  Start();
  for (int i = 0; i < 2; ++i)
    solo[i] = harness_->Solo(ServingHarness::Greedy(harness_->Prompt(i), 60))->ids;
  HarnessOptions options;
  options.kv_pages = 8;  // each takes up to five
  Start(std::move(options));
  const auto low = Submit(-1, 60, 0);
  const auto high = Submit(0, 60, 1);
  while (harness_->scheduler->preemptions() == 0) ASSERT_TRUE(harness_->scheduler->RunOneStep());
  const size_t had = low->ids.size();
  harness_->scheduler->RunOneStep();
  EXPECT_EQ(low->ids.size(), had) << "it came first, and gives way";
  EXPECT_FALSE(high->ended());
  EXPECT_EQ(EndOrder({low, high}), (std::vector<size_t>{1, 0}));
  EXPECT_EQ(low->ids, solo[0]);
  EXPECT_EQ(high->ids, solo[1]);
}

TEST_F(PriorityTest, WhoHasWaitedLongEnoughGoesFirst) {
  Start();
  int left = 0;
  Serving serving({.max_running = 1, .observer = nullptr}, *harness_->runner, *harness_->store,
                  [&left] { ++left; });
  const GenerationLimits limits = {.vocab = harness_->model->config().vocab_size,
                                   .context_tokens = harness_->context,
                                   .eos_ids = {}};
  const SliceBudget budget({.prefill_without_target = absl::InfiniteDuration()});
  Sinks sinks;
  const auto accept = [&](uint64_t id, int32_t priority, absl::Duration waited) {
    auto sequence = std::make_unique<Sequence>();
    sequence->id = id;
    sequence->priority = priority;
    sequence->arrival = absl::Now() - waited;
    sequence->generation.emplace(ServingHarness::Greedy(harness_->Prompt(0), 2), limits);
    sinks.push_back(std::make_shared<RecordingSink>());
    sequence->sink = sinks.back();
    serving.Accept(std::move(sequence));
  };
  accept(1, -kMaxPriority, 2 * kMaxPriority * kHeadStart + absl::Seconds(60));
  accept(2, kMaxPriority, absl::ZeroDuration());
  accept(3, kMaxPriority - 1, absl::ZeroDuration());
  for (size_t next = 0; next < sinks.size(); ++next) {
    while (!sinks[next]->ended()) {
      serving.Admit();
      ASSERT_OK(serving.Step(budget));
      for (size_t later = next + 1; later < sinks.size(); ++later)
        ASSERT_TRUE(sinks[later]->ids.empty()) << later << " before " << next;
    }
  }
  EXPECT_EQ(left, 3);
}

TEST_F(PriorityTest, RefusesWhatIsOutOfRange) {
  Start();
  for (const int32_t priority : {kMaxPriority + 1, -kMaxPriority - 1}) {
    GenerateRequest request = ServingHarness::Greedy(harness_->Prompt(0), 1);
    request.priority = priority;
    EXPECT_THAT(harness_->scheduler->Generate(std::move(request), absl::InfiniteFuture(),
                                              std::make_shared<RecordingSink>()),
                StatusIs(absl::StatusCode::kInvalidArgument, "must be in [-100, 100]"));
  }
}

// Adapters A and B, and room for one of them on the device. While B waits, requests for A come
// without end; B must run when those for A that came before it have ended.
class StarvationTest : public PriorityTest, public testing::WithParamInterface<int64_t> {
 protected:
  void SetUp() override {
    Start();
    int64_t bytes = 0;
    for (const char* name : {"adapter_init", "adapter_step8"}) {
      const std::string id = harness_->Register(harness_->golden.AdapterDir(name));
      harness_->Solo(ServingHarness::Greedy(harness_->Prompt(0), 1, id));
      bytes = harness_->UsedBytes(MemoryTag::kAdapters);
    }
    HarnessOptions options;
    options.adapter_limit_bytes = bytes * 3 / 4;  // of both
    options.host_limit_bytes = GetParam();
    Start(std::move(options));
    a_ = harness_->Register(harness_->golden.AdapterDir("adapter_init"));
    b_ = harness_->Register(harness_->golden.AdapterDir("adapter_step8"));
  }
  std::shared_ptr<RecordingSink> Ask(const std::string& adapter) {
    return harness_->Submit(ServingHarness::Greedy(harness_->Prompt(0), 8, adapter));
  }
  std::string a_, b_;
};

TEST_P(StarvationTest, ABAAAServesB) {
  const bool in_memory = GetParam() > 1;
  const auto first = Ask(a_), b = Ask(b_);
  Sinks others;
  const absl::Time end = absl::Now() + absl::Seconds(60);
  while (!b->ended() && absl::Now() < end) {
    std::erase_if(others, [](const auto& sink) { return sink->ended(); });
    while (others.size() < 3) others.push_back(Ask(a_));
    if (!harness_->scheduler->RunOneStep()) absl::SleepFor(absl::Milliseconds(1));
    // Only while B's files are being read may others pass it.
    for (const auto& sink : others) ASSERT_TRUE(!in_memory || sink->ids.empty());
  }
  ASSERT_TRUE(b->finished(FinishReason::kLength)) << "B starves";
  // Files of both are read at the same time: those of B may come first.
  EXPECT_TRUE(!in_memory || first->finished(FinishReason::kLength));
  harness_->RunUntilIdle();
  EXPECT_TRUE(first->finished(FinishReason::kLength));
  for (const auto& sink : others) EXPECT_TRUE(sink->finished(FinishReason::kLength));
}

INSTANTIATE_TEST_SUITE_P(HostCopies, StarvationTest, testing::Values(int64_t{1} << 30, 1),
                         [](const auto& info) { return info.param == 1 ? "Disk" : "Memory"; });

}  // namespace
}  // namespace lorad
