#include "engine/infer/sampler.h"

#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "gtest/gtest-spi.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using absl::StatusCode;
using Logits = std::vector<float>;

constexpr float kInf = std::numeric_limits<float>::infinity();

int32_t DrawOne(const SamplingParams& params, const Logits& logits, uint64_t step = 0) {
  Sampler sampler(params, {}, static_cast<int64_t>(logits.size()));
  absl::StatusOr<int32_t> id = sampler.Draw(logits, step);
  EXPECT_OK(id);
  return *id;
}

std::map<int32_t, int64_t> Histogram(const SamplingParams& params, const Logits& logits,
                                     int draws) {
  Sampler sampler(params, {}, static_cast<int64_t>(logits.size()));
  std::map<int32_t, int64_t> counts;
  for (int step = 0; step < draws; ++step) ++counts[*sampler.Draw(logits, step)];
  return counts;
}

// Fails when counts are as far from the distribution as happens by chance once in a million draws:
// P(chi2 >= k + 2 sqrt(k t) + 2 t) <= exp(-t) for k degrees of freedom (Laurent & Massart, 2000).
void ExpectDistribution(const std::map<int32_t, int64_t>& counts,
                        const std::map<int32_t, double>& weights, int draws) {
  double total = 0, chi2 = 0;
  for (const auto& [id, weight] : weights) total += weight;
  for (const auto& [id, count] : counts) ASSERT_TRUE(weights.contains(id)) << "drew " << id;
  for (const auto& [id, weight] : weights) {
    const double expected = draws * weight / total;
    ASSERT_GE(expected, 5) << "too few draws for the chi-square test";
    const auto found = counts.find(id);
    const double actual = found == counts.end() ? 0 : static_cast<double>(found->second);
    chi2 += (actual - expected) * (actual - expected) / expected;
  }
  const double k = static_cast<double>(weights.size()) - 1, t = std::log(1e6);
  EXPECT_LT(chi2, k + 2 * std::sqrt(k * t) + 2 * t);
}

std::map<int32_t, double> Softmax(const Logits& logits, double temperature,
                                  const std::vector<int32_t>& kept) {
  std::map<int32_t, double> weights;
  for (int32_t id : kept) weights[id] = std::exp(logits[id] / temperature);
  return weights;
}

const Logits kLogits = {1.5f, -0.5f, 0.25f, 2.0f, 0.25f, -1.0f};
constexpr int kDraws = 20000;

TEST(SamplerTest, GreedyTakesTheLargestAndTheLowestIdAmongEquals) {
  SamplingParams greedy{.temperature = 0};
  EXPECT_EQ(DrawOne(greedy, {0.5f, 3, 1}), 1);
  EXPECT_EQ(DrawOne(greedy, {1, 3, 3, 3}), 1);
  EXPECT_EQ(DrawOne(greedy, {-kInf, -5, -kInf}), 1);
}

TEST(SamplerTest, LogitsThatAreNoNumbersAreAnError) {
  for (const double temperature : {0.0, 1.0}) {
    Sampler sampler({.temperature = temperature}, {}, 2);
    EXPECT_THAT(sampler.Draw(Logits{NAN, NAN}, 3), StatusIs(StatusCode::kInternal, "token 3"));
    EXPECT_THAT(sampler.Draw(Logits{-kInf, -kInf}, 0), StatusIs(StatusCode::kInternal, ""));
    EXPECT_THAT(sampler.Draw(Logits{kInf, 0}, 0), StatusIs(StatusCode::kInternal, ""));
  }
}

TEST(SamplerTest, DrawsFromSoftmaxAtTheTemperature) {
  for (const double temperature : {0.5, 1.0, 3.0}) {
    const auto counts = Histogram({.temperature = temperature, .seed = 7}, kLogits, kDraws);
    ExpectDistribution(counts, Softmax(kLogits, temperature, {0, 1, 2, 3, 4, 5}), kDraws);
  }
}

TEST(SamplerTest, DrawsAmongTheAllowedAlone) {
  TokenMask allowed(static_cast<int64_t>(kLogits.size()));
  for (const int32_t id : {1, 2, 5}) allowed.Add(id);
  Sampler greedy({.temperature = 0}, {}, static_cast<int64_t>(kLogits.size()));
  EXPECT_EQ(*greedy.Draw(kLogits, 0, &allowed), 2);
  Sampler sampler({.temperature = 1, .seed = 9}, {}, static_cast<int64_t>(kLogits.size()));
  std::map<int32_t, int64_t> counts;
  for (int step = 0; step < kDraws; ++step) ++counts[*sampler.Draw(kLogits, step, &allowed)];
  ExpectDistribution(counts, Softmax(kLogits, 1, {1, 2, 5}), kDraws);
}

TEST(SamplerTest, TheChiSquareTestFindsAWrongDistribution) {
  const auto counts = Histogram({.temperature = 1.1, .seed = 7}, kLogits, kDraws);
  const auto weights = Softmax(kLogits, 1.0, {0, 1, 2, 3, 4, 5});
  EXPECT_NONFATAL_FAILURE(ExpectDistribution(counts, weights, kDraws), "chi2");
}

TEST(SamplerTest, TopKKeepsTheKLikeliest) {
  const auto counts = Histogram({.temperature = 1, .top_k = 2, .seed = 1}, kLogits, kDraws);
  ExpectDistribution(counts, Softmax(kLogits, 1, {0, 3}), kDraws);
}

TEST(SamplerTest, TopKKeepsEqualsOfTheLast) {
  const auto counts = Histogram({.temperature = 1, .top_k = 3, .seed = 1}, kLogits, kDraws);
  ExpectDistribution(counts, Softmax(kLogits, 1, {0, 2, 3, 4}), kDraws);
}

TEST(SamplerTest, TopKAboveTheVocabularyKeepsAll) {
  const auto counts = Histogram({.temperature = 1, .top_k = 100, .seed = 1}, kLogits, kDraws);
  ExpectDistribution(counts, Softmax(kLogits, 1, {0, 1, 2, 3, 4, 5}), kDraws);
}

// Shares 0.4, 0.3, 0.2, 0.1.
const Logits kTenths = {std::log(0.2f), std::log(0.4f), std::log(0.1f), std::log(0.3f)};

TEST(SamplerTest, TopPKeepsTheSmallestSetThatReachesTheShare) {
  const auto kept = [](double top_p) {
    const auto counts = Histogram({.temperature = 1, .top_p = top_p, .seed = 3}, kTenths, 2000);
    std::vector<int32_t> ids;
    for (const auto& [id, count] : counts) ids.push_back(id);
    return ids;
  };
  EXPECT_EQ(kept(0.01), (std::vector<int32_t>{1}));
  EXPECT_EQ(kept(0.39), (std::vector<int32_t>{1}));
  EXPECT_EQ(kept(0.45), (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(kept(0.69), (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(kept(0.75), (std::vector<int32_t>{0, 1, 3}));
  EXPECT_EQ(kept(1.0), (std::vector<int32_t>{0, 1, 2, 3}));
}

TEST(SamplerTest, TopPRenormalisesWhatItKeeps) {
  const auto counts = Histogram({.temperature = 1, .top_p = 0.65, .seed = 4}, kTenths, kDraws);
  ExpectDistribution(counts, {{1, 0.4}, {3, 0.3}}, kDraws);
}

TEST(SamplerTest, TopPCountsSharesOfWhatTopKLeft) {
  // Of 0.4 and 0.3 the first has a share of 0.571: enough for top_p 0.55, not for 0.6.
  EXPECT_EQ(
      Histogram({.temperature = 1, .top_k = 2, .top_p = 0.55, .seed = 4}, kTenths, 500).size(), 1);
  EXPECT_EQ(Histogram({.temperature = 1, .top_k = 2, .top_p = 0.6, .seed = 4}, kTenths, 500).size(),
            2);
}

TEST(SamplerTest, TopPTakesTheLowestIdAmongEquals) {
  const Logits equal = {1, 1, 1, 1};
  const auto counts = Histogram({.temperature = 1, .top_p = 0.5, .seed = 4}, equal, 2000);
  EXPECT_EQ(counts.size(), 2);
  EXPECT_TRUE(counts.contains(0) && counts.contains(1));
}

TEST(SamplerTest, MinPDropsTokensFarBelowTheLikeliest) {
  // Relative to the largest: 0.5, 1, 0.25, 0.75.
  const auto counts = Histogram({.temperature = 1, .min_p = 0.4, .seed = 5}, kTenths, kDraws);
  ExpectDistribution(counts, {{0, 0.2}, {1, 0.4}, {3, 0.3}}, kDraws);
  EXPECT_EQ(Histogram({.temperature = 1, .min_p = 1, .seed = 5}, kTenths, 500).size(), 1);
}

TEST(SamplerTest, MinPIsAppliedAtTheTemperature) {
  // At temperature 2 the ratios are square roots: 0.707, 1, 0.5, 0.866.
  EXPECT_EQ(Histogram({.temperature = 2, .min_p = 0.6, .seed = 5}, kTenths, 2000).size(), 3);
}

TEST(SamplerTest, ADrawIsAFunctionOfSeedStepAndLogits) {
  const SamplingParams params{.temperature = 1, .seed = 42};
  Sampler a(params, {}, 6), b(params, {}, 6);
  std::vector<int32_t> forward, backward(64);
  for (int step = 0; step < 64; ++step) forward.push_back(*a.Draw(kLogits, step));
  for (int step = 63; step >= 0; --step) backward[step] = *b.Draw(kLogits, step);
  EXPECT_EQ(forward, backward);
  std::vector<int32_t> other;
  Sampler c({.temperature = 1, .seed = 43}, {}, 6);
  for (int step = 0; step < 64; ++step) other.push_back(*c.Draw(kLogits, step));
  EXPECT_NE(forward, other);
}

TEST(SamplerTest, RepetitionPenaltyDividesPositiveAndMultipliesNegativeLogits) {
  const std::vector<int32_t> prompt = {0};
  const SamplingParams params{.temperature = 0, .repetition_penalty = 1.1};
  Sampler sampler(params, prompt, 2);
  EXPECT_EQ(*sampler.Draw(Logits{2.0f, 1.85f}, 0), 1);  // 2 / 1.1 = 1.818
  EXPECT_EQ(*sampler.Draw(Logits{2.0f, 1.80f}, 0), 0);
  EXPECT_EQ(*sampler.Draw(Logits{-1.0f, -1.05f}, 0), 1);  // -1 * 1.1
  EXPECT_EQ(*sampler.Draw(Logits{-1.0f, -1.15f}, 0), 0);
  sampler.Accept(1);  // the output counts as the prompt does
  EXPECT_EQ(*sampler.Draw(Logits{2.0f, 1.85f}, 1), 0);
}

TEST(SamplerTest, RepetitionPenaltyIsNotCountedTwice) {
  Sampler sampler({.temperature = 0, .repetition_penalty = 1.1}, std::vector<int32_t>{0, 0}, 2);
  sampler.Accept(0);
  EXPECT_EQ(*sampler.Draw(Logits{2.0f, 1.80f}, 1), 0);
}

TEST(SamplerTest, PresencePenaltyIsSubtractedOnceForTokensOfTheOutput) {
  Sampler sampler({.temperature = 0, .presence_penalty = 0.5}, std::vector<int32_t>{0}, 2);
  EXPECT_EQ(*sampler.Draw(Logits{2.0f, 1.9f}, 0), 0);  // the prompt does not count
  sampler.Accept(0);
  EXPECT_EQ(*sampler.Draw(Logits{2.0f, 1.6f}, 1), 1);
  sampler.Accept(0);
  EXPECT_EQ(*sampler.Draw(Logits{2.0f, 1.4f}, 2), 0);
}

TEST(SamplerTest, FrequencyPenaltyIsSubtractedForEachOccurrence) {
  Sampler sampler({.temperature = 0, .frequency_penalty = 0.25}, std::vector<int32_t>{0, 0}, 2);
  EXPECT_EQ(*sampler.Draw(Logits{2.0f, 1.9f}, 0), 0);
  sampler.Accept(0);
  EXPECT_EQ(*sampler.Draw(Logits{2.0f, 1.7f}, 1), 0);  // 1.75
  sampler.Accept(0);
  EXPECT_EQ(*sampler.Draw(Logits{2.0f, 1.7f}, 2), 1);  // 1.5
}

TEST(SamplerTest, PenaltiesAddUpAfterTheRepetitionPenalty) {
  Sampler sampler({.temperature = 0,
                   .repetition_penalty = 2,
                   .presence_penalty = 0.5,
                   .frequency_penalty = 0.25},
                  std::vector<int32_t>{}, 2);
  sampler.Accept(0);
  // 4 / 2 - 0.25 - 0.5 = 1.25; the other order would give (4 - 0.75) / 2 = 1.625.
  EXPECT_EQ(*sampler.Draw(Logits{4.0f, 1.3f}, 1), 1);
  EXPECT_EQ(*sampler.Draw(Logits{4.0f, 1.2f}, 1), 0);
}

TEST(SamplerTest, NegativePenaltiesEncourage) {
  Sampler sampler({.temperature = 0, .presence_penalty = -1}, std::vector<int32_t>{}, 2);
  sampler.Accept(0);
  EXPECT_EQ(*sampler.Draw(Logits{1.0f, 1.9f}, 1), 0);
}

TokenLogprob LogprobOf(const Logits& logits, int32_t id, int32_t top) {
  return Sampler({}, {}, static_cast<int64_t>(logits.size())).LogprobOf(logits, id, top);
}

TEST(LogprobTest, IsTheSoftmaxOfTheLogits) {
  const TokenLogprob logprob = LogprobOf(kTenths, 0, 3);
  EXPECT_EQ(logprob.id, 0);
  EXPECT_NEAR(logprob.logprob, std::log(0.2), 1e-6);
  ASSERT_EQ(logprob.top.size(), 3);
  EXPECT_EQ(logprob.top[0].first, 1);
  EXPECT_EQ(logprob.top[1].first, 3);
  EXPECT_EQ(logprob.top[2].first, 0);
  EXPECT_NEAR(logprob.top[0].second, std::log(0.4), 1e-6);
  EXPECT_TRUE(LogprobOf(kTenths, 2, 0).top.empty());
}

TEST(LogprobTest, LargeLogitsDoNotOverflow) {
  EXPECT_NEAR(LogprobOf(Logits{1e4f, 1e4f}, 1, 0).logprob, -std::log(2), 1e-6);
}

TEST(SamplingParamsTest, RangesAreChecked) {
  const auto error = [](SamplingParams params, const char* text) {
    EXPECT_THAT(Validate(params), StatusIs(StatusCode::kInvalidArgument, text));
  };
  EXPECT_OK(Validate(SamplingParams{}));
  EXPECT_OK(Validate(SamplingParams{.temperature = 0, .top_k = 1, .top_p = 1e-9, .min_p = 1}));
  error({.temperature = -0.1}, "temperature is -0.1");
  error({.temperature = NAN}, "temperature is nan");
  error({.temperature = INFINITY}, "temperature is inf");
  error({.top_k = -1}, "top_k is -1");
  error({.top_p = 0}, "top_p is 0; it must be in (0, 1]");
  error({.top_p = 1.01}, "top_p is 1.01");
  error({.min_p = -0.5}, "min_p is -0.5");
  error({.min_p = NAN}, "min_p is nan");
  error({.repetition_penalty = 0}, "repetition_penalty is 0");
  error({.repetition_penalty = INFINITY}, "repetition_penalty is inf");
  error({.presence_penalty = 2.5}, "presence_penalty is 2.5; it must be in [-2, 2]");
  error({.frequency_penalty = -3}, "frequency_penalty is -3");
}

}  // namespace
}  // namespace lorad
