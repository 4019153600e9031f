#include <numeric>

#include "tests/unit/engine/ops/op_fixture.h"

namespace lorad {
namespace {

// Everything an attention call takes, for sequences of the given lengths.
template <typename T>
struct Packed {
  int64_t tokens, heads, kv_heads, head_dim;
  Tensor<int32_t> cu_seqlens;
  Tensor<T> q, k, v, o, lse, dout, dq, dk, dv;
  float scale = 0.3f;

  Packed(const std::vector<int32_t>& lengths, int64_t h, int64_t kv, int64_t d, uint32_t seed)
      : tokens(std::accumulate(lengths.begin(), lengths.end(), 0)),
        heads(h),
        kv_heads(kv),
        head_dim(d),
        cu_seqlens({static_cast<int64_t>(lengths.size()) + 1}),
        q(Random<T>({tokens, h, d}, seed, 2)),
        k(Random<T>({tokens, kv, d}, seed + 1, 2)),
        v(Random<T>({tokens, kv, d}, seed + 2)),
        o({tokens, h, d}),
        lse({tokens, h}),
        dout(Random<T>({tokens, h, d}, seed + 3)),
        dq({tokens, h, d}),
        dk({tokens, kv, d}),
        dv({tokens, kv, d}) {
    std::partial_sum(lengths.begin(), lengths.end(), cu_seqlens.data.begin() + 1);
  }
  AttentionArgs Args() {
    return {q.View(), k.View(), v.View(), cu_seqlens.View(), o.View(), lse.View(), scale};
  }
  AttentionBackwardArgs BackwardArgs() {
    return {dout.View(),       q.View(),  k.View(),  v.View(),  o.View(), lse.View(),
            cu_seqlens.View(), dq.View(), dk.View(), dv.View(), scale};
  }
};

// o and lse of one query by the formula, in double. `spread`: how far scores lie from zero.
template <typename T>
void ReferenceRow(const Packed<T>& p, int64_t first, int64_t t, int64_t h, std::vector<double>& o,
                  double& lse) {
  const int64_t d = p.head_dim, kv = h / (p.heads / p.kv_heads);
  std::vector<double> scores;
  double largest = -1e300, sum = 0;
  for (int64_t s = first; s <= t; ++s) {
    double dot = 0;
    for (int64_t i = 0; i < d; ++i) dot += double{p.q.row(t)[h * d + i]} * p.k.row(s)[kv * d + i];
    scores.push_back(dot * double{p.scale});
    largest = std::max(largest, scores.back());
  }
  for (double score : scores) sum += std::exp(score - largest);
  o.assign(d, 0);
  for (int64_t s = first; s <= t; ++s) {
    const double weight = std::exp(scores[s - first] - largest) / sum;
    for (int64_t i = 0; i < d; ++i) o[i] += weight * p.v.row(s)[kv * d + i];
  }
  lse = largest + std::log(sum);
}

template <typename T>
void ExpectForward(const Packed<T>& p) {
  std::vector<double> expected_o, expected_lse;
  for (int64_t s = 0; s + 1 < p.cu_seqlens.shape[0]; ++s) {
    const int32_t first = p.cu_seqlens.data[s];
    for (int32_t t = first; t < p.cu_seqlens.data[s + 1]; ++t) {
      for (int64_t h = 0; h < p.heads; ++h) {
        std::vector<double> o;
        expected_lse.push_back(0);
        ReferenceRow(p, first, t, h, o, expected_lse.back());
        expected_o.insert(expected_o.end(), o.begin(), o.end());
      }
    }
  }
  // |q|, |k| < 2: a score errs by (d + 2) roundoffs of 4 d scale, and so by that, relatively, its
  // weight; sums of weights by as many roundoffs as there are keys. |v| < 1.
  const double d = static_cast<double>(p.head_dim), keys = static_cast<double>(p.tokens);
  const double score = (d + 2) * 4 * d * p.scale;
  ExpectWithin(p.lse.data, expected_lse, kUnitRoundoff<T> * (score + keys + 8));
  ExpectWithin(p.o.data, expected_o, kUnitRoundoff<T> * 2 * (score + keys + 8));
}

TEST(AttentionTest, SmallCaseByHand) {
  // One head of dimension 1; scores of the second query: ln 3 and 0, so weights 3/4 and 1/4.
  OpRunner<float> run;
  const float ln3 = std::log(3.0f);
  Tensor<float> q({2, 1, 1}, {5, 1}), k({2, 1, 1}, {ln3, 0}), v({2, 1, 1}, {4, 8});
  Tensor<float> o({2, 1, 1}), lse({2, 1});
  const Tensor<int32_t> cu({2}, {0, 2});
  ASSERT_OK(run.ops().Attention(
      {q.View(), k.View(), v.View(), cu.View(), o.View(), lse.View(), 1.0f}, run.stream()));
  EXPECT_FLOAT_EQ(o.data[0], 4);
  EXPECT_FLOAT_EQ(o.data[1], 5);
  EXPECT_FLOAT_EQ(lse.data[0], 5 * ln3);
  EXPECT_FLOAT_EQ(lse.data[1], std::log(4.0f));
}

TEST(AttentionTest, EqualsDoubleReference) {
  // Lengths around the tile of 64 queries, one of 0; groups of 1 and 3 heads.
  for (const auto& [heads, kv_heads, dim] : {std::tuple{3, 1, 20}, {2, 2, 8}, {6, 2, 16}}) {
    Packed<float> p({1, 63, 0, 64, 65, 130}, heads, kv_heads, dim, 1);
    OpRunner<float> run(3);
    ASSERT_OK(run.ops().Attention(p.Args(), run.stream()));
    ExpectForward(p);
  }
}

TEST(AttentionTest, LongSequencesTakeSeveralTilesOfKeys) {
  Packed<float> p({1100}, 2, 1, 8, 1);
  OpRunner<float> run(2);
  ASSERT_OK(run.ops().Attention(p.Args(), run.stream()));
  ExpectForward(p);
}

TEST(AttentionTest, ScoresFarApartDoNotOverflow) {
  Packed<float> p({200}, 1, 1, 4, 1);
  p.scale = 1;
  for (float& value : p.q.data) value *= 40;
  for (float& value : p.k.data) value *= 40;  // scores up to 25,600
  OpRunner<float> run;
  ASSERT_OK(run.ops().Attention(p.Args(), run.stream()));
  for (float value : p.o.data) ASSERT_LE(std::abs(value), 1.0001f);
  for (float value : p.lse.data) ASSERT_TRUE(std::isfinite(value));
}

TEST(AttentionTest, PackedSequencesAreAloneBitForBit) {
  Packed<float> packed({70, 5, 90}, 4, 2, 16, 1);
  OpRunner<float> run(2);
  ASSERT_OK(run.ops().Attention(packed.Args(), run.stream()));
  ASSERT_OK(run.ops().AttentionBackward(packed.BackwardArgs(), run.stream()));
  Packed<float> alone({90}, 4, 2, 16, 1);
  const auto take = [](const Tensor<float>& from, Tensor<float>& to) {
    std::copy(from.row(75), from.row(75) + to.data.size(), to.data.begin());
  };
  take(packed.q, alone.q), take(packed.k, alone.k), take(packed.v, alone.v);
  take(packed.dout, alone.dout);
  ASSERT_OK(run.ops().Attention(alone.Args(), run.stream()));
  ASSERT_OK(run.ops().AttentionBackward(alone.BackwardArgs(), run.stream()));
  for (auto [from, of] : {std::pair{&packed.o, &alone.o},
                          {&packed.dq, &alone.dq},
                          {&packed.dk, &alone.dk},
                          {&packed.dv, &alone.dv}}) {
    EXPECT_EQ(std::vector<float>(from->row(75), from->row(75) + of->data.size()), of->data);
  }
}

TEST(AttentionTest, BackwardIsTheDerivative) {
  Packed<double> p({3, 1, 6}, 4, 2, 5, 1);
  OpRunner<double> run(2);
  const auto forward = [&] {
    EXPECT_OK(run.ops().Attention(p.Args(), run.stream()));
    return WeightedSum(p.dout, p.o);
  };
  forward();
  ASSERT_OK(run.ops().AttentionBackward(p.BackwardArgs(), run.stream()));
  ExpectGradient(p.q, p.dq.data, forward);
  ExpectGradient(p.k, p.dk.data, forward);
  ExpectGradient(p.v, p.dv.data, forward);
}

// Over several tiles of queries and of keys, where finite differences of every value would take too
// long: the derivative along one direction of all of q, k and v.
TEST(AttentionTest, BackwardOverManyTilesIsTheDerivativeAlongADirection) {
  Packed<double> p({700, 90}, 2, 1, 6, 1);
  OpRunner<double> run(2);
  ASSERT_OK(run.ops().Attention(p.Args(), run.stream()));
  ASSERT_OK(run.ops().AttentionBackward(p.BackwardArgs(), run.stream()));
  Tensor<double>* parameters[] = {&p.q, &p.k, &p.v};
  const Tensor<double>* gradients[] = {&p.dq, &p.dk, &p.dv};
  for (int i = 0; i < 3; ++i) {
    const Tensor<double> direction = Random<double>(parameters[i]->shape, 50 + i);
    const std::vector<double> kept = parameters[i]->data;
    const auto loss = [&](double step) {
      for (size_t j = 0; j < kept.size(); ++j) {
        parameters[i]->data[j] = kept[j] + step * direction.data[j];
      }
      EXPECT_OK(run.ops().Attention(p.Args(), run.stream()));
      return WeightedSum(p.dout, p.o);
    };
    const double slope = WeightedSum(direction, *gradients[i]);
    constexpr double kStep = 1e-5;
    const double measured = (loss(kStep) - loss(-kStep)) / (2 * kStep);
    loss(0);
    EXPECT_NEAR(measured, slope, 1e-7 * std::max(1.0, std::abs(slope))) << i;
    EXPECT_GT(std::abs(slope), 1e-3);
  }
}

TEST(AttentionTest, FloatBackwardAgreesWithDouble) {
  Packed<float> narrow({130, 64}, 4, 2, 16, 1);
  Packed<double> wide({130, 64}, 4, 2, 16, 1);
  const auto copy = [](const Tensor<float>& from, Tensor<double>& to) {
    std::copy(from.data.begin(), from.data.end(), to.data.begin());
  };
  copy(narrow.q, wide.q), copy(narrow.k, wide.k), copy(narrow.v, wide.v);
  copy(narrow.dout, wide.dout);
  OpRunner<float> run(2);
  OpRunner<double> run_wide(2);
  ASSERT_OK(run.ops().Attention(narrow.Args(), run.stream()));
  ASSERT_OK(run.ops().AttentionBackward(narrow.BackwardArgs(), run.stream()));
  ASSERT_OK(run_wide.ops().Attention(wide.Args(), run_wide.stream()));
  ASSERT_OK(run_wide.ops().AttentionBackward(wide.BackwardArgs(), run_wide.stream()));
  // Weights err relatively by the error of their score (see ExpectForward) twice, once through lse;
  // they sum to at most the number of rows over a column, times products below 2 * head_dim.
  const double score = (16 + 2) * 4 * 16 * 0.3;
  const double bound = kUnitRoundoff<float> * 3 * (score + 130) * 130 * 2 * 16;
  ExpectWithin(narrow.dq.data, wide.dq.data, bound);
  ExpectWithin(narrow.dk.data, wide.dk.data, bound);
  ExpectWithin(narrow.dv.data, wide.dv.data, bound);
}

TEST(AttentionTest, IsTheSameAgainAndOnAnyNumberOfThreads) {
  std::vector<std::vector<float>> first;
  for (int threads : {1, 2, 5, 2}) {
    Packed<float> p({130, 7, 64, 30}, 4, 2, 16, 1);
    OpRunner<float> run(threads);
    ASSERT_OK(run.ops().Attention(p.Args(), run.stream()));
    ASSERT_OK(run.ops().AttentionBackward(p.BackwardArgs(), run.stream()));
    const std::vector<std::vector<float>> now = {p.o.data, p.lse.data, p.dq.data, p.dk.data,
                                                 p.dv.data};
    if (first.empty()) first = now;
    EXPECT_EQ(now, first) << threads << " threads";
  }
}

}  // namespace
}  // namespace lorad
