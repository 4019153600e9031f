// The sample op on the CPU against its definition. That its draws follow softmax is tested by
// chi-square in infer/sampler_test.cc, over the same code.
#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/unit/engine/ops/op_fixture.h"
#include "tests/unit/engine/ops/sample_fixture.h"

namespace lorad {
namespace {

constexpr int64_t kTop = 5;

// Rows of logits, one for each entry of `params`, all with `top` columns.
template <typename T = float>
SampleAnswers SampleRows(const std::vector<std::vector<float>>& rows,
                         std::vector<DrawParams> params, int64_t top = kTop, int threads = 2) {
  OpRunner<T> run(threads);
  const auto count = static_cast<int64_t>(rows.size());
  const auto vocab = static_cast<int64_t>(rows[0].size());
  Tensor<T> logits({count, vocab});
  for (int64_t r = 0; r < count; ++r) std::copy(rows[r].begin(), rows[r].end(), logits.row(r));
  SampleAnswers answers(count, top);
  SampleArgs args;
  args.logits = logits.View();
  args.params = {params.data(), DType::kU8, {count, sizeof(DrawParams)}};
  args.ids = {answers.ids.data(), DType::kI32, {count}};
  args.logprobs = {answers.logprobs.data(), DType::kF32, {count}};
  if (top > 0) {
    args.top_ids = {answers.top_ids.data(), DType::kI32, {count, top}};
    args.top_logprobs = {answers.top_logprobs.data(), DType::kF32, {count, top}};
  }
  EXPECT_OK(run.ops().Sample(args, run.stream()));
  return answers;
}

DrawParams Greedy(int32_t top = -1) {
  DrawParams params = MakeDrawParams(0, 0, 1, 0, 0);
  params.top = top;
  return params;
}

TEST(SampleTest, DrawsWhatTheDefinitionDraws) {
  const std::vector<DrawParams> params = ManyParams();
  for (const int64_t vocab : {1, 2, 31, 1000}) {
    std::vector<std::vector<float>> rows;
    for (size_t i = 0; i < params.size(); ++i)
      rows.push_back(SomeLogits(vocab, 0.5 + static_cast<double>(i % 5), static_cast<uint32_t>(i)));
    const SampleAnswers answers = SampleRows(rows, params, 0);
    for (size_t i = 0; i < params.size(); ++i)
      ASSERT_EQ(answers.ids[i], ReferenceDraw(rows[i], params[i]))
          << "vocabulary " << vocab << ", " << Describe(params[i]);
  }
}

TEST(SampleTest, FullPrecisionLogitsAreDrawnByTheDefinitionToo) {
  const std::vector<DrawParams> params = ManyParams();
  std::vector<std::vector<float>> rows;
  for (size_t i = 0; i < params.size(); ++i)
    rows.push_back(Random<float>({777}, static_cast<uint32_t>(i), 8).data);
  const SampleAnswers answers = SampleRows(rows, params, 0),
                      wide = SampleRows<double>(rows, params, 0);
  for (size_t i = 0; i < params.size(); ++i)
    ASSERT_EQ(answers.ids[i], ReferenceDraw(rows[i], params[i])) << Describe(params[i]);
  EXPECT_EQ(wide.ids, answers.ids);
}

TEST(SampleTest, GreedyTakesTheLowestIdAmongEquals) {
  const SampleAnswers answers =
      SampleRows({{0.5f, 3, 3, 1}, {-0.0f, 0, -1, 0}, {-kInfinity, -5, -5, -6}},
                 {Greedy(), Greedy(), Greedy()}, 0);
  EXPECT_EQ(answers.ids, (std::vector<int32_t>{1, 0, 1}));
}

// The k-th largest has equals, which stay; top-p then takes the lowest ids of them.
TEST(SampleTest, EqualsAtTheEndOfTopKAndTopP) {
  const std::vector<float> logits = {1, 2, 1, 1, 0};
  std::vector<bool> by_k(5), by_both(5);
  for (uint64_t seed = 0; seed < 400; ++seed) {
    by_k[SampleRows({logits}, {MakeDrawParams(1, 2, 1, 0, seed)}, 0, 1).ids[0]] = true;
    // Of e, 1, 1, 1: shares 0.475, 0.175, 0.175, 0.175.
    by_both[SampleRows({logits}, {MakeDrawParams(1, 2, 0.6, 0, seed)}, 0, 1).ids[0]] = true;
  }
  EXPECT_EQ(by_k, (std::vector<bool>{true, true, true, true, false}));
  EXPECT_EQ(by_both, (std::vector<bool>{true, true, false, false, false}));
}

TEST(SampleTest, FiltersThatLeaveOneTokenAreGreedy) {
  for (const DrawParams& params :
       {MakeDrawParams(1, 1, 1, 0, 5), MakeDrawParams(1, 0, 1e-300, 0, 5),
        MakeDrawParams(1, 0, 1, 1, 5), MakeDrawParams(1e-300, 0, 1, 0, 5)}) {
    for (uint64_t step = 0; step < 50; ++step) {
      DrawParams at = params;
      at.step = step;
      ASSERT_EQ(SampleRows({{0.5f, 2, 1.75f, -1}}, {at}, 0, 1).ids[0], 1) << Describe(at);
    }
  }
}

// One bad row is that row's concern.
TEST(SampleTest, RowsWithoutNumbersSayMinusOne) {
  const float nan = std::nanf("");
  const std::vector<std::vector<float>> rows = {{1, 2, 3},
                                                {1, nan, 3},
                                                {1, -nan, 3},
                                                {kInfinity, 0, 1},
                                                {-kInfinity, -kInfinity, -kInfinity},
                                                {nan, nan, nan},
                                                {-kInfinity, 7, -kInfinity}};
  for (const double temperature : {0.0, 1.0}) {
    std::vector<DrawParams> params(rows.size(), MakeDrawParams(temperature, 0, 1, 0, 1));
    for (DrawParams& p : params) p.top = 1;
    const SampleAnswers answers = SampleRows(rows, params, 1);
    EXPECT_GE(answers.ids[0], 0);
    EXPECT_EQ(answers.ids[6], 1);
    EXPECT_EQ(answers.logprobs[6], 0);
    for (size_t r = 1; r < 6; ++r) {
      EXPECT_EQ(answers.ids[r], -1) << r;
      EXPECT_EQ(answers.logprobs[r], 0) << r;
      EXPECT_EQ(answers.top_ids[r], -1) << r;
      EXPECT_EQ(answers.top_logprobs[r], 0) << r;
    }
  }
}

TEST(SampleTest, LogprobsAreOfTheUnmodifiedDistribution) {
  const int64_t vocab = 3000;
  std::vector<std::vector<float>> rows;
  std::vector<DrawParams> params;
  for (const double temperature : {0.0, 0.2, 1.0, 4.0}) {
    for (const double spread : {0.1, 3.0, 30.0}) {
      rows.push_back(SomeLogits(vocab, spread, static_cast<uint32_t>(rows.size())));
      params.push_back(MakeDrawParams(temperature, 40, 0.9, 0, rows.size()));
      params.back().top = kTop;
    }
  }
  const SampleAnswers answers = SampleRows(rows, params);
  for (size_t r = 0; r < rows.size(); ++r) {
    const double expected = ReferenceLogprob(rows[r], answers.ids[r]);
    ASSERT_NEAR(answers.logprobs[r], expected, LogprobBound(expected)) << r;
    const std::vector<int32_t> order = LikeliestFirst(rows[r]);
    for (int64_t i = 0; i < kTop; ++i) {
      ASSERT_EQ(answers.top_ids[r * kTop + i], order[i]) << r;
      const double top = ReferenceLogprob(rows[r], order[i]);
      ASSERT_NEAR(answers.top_logprobs[r * kTop + i], top, LogprobBound(top)) << r;
    }
  }
}

TEST(SampleTest, EachRowGetsAsManyOfTheLikeliestAsItAsksFor) {
  const std::vector<float> logits = {-kInfinity, 2, -100, 2};
  const SampleAnswers answers =
      SampleRows({logits, logits, logits, logits}, {Greedy(-1), Greedy(0), Greedy(2), Greedy(5)});
  const auto top = [&](int row) {
    const auto begin = answers.top_ids.begin() + row * kTop;
    return std::vector<int32_t>(begin, begin + kTop);
  };
  EXPECT_EQ(top(0), (std::vector<int32_t>{-1, -1, -1, -1, -1}));
  EXPECT_EQ(top(1), (std::vector<int32_t>{-1, -1, -1, -1, -1}));
  EXPECT_EQ(top(2), (std::vector<int32_t>{1, 3, -1, -1, -1}));
  EXPECT_EQ(top(3), (std::vector<int32_t>{1, 3, 2, 0, -1}));  // the vocabulary has four
  EXPECT_EQ(answers.logprobs[0], 0);
  EXPECT_NEAR(answers.logprobs[1], -std::log(2.0), 1e-6);
  // Far below the largest, where weights are 0, and where there is no probability at all.
  EXPECT_NEAR(answers.top_logprobs[3 * kTop + 2], -102 - std::log(2.0), 1e-4);
  EXPECT_EQ(answers.top_logprobs[3 * kTop + 3], -kInfinity);
  EXPECT_EQ(answers.top_logprobs[3 * kTop + 4], 0);
}

TEST(SampleTest, ARowDoesNotDependOnItsCompany) {
  const std::vector<DrawParams> params = ManyParams();
  std::vector<std::vector<float>> rows;
  for (size_t i = 0; i < params.size(); ++i)
    rows.push_back(SomeLogits(5000, 2, static_cast<uint32_t>(i)));
  const SampleAnswers one = SampleRows(rows, params, 0, 1), many = SampleRows(rows, params, 0, 3);
  EXPECT_EQ(one.ids, many.ids);
  for (size_t i = 0; i < params.size(); i += 37)
    EXPECT_EQ(SampleRows({rows[i]}, {params[i]}, 0).ids[0], one.ids[i]) << Describe(params[i]);
}

TEST(DrawParamsTest, HoldsTheParametersInWholeNumbers) {
  const DrawParams plain = MakeDrawParams(1, 0, 1, 0, 9);
  EXPECT_EQ(plain.seed, 9);
  EXPECT_EQ(plain.top_p, 0);
  EXPECT_EQ(plain.min_weight, 1);
  EXPECT_EQ(plain.octaves_per_unit, kLog2E);
  EXPECT_EQ(plain.top, -1);
  EXPECT_EQ(MakeDrawParams(1, 0, 0.5, 0.25, 0).top_p, uint64_t{1} << 63);
  EXPECT_EQ(MakeDrawParams(1, 0, 0.5, 0.25, 0).min_weight, kLargestSampleWeight / 4);
  EXPECT_EQ(MakeDrawParams(1, 0, 1e-300, 1e-300, 0).top_p, 1);
  EXPECT_EQ(MakeDrawParams(1, 0, 1, 1e-300, 0).min_weight, 1);
  EXPECT_EQ(MakeDrawParams(0, 0, 1, 0, 0).octaves_per_unit, 0);
  // Finite and not 0, which would mean greedy.
  EXPECT_GT(MakeDrawParams(1.7e308, 0, 1, 0, 0).octaves_per_unit, 0);
  EXPECT_TRUE(std::isfinite(MakeDrawParams(5e-324, 0, 1, 0, 0).octaves_per_unit));
}

}  // namespace
}  // namespace lorad
