#include <cstring>

#include "tests/unit/engine/ops/op_fixture.h"

namespace lorad {
namespace {

constexpr QuantSpec kDense = {QuantFormat::kNone, 64, false};
constexpr QuantSpec kNf4 = {QuantFormat::kNf4, 64, true};

template <typename T>
struct Problem {
  std::unique_ptr<TestWeight> head;
  Tensor<T> hidden, loss, dhidden;
  Tensor<int32_t> labels;

  // Every third row is ignored, if `some_ignored`.
  Problem(const QuantSpec& spec, int64_t tokens, int64_t width, int64_t vocab, bool some_ignored)
      : head(MakeWeight(spec, vocab, width, 1)),
        hidden(Random<T>({tokens, width}, 2)),
        loss({tokens}),
        dhidden({tokens, width}),
        labels({tokens}) {
    for (int64_t t = 0; t < tokens; ++t) {
      labels.data[t] =
          some_ignored && t % 3 == 1 ? kIgnoreLabel : static_cast<int32_t>((t * 31 + 5) % vocab);
    }
  }
  LinearCrossEntropyArgs Args(float grad_scale) {
    return {hidden.View(), head->view, labels.View(), loss.View(), dhidden.View(), grad_scale, {}};
  }
};

TEST(LinearCrossEntropyTest, SmallCaseByHand) {
  // Head of two rows on one feature: logits ln 3 and 0, so probabilities 3/4 and 1/4.
  const std::vector<BFloat16> dense = {ToBFloat16(1), ToBFloat16(0)};
  WeightView head;
  head.out_features = 2;
  head.in_features = 1;
  head.dense = {dense.data(), DType::kBF16, {2, 1}};
  const float ln3 = std::log(3.0f);
  Tensor<float> hidden({3, 1}, {ln3, ln3, 7}), loss({3}, {9, 9, 9}), dhidden({3, 1}, {9, 9, 9});
  const Tensor<int32_t> labels({3}, {0, 1, kIgnoreLabel});
  OpRunner<float> run;
  ASSERT_OK(run.LinearCrossEntropy(
      {hidden.View(), head, labels.View(), loss.View(), dhidden.View(), 2.0f, {}}));
  EXPECT_FLOAT_EQ(loss.data[0], std::log(4.0f / 3));
  EXPECT_FLOAT_EQ(loss.data[1], std::log(4.0f));
  EXPECT_EQ(loss.data[2], 0);
  EXPECT_FLOAT_EQ(dhidden.data[0], 2 * (0.75f - 1));
  EXPECT_FLOAT_EQ(dhidden.data[1], 2 * 0.75f);
  EXPECT_EQ(dhidden.data[2], 0);
}

TEST(LinearCrossEntropyTest, EqualsDoubleReferenceOverSeveralChunks) {
  const int64_t tokens = 900, width = 64, vocab = 300;  // 600 rows with a label: two chunks
  Problem<float> p(kNf4, tokens, width, vocab, true);
  OpRunner<float> run(2);
  ASSERT_OK(run.LinearCrossEntropy(p.Args(0.5f)));
  std::vector<double> expected, gradient;
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<double> logits(vocab), row(width);
    double sum = 0;
    if (p.labels.data[t] != kIgnoreLabel) {
      for (int64_t o = 0; o < vocab; ++o) {
        for (int64_t i = 0; i < width; ++i) {
          logits[o] += double{p.hidden.row(t)[i]} * WeightAt(p.head->view, o * width + i);
        }
        sum += std::exp(logits[o]);
      }
      expected.push_back(std::log(sum) - logits[p.labels.data[t]]);
      for (int64_t o = 0; o < vocab; ++o) {
        const double g = 0.5 * (std::exp(logits[o]) / sum - (o == p.labels.data[t]));
        for (int64_t i = 0; i < width; ++i) row[i] += g * WeightAt(p.head->view, o * width + i);
      }
    } else {
      expected.push_back(0);
    }
    gradient.insert(gradient.end(), row.begin(), row.end());
  }
  // Logits sum 64 products below 0.5, so err by 66 roundoffs of 32; sums over the vocabulary by as
  // many as it has. The gradient's terms sum to at most 2 * 0.5, times weights below 0.5.
  const double error = kUnitRoundoff<float> * (2 * 66 * 32 + vocab + 20);
  ExpectWithin(p.loss.data, expected, error);
  ExpectWithin(p.dhidden.data, gradient, error);
}

TEST(LinearCrossEntropyTest, GradientIsTheDerivative) {
  Problem<double> p(kNf4, 5, 6, 11, true);
  OpRunner<double> run;
  const auto forward = [&] {
    LinearCrossEntropyArgs args = p.Args(1);
    args.dhidden = {};
    EXPECT_OK(run.LinearCrossEntropy(args));
    double sum = 0;
    for (double loss : p.loss.data) sum += 0.25 * loss;
    return sum;
  };
  ASSERT_OK(run.LinearCrossEntropy(p.Args(0.25f)));
  const std::vector<double> gradient = p.dhidden.data;
  ExpectGradient(p.hidden, gradient, forward);
}

TEST(LinearCrossEntropyTest, DhiddenMayAliasHiddenAndLossAloneIsTheSame) {
  Problem<float> p(kDense, 700, 32, 50, true), in_place(kDense, 700, 32, 50, true),
      alone(kDense, 700, 32, 50, true);
  OpRunner<float> run;
  ASSERT_OK(run.LinearCrossEntropy(p.Args(1)));
  LinearCrossEntropyArgs args = in_place.Args(1);
  args.dhidden = in_place.hidden.View();
  ASSERT_OK(run.LinearCrossEntropy(args));
  EXPECT_EQ(in_place.hidden.data, p.dhidden.data);
  args = alone.Args(1);
  args.dhidden = {};
  ASSERT_OK(run.LinearCrossEntropy(args));
  EXPECT_EQ(alone.loss.data, p.loss.data);
}

TEST(LinearCrossEntropyTest, LogitsFarApartStayFinite) {
  Problem<float> p(kDense, 4, 32, 50, false);
  for (float& value : p.hidden.data) value *= 1e4f;
  OpRunner<float> run;
  ASSERT_OK(run.LinearCrossEntropy(p.Args(1)));
  for (float value : p.loss.data) EXPECT_TRUE(std::isfinite(value));
  for (float value : p.dhidden.data) EXPECT_TRUE(std::isfinite(value));
}

TEST(LinearCrossEntropyTest, NoRowWithALabelIsZeroLoss) {
  Problem<float> p(kDense, 4, 32, 50, false);
  p.labels.data.assign(4, kIgnoreLabel);
  p.loss.data.assign(4, 9);
  p.dhidden.data.assign(4 * 32, 9);
  OpRunner<float> run;
  ASSERT_OK(run.LinearCrossEntropy(p.Args(1)));
  EXPECT_EQ(p.loss.data, std::vector<float>(4, 0));
  EXPECT_EQ(p.dhidden.data, std::vector<float>(4 * 32, 0));
}

TEST(LinearCrossEntropyTest, IsTheSameAgainAndOnAnyNumberOfThreads) {
  std::vector<std::vector<float>> first;
  for (int threads : {1, 2, 5, 2}) {
    Problem<float> p(kNf4, 600, 64, 300, true);
    OpRunner<float> run(threads);
    ASSERT_OK(run.LinearCrossEntropy(p.Args(1)));
    const std::vector<std::vector<float>> now = {p.loss.data, p.dhidden.data};
    if (first.empty()) first = now;
    EXPECT_EQ(now, first) << threads << " threads";
  }
}

TEST(LinearCrossEntropyTest, RefusesAWorkspaceThatIsTooSmall) {
  Problem<float> p(kDense, 4, 32, 50, false);
  OpRunner<float> run;
  LinearCrossEntropyArgs args = p.Args(1);
  std::vector<uint8_t> bytes(run.ops().LinearCrossEntropyWorkspaceBytes(args) - 1);
  args.workspace = {bytes.data(), DType::kU8, {static_cast<int64_t>(bytes.size())}};
  EXPECT_THAT(run.ops().LinearCrossEntropy(args, run.stream()),
              StatusIs(absl::StatusCode::kInvalidArgument, "workspace has"));
}

}  // namespace
}  // namespace lorad
