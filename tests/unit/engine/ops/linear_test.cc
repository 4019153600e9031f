#include <cstring>

#include "tests/unit/engine/ops/linear_fixture.h"

namespace lorad {
namespace {

constexpr QuantSpec kDense = {QuantFormat::kNone, 64, false};
constexpr QuantSpec kNf4 = {QuantFormat::kNf4, 64, true};

TEST(LinearTest, SmallCaseByHand) {
  // W = [[1, 2], [0, -1]], x = [3, 1], bias [10, 20], A = [[1, 1]], B = [[1], [2]], scaling 0.5.
  const std::vector<BFloat16> dense = {ToBFloat16(1), ToBFloat16(2), ToBFloat16(0), ToBFloat16(-1)};
  WeightView weight;
  weight.out_features = weight.in_features = 2;
  weight.dense = {dense.data(), DType::kBF16, {2, 2}};
  Tensor<float> x({2, 2}, {3, 1, 3, 1}), bias({2}, {10, 20}), y({2, 2}, {100, 100, 100, 100});
  Tensor<float> a({1, 2}, {1, 1}), b({2, 1}, {1, 2}), xa({1, 1});
  LoraSegment segment = {1, 2, a.View(), b.View(), 0.5f, xa.View(), {}, {}};
  LinearTerm term = {weight, bias.View(), absl::MakeSpan(&segment, 1), {}, y.View()};
  for (bool row_invariant : {false, true}) {
    y.data.assign(4, 100);
    OpRunner<float> run;
    ASSERT_OK(
        run.Linear({x.View(), absl::MakeSpan(&term, 1), /*accumulate=*/true, row_invariant, {}}));
    // Row 0 is in no segment: 3 + 2 + 10 + 100; row 1 adds 0.5 * 4 * 1 and 0.5 * 4 * 2.
    EXPECT_EQ(y.data, (std::vector<float>{115, 119, 117, 123}));
    EXPECT_EQ(xa.data[0], 4);
  }
}

TEST(LinearTest, AResidualIsWhatYWouldHaveHeld) {
  for (const bool row_invariant : {false, true}) {
    Layer<float> layer(kNf4, 9, 33, 64, /*with_bias=*/true, {{1, 8, 4, 0.5f}}, /*dropout=*/0, 5);
    const Tensor<float> x = Random<float>({9, 64}, 1);
    Tensor<float> residual = Random<float>({9, 33}, 2);
    layer.y = residual;
    LinearTerm term = layer.Term();
    OpRunner<float> run;
    ASSERT_OK(run.Linear({x.View(), absl::MakeSpan(&term, 1), /*accumulate=*/true, row_invariant}));
    const std::vector<float> added = layer.y.data, before = residual.data;
    layer.y.data.assign(added.size(), NAN);
    const LinearArgs apart = {.x = x.View(),
                              .terms = absl::MakeSpan(&term, 1),
                              .row_invariant = row_invariant,
                              .residual = residual.View()};
    ASSERT_OK(run.Linear(apart));
    EXPECT_EQ(layer.y.data, added);
    EXPECT_EQ(residual.data, before);
    layer.y.data = before;  // y itself
    LinearArgs in_place = apart;
    in_place.residual = term.y;
    ASSERT_OK(run.Linear(in_place));
    EXPECT_EQ(layer.y.data, added);
  }
}

TEST(LinearTest, SwiGluIsOfWhatYHolds) {
  for (const bool row_invariant : {false, true}) {
    Layer<float> gate(kNf4, 9, 33, 64, /*with_bias=*/true, {{1, 8, 4, 0.5f}}, /*dropout=*/0, 5);
    Layer<float> up(kNf4, 9, 33, 64, /*with_bias=*/false, {}, /*dropout=*/0, 6);
    const Tensor<float> x = Random<float>({9, 64}, 1);
    Tensor<float> expected({9, 33}), out({9, 33});
    OpRunner<float> run;
    std::vector<LinearTerm> terms = {gate.Term(), up.Term()};
    LinearArgs args = {
        .x = x.View(), .terms = absl::MakeSpan(terms), .row_invariant = row_invariant};
    gate.y.data.assign(9 * 33, NAN), up.y.data.assign(9 * 33, NAN);
    ASSERT_OK(run.Linear(args));
    ASSERT_OK(run.ops().SwiGlu({gate.y.View(), up.y.View(), expected.View()}, run.stream()));
    args.swiglu = out.View();
    ASSERT_OK(run.Linear(args));
    EXPECT_EQ(out.data, expected.data);
    args.swiglu = terms[0].y;  // into gate itself
    ASSERT_OK(run.Linear(args));
    EXPECT_EQ(gate.y.data, expected.data);
  }
}

struct Case {
  const char* name;
  QuantSpec spec;
  int64_t tokens, out, in;
};

class LinearCaseTest : public testing::TestWithParam<Case> {
 protected:
  // Base rows, ranks of 1 to 20 (more and less than a vector), a segment of no rows, a gap.
  static std::vector<SegmentSpec> Segments(int64_t tokens) {
    if (tokens == 1) return {{0, 1, 5, 2.0f}};
    if (tokens < 8) return {{1, tokens, 3, 0.25f}};
    return {{1, 3, 1, 2.0f},
            {3, 3, 4, 1.0f},
            {3, tokens - 3, 20, 0.5f},
            {tokens - 2, tokens - 1, 16, 1.5f}};
  }

  template <typename T>
  void Run(bool row_invariant, bool accumulate, float dropout) {
    const Case& c = GetParam();
    Layer<T> layer(c.spec, c.tokens, c.out, c.in, /*with_bias=*/accumulate, Segments(c.tokens),
                   dropout, 5);
    const Tensor<T> x = Random<T>({c.tokens, c.in}, 1), before = layer.y;
    LinearTerm term = layer.Term();
    OpRunner<T> run(2);
    ASSERT_OK(run.Linear({x.View(), absl::MakeSpan(&term, 1), accumulate, row_invariant, {}}));
    ExpectLinear(layer, x, accumulate ? &before : nullptr);
  }
};

TEST_P(LinearCaseTest, MatrixPathEqualsDefinition) {
  Run<float>(/*row_invariant=*/false, /*accumulate=*/false, 0);
  Run<float>(/*row_invariant=*/false, /*accumulate=*/true, 0.25f);
}
TEST_P(LinearCaseTest, RowInvariantPathEqualsDefinition) {
  Run<float>(/*row_invariant=*/true, /*accumulate=*/false, 0);
  Run<float>(/*row_invariant=*/true, /*accumulate=*/true, 0.25f);
}
TEST_P(LinearCaseTest, DoublePrecisionEqualsDefinition) {
  Run<double>(/*row_invariant=*/false, /*accumulate=*/true, 0.25f);
  Run<double>(/*row_invariant=*/true, /*accumulate=*/true, 0.25f);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, LinearCaseTest,
    testing::Values(Case{"dense", kDense, 9, 24, 96}, Case{"dense_odd", kDense, 10, 7, 35},
                    Case{"nf4", kNf4, 13, 40, 128}, Case{"nf4_one_row", kNf4, 1, 41, 192},
                    Case{"nf4_single", {QuantFormat::kNf4, 64, false}, 4, 33, 64},
                    Case{"nf4_many_rows_and_outputs", kNf4, 300, 150, 64},
                    Case{"nf4_wide", kNf4, 3, 5, 4160},  // more than one tile of columns
                    Case{"nf4_blocks_across_rows", {QuantFormat::kNf4, 128, true}, 9, 11, 96},
                    Case{"nf4_odd_columns", kNf4, 9, 11, 33},
                    Case{"fp4_block32", {QuantFormat::kFp4, 32, true}, 17, 20, 96},
                    Case{"int4_block128", {QuantFormat::kInt4, 128, false}, 5, 20, 256},
                    Case{"int8", {QuantFormat::kInt8, 64, true}, 8, 30, 128},
                    Case{"int8_odd", {QuantFormat::kInt8, 256, true}, 8, 9, 31}),
    [](const testing::TestParamInfo<Case>& info) { return std::string(info.param.name); });

TEST(LinearTest, TermsShareX) {
  const int64_t tokens = 6, in = 64;
  Layer<float> q(kNf4, tokens, 48, in, true, {{0, 6, 4, 1.0f}}, 0, 1);
  Layer<float> k(kDense, tokens, 16, in, false, {}, 0, 2);
  const Tensor<float> x = Random<float>({tokens, in}, 3);
  for (bool row_invariant : {false, true}) {
    LinearTerm terms[] = {q.Term(), k.Term()};
    OpRunner<float> run;
    ASSERT_OK(run.Linear({x.View(), absl::MakeSpan(terms), false, row_invariant, {}}));
    ExpectLinear(q, x, nullptr);
    ExpectLinear(k, x, nullptr);
  }
}

TEST(LinearTest, RowsInNoSegmentEqualTheBaseBitForBit) {
  const int64_t tokens = 21, out = 70, in = 128;
  const Tensor<float> x = Random<float>({tokens, in}, 1);
  for (bool row_invariant : {false, true}) {
    Layer<float> base(kNf4, tokens, out, in, true, {}, 0, 5);
    Layer<float> adapted(kNf4, tokens, out, in, true, {{4, 9, 8, 1.0f}, {15, 21, 3, 2.0f}}, 0, 5);
    OpRunner<float> run;
    for (Layer<float>* layer : {&base, &adapted}) {
      LinearTerm term = layer->Term();
      ASSERT_OK(run.Linear({x.View(), absl::MakeSpan(&term, 1), false, row_invariant, {}}));
    }
    for (int64_t t = 0; t < tokens; ++t) {
      const bool same = std::memcmp(base.y.row(t), adapted.y.row(t), out * sizeof(float)) == 0;
      EXPECT_EQ(same, t < 4 || (t >= 9 && t < 15)) << "row " << t;
    }
  }
}

// A row alone, in batches of every size, at every place, and with other threads: the same bits.
TEST(LinearTest, RowInvariantPathDoesNotSeeTheBatch) {
  for (const QuantSpec& spec : {kDense, kNf4, QuantSpec{QuantFormat::kInt8, 64, true},
                                QuantSpec{QuantFormat::kNf4, 128, true}}) {
    const int64_t out = 37, in = 192, rows = 17;
    const Tensor<float> x = Random<float>({rows, in}, 1);
    const auto run = [&](int64_t begin, int64_t end, int threads) {
      Tensor<float> part({end - begin, in});
      std::copy(x.row(begin), x.row(begin) + (end - begin) * in, part.data.begin());
      Layer<float> layer(spec, end - begin, out, in, true, {{0, end - begin, 6, 0.5f}}, 0, 5);
      LinearTerm term = layer.Term();
      OpRunner<float> runner(threads);
      EXPECT_OK(runner.Linear({part.View(), absl::MakeSpan(&term, 1), false, true, {}}));
      return layer.y;
    };
    const Tensor<float> all = run(0, rows, 1);
    for (int64_t size : {1, 2, 3, 4, 5, 8, 9, 16, 17}) {
      for (int64_t begin = 0; begin + size <= rows; begin += 3) {
        const Tensor<float> part = run(begin, begin + size, begin % 2 == 0 ? 1 : 3);
        for (int64_t t = 0; t < size; ++t) {
          ASSERT_EQ(std::memcmp(part.row(t), all.row(begin + t), out * sizeof(float)), 0)
              << "row " << begin + t << " in a batch of " << size;
        }
      }
    }
  }
}

TEST(LinearTest, MatrixPathIsTheSameAgainAndOnAnyNumberOfThreads) {
  const int64_t tokens = 300, out = 200, in = 128;
  const Tensor<float> x = Random<float>({tokens, in}, 1);
  std::vector<float> first;
  for (int threads : {1, 2, 3, 7, 2}) {
    Layer<float> layer(kNf4, tokens, out, in, true, {{3, 290, 8, 1.0f}}, 0.1f, 5);
    LinearTerm term = layer.Term();
    OpRunner<float> run(threads);
    ASSERT_OK(run.Linear({x.View(), absl::MakeSpan(&term, 1), false, false, {}}));
    if (first.empty()) first = layer.y.data;
    EXPECT_EQ(std::memcmp(first.data(), layer.y.data.data(), first.size() * sizeof(float)), 0)
        << threads << " threads";
  }
}

TEST(LinearTest, DropoutKeepsTheGivenShareAndDependsOnStepModuleAndToken) {
  // The share shows in xa of an A of ones: in * keep / (1 - p) on average in.
  const int64_t tokens = 64, in = 1000;
  Layer<float> layer(kDense, tokens, 3, in, false, {{0, tokens, 1, 1.0f}}, 0.3f, 5);
  layer.adapters[0].a.data.assign(in, 1.0f);
  const Tensor<float> x({tokens, in}, std::vector<float>(tokens * in, 1.0f));
  OpRunner<float> run;
  const auto xa = [&] {
    LinearTerm term = layer.Term();
    EXPECT_OK(run.Linear({x.View(), absl::MakeSpan(&term, 1), false, false, {}}));
    return layer.adapters[0].xa.data;
  };
  const std::vector<float> first = xa();
  double kept = 0;
  for (float value : first) kept += value * 0.7 / in / tokens;
  EXPECT_NEAR(kept, 0.7, 6 * std::sqrt(0.3 * 0.7 / (tokens * in)));  // six standard deviations
  EXPECT_EQ(xa(), first);
  layer.dropout.step += 1;
  EXPECT_NE(xa(), first);
  layer.dropout.step -= 1;
  layer.dropout.module += 1;
  EXPECT_NE(xa(), first);
  layer.dropout.module -= 1;
  std::swap(layer.token_keys.data[0], layer.token_keys.data[63]);
  const std::vector<float> swapped = xa();
  EXPECT_EQ(swapped[0], first[63]);
  EXPECT_EQ(swapped[63], first[0]);
  EXPECT_EQ(swapped[30], first[30]);
}

}  // namespace
}  // namespace lorad
