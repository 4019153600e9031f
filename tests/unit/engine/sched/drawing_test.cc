// How running sequences get their tokens: drawn by the device, or from logits where penalties need
// them, side by side in one pass.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/engine/sched/serving_harness.h"

namespace lorad {
namespace {

using absl::StatusCode;
using Sinks = std::vector<std::shared_ptr<RecordingSink>>;

std::vector<SamplingParams> ManyWays() {
  return {{.temperature = 0},
          {.temperature = 1, .seed = 1},
          {.temperature = 0, .repetition_penalty = 1.3},
          {.temperature = 0.8, .top_k = 50, .top_p = 0.95, .seed = 2},
          {.temperature = 1.5, .min_p = 0.01, .presence_penalty = 0.5, .seed = 3},
          {.temperature = 2, .top_p = 0.9, .seed = 4}};
}

TEST(DrawingTest, AnswersTogetherEqualAnswersAlone) {
  ServingHarness harness;
  const std::string adapter = harness.Register(harness.golden.AdapterDir("adapter_step8"));
  std::vector<GenerateRequest> requests;
  for (const SamplingParams& sampling : ManyWays()) {
    for (const int32_t logprobs : {-1, 0, 20}) {
      const int i = static_cast<int>(requests.size());
      requests.push_back(
          ServingHarness::Greedy(harness.LongPrompt(i, 5 + 3 * i), 12, i % 2 == 0 ? "" : adapter));
      requests.back().sampling = sampling;
      requests.back().logprobs = logprobs;
    }
  }
  Sinks alone, together;
  for (const GenerateRequest& request : requests) alone.push_back(harness.Solo(request));
  for (const GenerateRequest& request : requests) together.push_back(harness.Submit(request));
  harness.RunUntilIdle();
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(together[i]->ids, alone[i]->ids) << i;
    ASSERT_EQ(together[i]->logprobs.size(), requests[i].logprobs < 0 ? 0 : 12) << i;
    ASSERT_EQ(alone[i]->logprobs.size(), together[i]->logprobs.size()) << i;
    for (size_t t = 0; t < together[i]->logprobs.size(); ++t) {
      const TokenLogprob &a = together[i]->logprobs[t], &b = alone[i]->logprobs[t];
      EXPECT_EQ(a.id, together[i]->ids[t]) << i;
      EXPECT_EQ(a.logprob, b.logprob) << i;
      EXPECT_EQ(a.top, b.top) << i;
      EXPECT_EQ(a.top.size(), requests[i].logprobs) << i;
    }
  }
}

// A penalty that changes nothing takes the way over the host, and ends at the same token.
TEST(DrawingTest, BothWaysDrawTheSameTokens) {
  ServingHarness harness;
  for (SamplingParams sampling : ManyWays()) {
    sampling.repetition_penalty = 1;
    sampling.presence_penalty = 0;
    GenerateRequest request = ServingHarness::Greedy(harness.Prompt(1), 20);
    request.sampling = sampling;
    request.logprobs = 4;
    const auto device = harness.Solo(request);
    request.sampling.frequency_penalty = 1e-300;  // 0 as a float
    const auto host = harness.Solo(request);
    EXPECT_EQ(device->ids, host->ids);
    ASSERT_EQ(device->logprobs.size(), host->logprobs.size());
    for (size_t t = 0; t < device->logprobs.size(); ++t) {
      EXPECT_EQ(device->logprobs[t].logprob, host->logprobs[t].logprob);
      EXPECT_EQ(device->logprobs[t].top, host->logprobs[t].top);
    }
  }
}

// Keys and values that are no numbers, as an adapter that overflows leaves them.
class BadRowTest : public testing::Test {
 protected:
  static constexpr float kUnwritten = 123;

  BadRowTest() { Clear(); }
  void Clear() {
    const TensorView values = harness_.cache->values(0);
    for (int64_t p = 0; p < values.shape[0]; ++p)
      std::fill_n(values.as<float>() + p * values.stride(), RowElements(values.shape), kUnwritten);
  }
  // Pages whose first token has a value.
  std::vector<int64_t> Written() {
    const TensorView values = harness_.cache->values(0);
    std::vector<int64_t> pages;
    for (int64_t p = 0; p < values.shape[0]; ++p)
      if (values.as<float>()[p * values.stride()] != kUnwritten) pages.push_back(p);
    return pages;
  }
  // Makes the first token of the only page written since `before` no number.
  void Spoil(const std::vector<int64_t>& before) {
    const std::vector<int64_t> now = Written();
    std::vector<int64_t> fresh;
    std::set_difference(now.begin(), now.end(), before.begin(), before.end(),
                        std::back_inserter(fresh));
    ASSERT_EQ(fresh.size(), 1);
    const TensorView values = harness_.cache->values(0);
    std::fill_n(values.as<float>() + fresh[0] * values.stride(),
                RowElements(values.shape) / harness_.cache->page_tokens(), std::nanf(""));
  }

  ServingHarness harness_;
};

TEST_F(BadRowTest, EndsItsOwnRequestAlone) {
  const GenerateRequest good = ServingHarness::Greedy(harness_.Prompt(0, 3), 10);
  const auto expected = harness_.Solo(good);
  for (const double penalty : {0.0, 0.5}) {  // drawn by the device, from logits
    const auto first = harness_.Submit(good);
    harness_.scheduler->RunOneStep();
    const std::vector<int64_t> before = Written();
    GenerateRequest request = ServingHarness::Greedy(harness_.Prompt(1, 3), 10);
    request.sampling.presence_penalty = penalty;
    const auto bad = harness_.Submit(request);
    harness_.scheduler->RunOneStep();
    ASSERT_NO_FATAL_FAILURE(Spoil(before));
    harness_.RunUntilIdle();
    EXPECT_THAT(bad->error,
                StatusIs(StatusCode::kInternal, "no finite largest logit at output token 1"));
    EXPECT_EQ(first->ids, expected->ids);
    EXPECT_TRUE(first->finished(FinishReason::kLength));
    EXPECT_EQ(harness_.cache->used_pages(), 0);
    Clear();
  }
}

}  // namespace
}  // namespace lorad
