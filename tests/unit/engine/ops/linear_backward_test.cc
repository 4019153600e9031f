#include <cstring>

#include "tests/unit/engine/ops/linear_fixture.h"

namespace lorad {
namespace {

constexpr QuantSpec kDense = {QuantFormat::kNone, 64, false};
constexpr QuantSpec kNf4 = {QuantFormat::kNf4, 64, true};

struct Case {
  const char* name;
  float dropout;
  std::vector<SegmentSpec> segments;
};

class LinearGradientTest : public testing::TestWithParam<Case> {};

// Two terms of unlike width share x; base rows lie before, between and after the segments.
TEST_P(LinearGradientTest, IsTheDerivativeByFiniteDifferences) {
  const int64_t tokens = 9, in = 12;
  const Case& c = GetParam();
  Layer<double> q(kNf4, tokens, 8, in, true, c.segments, c.dropout, 1);
  Layer<double> k(kDense, tokens, 5, in, false, c.segments, c.dropout, 2);
  Tensor<double> x = Random<double>({tokens, in}, 3), dx({tokens, in});
  const Tensor<double> dq = Random<double>({tokens, 8}, 4), dk = Random<double>({tokens, 5}, 5);
  OpRunner<double> run(2);
  const auto forward = [&] {
    LinearTerm terms[] = {q.Term(), k.Term()};
    EXPECT_OK(run.Linear({x.View(), absl::MakeSpan(terms), false, false, {}}));
    return WeightedSum(dq, q.y) + WeightedSum(dk, k.y);
  };
  forward();
  LinearBackwardTerm terms[] = {q.BackwardTerm(dq), k.BackwardTerm(dk)};
  ASSERT_OK(run.LinearBackward({x.View(), absl::MakeSpan(terms), dx.View(), false, {}}));
  ExpectGradient(x, dx.data, forward);
  for (Layer<double>* layer : {&q, &k}) {
    for (Adapter<double>& adapter : layer->adapters) {
      ExpectGradient(adapter.a, adapter.da.data, forward);
      ExpectGradient(adapter.b, adapter.db.data, forward);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cases, LinearGradientTest,
    testing::Values(Case{"base", 0, {}}, Case{"one", 0, {{0, 9, 3, 0.5f}}},
                    Case{"mixed_ranks", 0, {{1, 3, 1, 2.0f}, {3, 6, 4, 0.5f}, {7, 8, 2, 1.0f}}},
                    Case{"dropout", 0.4f, {{0, 9, 3, 0.5f}}},
                    Case{"mixed_ranks_dropout", 0.4f, {{1, 3, 1, 2.0f}, {4, 8, 4, 0.5f}}}),
    [](const testing::TestParamInfo<Case>& info) { return std::string(info.param.name); });

TEST(LinearBackwardTest, SmallCaseByHand) {
  // W = [[1, 2]], dy = [3], A = [[1, 0]], B = [[2]], scaling 0.5, x = [5, 7]: s = 0.5 * 3 * 2 = 3.
  const std::vector<BFloat16> dense = {ToBFloat16(1), ToBFloat16(2)};
  WeightView weight;
  weight.out_features = 1;
  weight.in_features = 2;
  weight.dense = {dense.data(), DType::kBF16, {1, 2}};
  Tensor<float> x({1, 2}, {5, 7}), dy({1, 1}, {3}), dx({1, 2}, {100, 100});
  Tensor<float> a({1, 2}, {1, 0}), b({1, 1}, {2}), xa({1, 1}, {5}), da({1, 2}, {10, 10}),
      db({1, 1}, {10});
  LoraSegment segment = {0, 1, a.View(), b.View(), 0.5f, xa.View(), da.View(), db.View()};
  LinearBackwardTerm term = {weight, absl::MakeSpan(&segment, 1), {}, dy.View()};
  OpRunner<float> run;
  ASSERT_OK(run.LinearBackward({x.View(), absl::MakeSpan(&term, 1), dx.View(), true, {}}));
  EXPECT_EQ(dx.data, (std::vector<float>{100 + 3 + 3, 100 + 6}));
  EXPECT_EQ(da.data, (std::vector<float>{10 + 15, 10 + 21}));
  EXPECT_EQ(db.data, (std::vector<float>{10 + 0.5f * 3 * 5}));
}

TEST(LinearBackwardTest, AdapterGradientsAccumulateAndDxIsOptional) {
  const int64_t tokens = 7, in = 32;
  Layer<double> layer(kNf4, tokens, 6, in, false, {{2, 7, 3, 0.5f}}, 0.25f, 1);
  const Tensor<double> x = Random<double>({tokens, in}, 3), dy = Random<double>({tokens, 6}, 4);
  OpRunner<double> run;
  LinearTerm forward = layer.Term();
  ASSERT_OK(run.Linear({x.View(), absl::MakeSpan(&forward, 1), false, false, {}}));
  Tensor<double> dx({tokens, in});
  LinearBackwardTerm term = layer.BackwardTerm(dy);
  ASSERT_OK(run.LinearBackward({x.View(), absl::MakeSpan(&term, 1), dx.View(), false, {}}));
  const std::vector<double> da = layer.adapters[0].da.data, db = layer.adapters[0].db.data;
  ASSERT_OK(run.LinearBackward({x.View(), absl::MakeSpan(&term, 1), {}, false, {}}));
  for (size_t i = 0; i < da.size(); ++i) {
    EXPECT_NEAR(layer.adapters[0].da.data[i], 2 * da[i], 1e-13);
  }
  for (size_t i = 0; i < db.size(); ++i) {
    EXPECT_NEAR(layer.adapters[0].db.data[i], 2 * db[i], 1e-13);
  }
}

// float against double at a size that takes several tiles of rows, outputs and inputs.
TEST(LinearBackwardTest, FloatAgreesWithDoubleOverManyTiles) {
  const int64_t tokens = 600, out = 300, in = 192;
  const std::vector<SegmentSpec> segments = {{10, 290, 8, 0.5f}, {300, 599, 16, 1.0f}};
  Layer<float> narrow(kNf4, tokens, out, in, true, segments, 0.1f, 1);
  Layer<double> wide(kNf4, tokens, out, in, true, segments, 0.1f, 1);
  const Tensor<float> x = Random<float>({tokens, in}, 3), dy = Random<float>({tokens, out}, 4);
  Tensor<double> x_wide({tokens, in}), dy_wide({tokens, out});
  std::copy(x.data.begin(), x.data.end(), x_wide.data.begin());
  std::copy(dy.data.begin(), dy.data.end(), dy_wide.data.begin());
  for (size_t i = 0; i < segments.size(); ++i) {
    const Adapter<float>& from = narrow.adapters[i];
    Adapter<double>& to = wide.adapters[i];
    std::copy(from.a.data.begin(), from.a.data.end(), to.a.data.begin());
    std::copy(from.b.data.begin(), from.b.data.end(), to.b.data.begin());
  }
  Tensor<float> dx({tokens, in});
  Tensor<double> dx_wide({tokens, in});
  const auto run = [&](auto& layer, const auto& input, const auto& gradient, auto& dinput) {
    OpRunner<std::decay_t<decltype(input.data[0])>> runner(3);
    LinearTerm forward = layer.Term();
    EXPECT_OK(runner.Linear({input.View(), absl::MakeSpan(&forward, 1), false, false, {}}));
    LinearBackwardTerm term = layer.BackwardTerm(gradient);
    EXPECT_OK(
        runner.LinearBackward({input.View(), absl::MakeSpan(&term, 1), dinput.View(), false, {}}));
  };
  run(narrow, x, dy, dx);
  run(wide, x_wide, dy_wide, dx_wide);
  // Values up to 1, weights up to 0.5, scaling up to 1: dx sums `out` products below 0.5 and
  // rank * out below 1 / 0.9; each gradient of A or B sums `tokens` products of such sums.
  const double dx_bound = kUnitRoundoff<float> * (out + 20) * out * (0.5 + 16 / 0.9);
  ExpectWithin(dx.data, dx_wide.data, dx_bound);
  for (size_t i = 0; i < segments.size(); ++i) {
    const double terms = static_cast<double>(segments[i].end - segments[i].begin);
    const double roundings = kUnitRoundoff<float> * (terms + out + in);
    ExpectWithin(narrow.adapters[i].da.data, wide.adapters[i].da.data,
                 roundings * terms * out / 0.9);
    ExpectWithin(narrow.adapters[i].db.data, wide.adapters[i].db.data,
                 roundings * terms * in / 0.9);
  }
}

TEST(LinearBackwardTest, IsTheSameAgainAndOnAnyNumberOfThreads) {
  const int64_t tokens = 300, out = 290, in = 192;
  const Tensor<float> x = Random<float>({tokens, in}, 3), dy = Random<float>({tokens, out}, 4);
  std::vector<std::vector<float>> first;
  for (int threads : {1, 2, 5, 2}) {
    Layer<float> layer(kNf4, tokens, out, in, true, {{5, 300, 8, 0.5f}}, 0.1f, 1);
    Tensor<float> dx({tokens, in});
    OpRunner<float> run(threads);
    LinearTerm forward = layer.Term();
    ASSERT_OK(run.Linear({x.View(), absl::MakeSpan(&forward, 1), false, false, {}}));
    LinearBackwardTerm term = layer.BackwardTerm(dy);
    ASSERT_OK(run.LinearBackward({x.View(), absl::MakeSpan(&term, 1), dx.View(), false, {}}));
    const std::vector<std::vector<float>> now = {dx.data, layer.adapters[0].da.data,
                                                 layer.adapters[0].db.data};
    if (first.empty()) first = now;
    EXPECT_EQ(now, first) << threads << " threads";
  }
}

}  // namespace
}  // namespace lorad
