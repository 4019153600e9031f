// Admission, batching, preemption, cancellation and deadlines, step by step.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/engine/sched/serving_harness.h"

namespace lorad {
namespace {

using absl::StatusCode;
using Sinks = std::vector<std::shared_ptr<RecordingSink>>;

// 16 requests of different lengths over the base and two adapters.
std::vector<GenerateRequest> MixedRequests(ServingHarness& harness) {
  const std::string adapters[] = {"", harness.Register(harness.golden.AdapterDir("adapter_init")),
                                  harness.Register(harness.golden.AdapterDir("adapter_step8"))};
  std::vector<GenerateRequest> requests;
  for (int i = 0; i < 16; ++i) {
    requests.push_back(ServingHarness::Greedy(harness.LongPrompt(i, 3 + 5 * i), 20 + 3 * (i % 5),
                                              adapters[i % 3]));
  }
  return requests;
}

std::vector<std::vector<int32_t>> SoloAnswers(ServingHarness& harness,
                                              const std::vector<GenerateRequest>& requests) {
  std::vector<std::vector<int32_t>> answers;
  for (const GenerateRequest& request : requests) answers.push_back(harness.Solo(request)->ids);
  return answers;
}

TEST(SchedulerTest, AnswersTogetherEqualAnswersAlone) {
  ServingHarness harness;
  const std::vector<GenerateRequest> requests = MixedRequests(harness);
  const auto solo = SoloAnswers(harness, requests);
  EXPECT_NE(solo[0], solo[3]);
  harness.decode_rows.clear();
  Sinks sinks;
  for (const GenerateRequest& request : requests) sinks.push_back(harness.Submit(request));
  harness.RunUntilIdle();
  for (size_t i = 0; i < sinks.size(); ++i) {
    EXPECT_EQ(sinks[i]->ids, solo[i]) << i;
    ASSERT_TRUE(sinks[i]->finished(FinishReason::kLength));
    EXPECT_EQ(sinks[i]->result->adapter_id, requests[i].adapter_id);
    EXPECT_EQ(sinks[i]->result->prompt_tokens, 3 + 5 * static_cast<int>(i));
  }
  EXPECT_EQ(*std::max_element(harness.decode_rows.begin(), harness.decode_rows.end()), 16);
  EXPECT_EQ(harness.cache->used_pages(), 0);
}

TEST(SchedulerTest, AdaptersChangeTheAnswer) {
  ServingHarness harness;
  const std::string adapter = harness.Register(harness.golden.AdapterDir("adapter_step8"));
  const auto base = harness.Solo(ServingHarness::Greedy(harness.Prompt(0), 20));
  const auto adapted = harness.Solo(ServingHarness::Greedy(harness.Prompt(0), 20, adapter));
  EXPECT_NE(base->ids, adapted->ids);
}

TEST(SchedulerTest, SampledAnswersTogetherEqualAnswersAlone) {
  ServingHarness harness;
  std::vector<GenerateRequest> requests = MixedRequests(harness);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].sampling = {.temperature = 0.8, .top_k = 50, .top_p = 0.95, .seed = 100 + i};
    requests[i].sampling.frequency_penalty = 0.2;
  }
  const auto solo = SoloAnswers(harness, requests);
  Sinks sinks;
  for (const GenerateRequest& request : requests) sinks.push_back(harness.Submit(request));
  harness.RunUntilIdle();
  for (size_t i = 0; i < sinks.size(); ++i) EXPECT_EQ(sinks[i]->ids, solo[i]) << i;
}

TEST(SchedulerTest, PreemptedAnswersEqualAnswersAlone) {
  std::vector<std::vector<int32_t>> solo;
  HarnessOptions options;
  options.page_tokens = 4;
  options.kv_pages = 60;  // 240 tokens; the 16 requests need up to 970
  {
    ServingHarness roomy;
    solo = SoloAnswers(roomy, MixedRequests(roomy));
    // And room for the adapters, which live in the same pages, and fill the last ones less.
    const int64_t page_bytes = roomy.cache->page_bytes() / roomy.cache->page_tokens() * 4;
    options.kv_pages += roomy.UsedBytes(MemoryTag::kAdapters) * 5 / 4 / page_bytes;
  }
  options.chunk_tokens = 256;
  ServingHarness harness(std::move(options));
  const std::vector<GenerateRequest> requests = MixedRequests(harness);
  Sinks sinks;
  for (const GenerateRequest& request : requests) sinks.push_back(harness.Submit(request));
  harness.RunUntilIdle();
  EXPECT_GT(harness.scheduler->preemptions(), 0);
  for (size_t i = 0; i < sinks.size(); ++i) EXPECT_EQ(sinks[i]->ids, solo[i]) << i;
  EXPECT_EQ(harness.cache->used_pages(), 0);
}

TEST(SchedulerTest, PrefillOfOthersDoesNotHoldUpDecoding) {
  HarnessOptions options;
  options.max_batch_tokens = 64;
  options.chunk_tokens = 32;
  ServingHarness harness(std::move(options));
  const auto first = harness.Submit(ServingHarness::Greedy(harness.Prompt(0), 30));
  harness.scheduler->RunOneStep();
  ASSERT_EQ(first->ids.size(), 1);
  const auto second = harness.Submit(ServingHarness::Greedy(harness.LongPrompt(1, 320), 2));
  // 320 tokens at 32 a step (a second chunk would pass the budget of 64 less one row).
  for (int step = 0; step < 9; ++step) {
    harness.scheduler->RunOneStep();
    EXPECT_EQ(first->ids.size(), 2 + step);
    EXPECT_TRUE(second->ids.empty());
  }
  harness.RunUntilIdle();
  EXPECT_EQ(second->ids.size(), 2);
}

TEST(SchedulerTest, CancelFreesPagesBeforeTheNextStep) {
  ServingHarness harness;
  uint64_t id = 0;
  const auto cancelled = harness.Submit(ServingHarness::Greedy(harness.Prompt(0), 100), &id);
  const auto other = harness.Submit(ServingHarness::Greedy(harness.Prompt(1), 10));
  for (int i = 0; i < 5; ++i) harness.scheduler->RunOneStep();
  const int64_t used = harness.cache->used_pages();
  harness.scheduler->Cancel(id);
  EXPECT_FALSE(cancelled->ended());
  harness.decode_rows.clear();
  harness.scheduler->RunOneStep();
  EXPECT_TRUE(cancelled->finished(FinishReason::kCancelled));
  EXPECT_EQ(cancelled->result->generated_tokens, 5);
  EXPECT_EQ(cancelled->ids.size(), 5);
  EXPECT_LT(harness.cache->used_pages(), used);
  EXPECT_EQ(harness.decode_rows, std::vector<int32_t>{1});
  harness.RunUntilIdle();
  EXPECT_TRUE(other->finished(FinishReason::kLength));
  harness.scheduler->Cancel(id);  // ended: no effect
  harness.scheduler->Cancel(12345);
  harness.scheduler->RunOneStep();
}

TEST(SchedulerTest, CancelOfAWaitingRequest) {
  HarnessOptions options;
  options.max_running = 1;
  ServingHarness harness(std::move(options));
  uint64_t id = 0;
  const auto first = harness.Submit(ServingHarness::Greedy(harness.Prompt(0), 10));
  const auto second = harness.Submit(ServingHarness::Greedy(harness.Prompt(1), 10), &id);
  harness.scheduler->RunOneStep();
  EXPECT_EQ(harness.scheduler->queued(), 1);
  harness.scheduler->Cancel(id);
  harness.scheduler->RunOneStep();
  EXPECT_TRUE(second->finished(FinishReason::kCancelled));
  EXPECT_EQ(second->result->generated_tokens, 0);
  EXPECT_EQ(harness.scheduler->queued(), 0);
  harness.RunUntilIdle();
  EXPECT_EQ(first->ids.size(), 10);
}

TEST(SchedulerTest, DeadlineOfAWaitingAndOfARunningRequest) {
  HarnessOptions options;
  options.max_running = 1;
  ServingHarness harness(std::move(options));
  const auto running = harness.Submit(ServingHarness::Greedy(harness.Prompt(0), 400), nullptr,
                                      absl::Now() + absl::Milliseconds(50));
  const auto waiting = harness.Submit(ServingHarness::Greedy(harness.Prompt(1), 10), nullptr,
                                      absl::Now() - absl::Seconds(1));
  harness.scheduler->RunOneStep();
  EXPECT_TRUE(waiting->finished(FinishReason::kDeadline));
  EXPECT_FALSE(running->ended());
  absl::SleepFor(absl::Milliseconds(60));
  harness.scheduler->RunOneStep();
  EXPECT_TRUE(running->finished(FinishReason::kDeadline));
  EXPECT_GE(running->result->generated_tokens, 1);
  EXPECT_EQ(harness.cache->used_pages(), 0);
}

TEST(SchedulerTest, TheQueueIsBounded) {
  HarnessOptions options;
  options.max_running = 2;
  options.max_queued = 3;
  ServingHarness harness(std::move(options));
  Sinks sinks;
  for (int i = 0; i < 3; ++i)
    sinks.push_back(harness.Submit(ServingHarness::Greedy(harness.Prompt(i), 5)));
  const auto refuse = [&] {
    return harness.scheduler->Generate(ServingHarness::Greedy(harness.Prompt(0), 5),
                                       absl::InfiniteFuture(), std::make_shared<RecordingSink>());
  };
  EXPECT_THAT(refuse(), StatusIs(StatusCode::kResourceExhausted,
                                 "3 requests are waiting and the queue holds 3"));
  harness.scheduler->RunOneStep();  // two get their slots
  EXPECT_EQ(harness.scheduler->queued(), 1);
  EXPECT_EQ(harness.scheduler->running(), 2);
  for (int i = 0; i < 2; ++i)
    sinks.push_back(harness.Submit(ServingHarness::Greedy(harness.Prompt(i), 5)));
  EXPECT_THAT(refuse(), StatusIs(StatusCode::kResourceExhausted, ""));
  harness.RunUntilIdle();
  for (const auto& sink : sinks) EXPECT_EQ(sink->ids.size(), 5);
}

TEST(SchedulerTest, SeveralAreAcceptedTogetherOrNotAtAll) {
  HarnessOptions options;
  options.max_running = 4;
  options.max_queued = 4;
  ServingHarness harness(std::move(options));
  const Sinks sinks = {std::make_shared<RecordingSink>(), std::make_shared<RecordingSink>(),
                       std::make_shared<RecordingSink>()};
  const auto submit = [&](const Sinks& to) {
    std::vector<Submission> submissions;
    for (size_t i = 0; i < to.size(); ++i) {
      const int row = static_cast<int>(i);
      submissions.push_back({ServingHarness::Greedy(harness.Prompt(row), 5 + row), to[i]});
    }
    return harness.scheduler->GenerateAll(std::move(submissions), absl::InfiniteFuture());
  };
  const auto first = harness.Submit(ServingHarness::Greedy(harness.Prompt(0), 5));
  const auto second = harness.Submit(ServingHarness::Greedy(harness.Prompt(0), 5));
  EXPECT_THAT(submit(sinks), StatusIs(StatusCode::kResourceExhausted,
                                      "2 requests are waiting and the queue holds 4, so 3 more"));
  EXPECT_EQ(harness.scheduler->queued(), 2);
  harness.scheduler->RunOneStep();  // both get their slots
  ASSERT_OK_AND_ASSIGN(const std::vector<uint64_t> ids, submit(sinks));
  ASSERT_EQ(ids.size(), 3);
  EXPECT_EQ(harness.scheduler->queued(), 3);
  harness.scheduler->Cancel(ids[1]);
  harness.RunUntilIdle();
  EXPECT_EQ(sinks[0]->ids.size(), 5);
  EXPECT_TRUE(sinks[1]->finished(FinishReason::kCancelled));
  EXPECT_EQ(sinks[2]->ids.size(), 7);
  // One that is wrong keeps the others out.
  std::vector<Submission> wrong;
  wrong.push_back({ServingHarness::Greedy(harness.Prompt(0), 5), sinks[0]});
  wrong.push_back({ServingHarness::Greedy({}, 5), sinks[1]});
  EXPECT_THAT(harness.scheduler->GenerateAll(std::move(wrong), absl::InfiniteFuture()),
              StatusIs(StatusCode::kInvalidArgument, "prompt"));
  EXPECT_EQ(harness.scheduler->queued(), 0);
}

TEST(SchedulerTest, FirstInFirstOut) {
  HarnessOptions options;
  options.max_running = 1;
  ServingHarness harness(std::move(options));
  Sinks sinks;
  for (int i = 0; i < 4; ++i)
    sinks.push_back(harness.Submit(ServingHarness::Greedy(harness.Prompt(i % 3), 3)));
  for (size_t ended = 0; ended < sinks.size(); ++ended) {
    while (!sinks[ended]->ended()) {
      harness.scheduler->RunOneStep();
      for (size_t later = ended + 1; later < sinks.size(); ++later)
        ASSERT_TRUE(sinks[later]->ids.empty());
    }
  }
}

TEST(SchedulerTest, StopIdsAndEndOfSequenceEndAnswers) {
  ServingHarness harness;
  const auto free = harness.Solo(ServingHarness::Greedy(harness.Prompt(0), 10));
  GenerateRequest request = ServingHarness::Greedy(harness.Prompt(0), 10);
  request.stop_ids = {free->ids[4]};
  const auto stopped = harness.Solo(request);
  const auto first = std::find(free->ids.begin(), free->ids.end(), free->ids[4]);
  EXPECT_EQ(stopped->ids, std::vector<int32_t>(free->ids.begin(), first + 1));
  EXPECT_TRUE(stopped->finished(FinishReason::kStop));
}

TEST(SchedulerTest, TheContextEndsAnswers) {
  ServingHarness harness;
  const int64_t context = harness.context;
  const auto sink = harness.Solo(
      ServingHarness::Greedy(harness.LongPrompt(5, static_cast<int>(context) - 3), 50));
  EXPECT_EQ(sink->ids.size(), 3);
  EXPECT_TRUE(sink->finished(FinishReason::kLength));
}

TEST(SchedulerTest, ScoresOfEveryLength) {
  HarnessOptions options;
  options.chunk_tokens = 16;
  options.max_running = 16;
  ServingHarness harness(std::move(options));
  const std::vector<int32_t> ids = harness.LongPrompt(9, static_cast<int>(harness.context));
  ASSERT_OK_AND_ASSIGN(const ScoreResult whole, harness.Score(ids));
  ASSERT_EQ(whole.logprobs.size(), ids.size());
  for (size_t i = 1; i < ids.size(); ++i) ASSERT_LT(whole.logprobs[i], 0) << i;
  for (const int count : {1, 2, 16, 17, 33}) {
    ASSERT_OK_AND_ASSIGN(const ScoreResult part, harness.Score({ids.begin(), ids.begin() + count}));
    ASSERT_EQ(part.logprobs.size(), count);
    EXPECT_TRUE(std::isnan(part.logprobs[0]));
    for (int i = 1; i < count; ++i) EXPECT_NEAR(part.logprobs[i], whole.logprobs[i], 1e-4) << i;
  }
  EXPECT_EQ(harness.cache->used_pages(), 0);
}

TEST(SchedulerTest, ObserversSeeEveryToken) {
  ServingHarness harness;
  Sinks sinks;
  for (int i = 0; i < 3; ++i)
    sinks.push_back(harness.Submit(ServingHarness::Greedy(harness.Prompt(i), 7)));
  harness.RunUntilIdle();
  EXPECT_EQ(harness.first_tokens, 3);
  EXPECT_EQ(harness.inter_tokens, 3 * 6);
  ASSERT_EQ(harness.requests.size(), 3);
  for (const RequestTimes& times : harness.requests) {
    EXPECT_EQ(times.prompt_tokens, 16);
    EXPECT_EQ(times.generated_tokens, 7);
    EXPECT_FALSE(times.adapter);
    EXPECT_GE(times.time_to_first_token_seconds, times.queue_seconds);
    EXPECT_GE(times.total_seconds, times.time_to_first_token_seconds);
  }
}

TEST(SchedulerTest, DrainRefusesNewWorkAndLetsTheRestEnd) {
  ServingHarness harness;
  const auto sink = harness.Submit(ServingHarness::Greedy(harness.Prompt(0), 5));
  harness.scheduler->Drain(absl::InfiniteFuture());
  EXPECT_THAT(harness.scheduler->Generate(ServingHarness::Greedy(harness.Prompt(0), 5),
                                          absl::InfiniteFuture(), sink),
              StatusIs(StatusCode::kUnavailable, "shutting down"));
  harness.scheduler->Run();  // returns by itself
  EXPECT_EQ(sink->ids.size(), 5);
}

TEST(SchedulerTest, DrainPastItsDeadlineFailsTheRest) {
  ServingHarness harness;
  const auto running = harness.Submit(ServingHarness::Greedy(harness.Prompt(0), 400));
  harness.scheduler->RunOneStep();
  const auto waiting = harness.Submit(ServingHarness::Greedy(harness.Prompt(0), 400));
  harness.scheduler->Drain(absl::Now());
  harness.scheduler->Run();
  EXPECT_THAT(running->error, StatusIs(StatusCode::kUnavailable, "shutting down"));
  EXPECT_THAT(waiting->error, StatusIs(StatusCode::kUnavailable, "shutting down"));
  EXPECT_EQ(harness.cache->used_pages(), 0);
}

}  // namespace
}  // namespace lorad
