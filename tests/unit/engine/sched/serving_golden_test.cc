// Serving against the reference implementations: greedy tokens one for one, scores against the
// logits of transformers.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/engine/sched/serving_harness.h"

namespace lorad {
namespace {

constexpr int kRows = 3, kTokens = 48, kPrompt = 16, kGenerated = 24;

class ServingGoldenTest : public testing::TestWithParam<const char*> {
 protected:
  static HarnessOptions Options() {
    HarnessOptions options;
    options.model = GetParam();
    return options;
  }
  // The reference holds the prompt and what transformers generated after it.
  static std::vector<int32_t> Expected(const ServingHarness& harness, int row) {
    const std::vector<int32_t> all = harness.golden.Ints("greedy_nf4");
    const auto begin = all.begin() + row * (kPrompt + kGenerated);
    EXPECT_TRUE(std::equal(begin, begin + kPrompt, harness.Prompt(row).begin()));
    return {begin + kPrompt, begin + kPrompt + kGenerated};
  }
};

TEST_P(ServingGoldenTest, GreedyEqualsTransformersAlone) {
  ServingHarness harness(Options());
  for (int row = 0; row < kRows; ++row) {
    const auto sink = harness.Solo(ServingHarness::Greedy(harness.Prompt(row), kGenerated));
    EXPECT_EQ(sink->ids, Expected(harness, row)) << "row " << row;
    EXPECT_TRUE(sink->finished(FinishReason::kLength));
  }
}

TEST_P(ServingGoldenTest, GreedyEqualsTransformersTogether) {
  ServingHarness harness(Options());
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int row = 0; row < kRows; ++row)
    sinks.push_back(harness.Submit(ServingHarness::Greedy(harness.Prompt(row), kGenerated)));
  harness.RunUntilIdle();
  for (int row = 0; row < kRows; ++row)
    EXPECT_EQ(sinks[row]->ids, Expected(harness, row)) << "row " << row;
  EXPECT_EQ(*std::max_element(harness.decode_rows.begin(), harness.decode_rows.end()), kRows);
}

TEST_P(ServingGoldenTest, GreedyEqualsTransformersInSmallChunks) {
  HarnessOptions options = Options();
  options.chunk_tokens = 5;
  options.max_running = 4;
  ServingHarness harness(std::move(options));
  for (int row = 0; row < kRows; ++row) {
    const auto sink = harness.Solo(ServingHarness::Greedy(harness.Prompt(row), kGenerated));
    EXPECT_EQ(sink->ids, Expected(harness, row)) << "row " << row;
  }
  EXPECT_EQ(harness.prefill_rows[0], 5);
  EXPECT_EQ(harness.prefill_rows[3], 1);
}

// ln softmax of the golden logits at the given tokens.
std::vector<double> ExpectedScores(const std::vector<float>& logits,
                                   const std::vector<int32_t>& ids, int row, int64_t vocab) {
  std::vector<double> scores = {NAN};
  for (int t = 1; t < kTokens; ++t) {
    const float* z = logits.data() + (row * kTokens + t - 1) * vocab;
    double max = -INFINITY, sum = 0;
    for (int64_t i = 0; i < vocab; ++i) max = std::max(max, double{z[i]});
    for (int64_t i = 0; i < vocab; ++i) sum += std::exp(z[i] - max);
    scores.push_back(z[ids[row * kTokens + t]] - max - std::log(sum));
  }
  return scores;
}

// A log-probability is a logit less a logsumexp of logits, so where logits agree to 1e-4 of their
// largest value, scores agree to twice that.
void ExpectScores(ServingHarness& harness, const std::string& adapter, const char* tensor,
                  double relative) {
  const std::vector<int32_t> ids = harness.golden.Ints("input_ids");
  const std::vector<float> logits = harness.golden.Floats(tensor);
  double largest = 0;
  for (const float z : logits) largest = std::max(largest, std::abs(double{z}));
  for (int row = 0; row < kRows; ++row) {
    const auto expected = ExpectedScores(logits, ids, row, harness.model->config().vocab_size);
    ASSERT_OK_AND_ASSIGN(const ScoreResult result,
                         harness.Score(harness.Prompt(row, kTokens), adapter));
    ASSERT_EQ(result.logprobs.size(), kTokens);
    EXPECT_TRUE(std::isnan(result.logprobs[0]));
    for (int t = 1; t < kTokens; ++t)
      ASSERT_NEAR(result.logprobs[t], expected[t], 2 * relative * largest) << row << ", " << t;
  }
}

TEST_P(ServingGoldenTest, ScoresEqualTransformers) {
  ServingHarness harness(Options());
  ExpectScores(harness, "", "logits_nf4", 1e-4);
}

TEST_P(ServingGoldenTest, ScoresWithAnAdapterEqualPeft) {
  ServingHarness harness(Options());
  const std::string init = harness.Register(harness.golden.AdapterDir("adapter_init"));
  ExpectScores(harness, init, "logits_nf4_lora", 1e-4);
  const std::string step8 = harness.Register(harness.golden.AdapterDir("adapter_step8"));
  ExpectScores(harness, step8, "logits_nf4_lora_step8", 1e-3);
}

TEST_P(ServingGoldenTest, ScoresInChunksEqualScoresInOne) {
  HarnessOptions options = Options();
  options.chunk_tokens = 7;
  options.max_running = 4;
  ServingHarness harness(std::move(options));
  ExpectScores(harness, "", "logits_nf4", 1e-4);
}

TEST_P(ServingGoldenTest, LogprobsOfGenerationEqualScores) {
  ServingHarness harness(Options());
  const std::string adapter = harness.Register(harness.golden.AdapterDir("adapter_step8"));
  for (const std::string& id : {std::string(), adapter}) {
    GenerateRequest request = ServingHarness::Greedy(harness.Prompt(1), kGenerated, id);
    request.logprobs = 3;
    const auto sink = harness.Solo(request);
    std::vector<int32_t> all = harness.Prompt(1);
    all.insert(all.end(), sink->ids.begin(), sink->ids.end());
    ASSERT_OK_AND_ASSIGN(const ScoreResult score, harness.Score(all, id));
    ASSERT_EQ(sink->logprobs.size(), kGenerated);
    for (int i = 0; i < kGenerated; ++i) {
      EXPECT_EQ(sink->logprobs[i].id, sink->ids[i]);
      EXPECT_EQ(sink->logprobs[i].top[0].first, sink->ids[i]) << "greedy takes the likeliest";
      EXPECT_EQ(sink->logprobs[i].top[0].second, sink->logprobs[i].logprob);
      // Decoding and scoring sum in different orders: fp32 rounding of sums as long as the layers
      // are wide, over all layers.
      EXPECT_NEAR(sink->logprobs[i].logprob, score.logprobs[kPrompt + i], 1e-4) << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ServingGoldenTest, testing::ValuesIn(kGoldenModels),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace lorad
