// Embedding, Dequantize, RmsNorm, Rope, SwiGlu.
#include <algorithm>

#include "tests/unit/engine/ops/op_fixture.h"

namespace lorad {
namespace {

TEST(EmbeddingTest, CopiesRowsOfTheTable) {
  OpRunner<float> run;
  Tensor<BFloat16> table({3, 2});
  for (int i = 0; i < 6; ++i) table.data[i] = ToBFloat16(static_cast<float>(i) / 4);
  Tensor<int32_t> ids({4}, {2, 0, 2, 1});
  Tensor<float> out({4, 2});
  ASSERT_OK(run.ops().Embedding({ids.View(), table.View(), out.View()}, run.stream()));
  EXPECT_EQ(out.data, (std::vector<float>{1, 1.25, 0, 0.25, 1, 1.25, 0.5, 0.75}));
}

class DequantizeTest : public testing::TestWithParam<QuantSpec> {};

TEST_P(DequantizeTest, EveryDTypeEqualsTheDefinition) {
  // 7 rows of 96: blocks of 64 and more end within rows, and the last is ragged; odd in: a row may
  // begin in the low nibble.
  for (const auto& [out, in] : {std::pair{7, 96}, {5, 33}, {64, 256}, {2, 4100}}) {
    const auto weight = MakeWeight(GetParam(), out, in, 1);
    OpRunner<float> run;
    Tensor<float> f32({out, in});
    Tensor<double> f64({out, in});
    Tensor<BFloat16> bf16({out, in});
    ASSERT_OK(run.ops().Dequantize({weight->view, f32.View()}, run.stream()));
    ASSERT_OK(run.ops().Dequantize({weight->view, f64.View()}, run.stream()));
    ASSERT_OK(run.ops().Dequantize({weight->view, bf16.View()}, run.stream()));
    for (int64_t i = 0; i < out * in; ++i) {
      const float expected = WeightAt(weight->view, i);
      ASSERT_EQ(f32.data[i], expected) << out << " x " << in << " element " << i;
      ASSERT_EQ(f64.data[i], expected);
      ASSERT_EQ(bf16.data[i].bits, ToBFloat16(expected).bits);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Specs, DequantizeTest,
                         testing::Values(QuantSpec{QuantFormat::kNone, 64, false},
                                         QuantSpec{QuantFormat::kNf4, 64, true},
                                         QuantSpec{QuantFormat::kNf4, 64, false},
                                         QuantSpec{QuantFormat::kFp4, 32, true},
                                         QuantSpec{QuantFormat::kInt4, 128, true},
                                         QuantSpec{QuantFormat::kInt8, 32, false},
                                         QuantSpec{QuantFormat::kInt8, 4096, true}));

TEST(RmsNormTest, SmallCase) {
  OpRunner<float> run;
  Tensor<float> x({1, 2}, {3, 4}), gamma({2}, {1, 2}), y({1, 2}), inv_rms({1});
  ASSERT_OK(
      run.ops().RmsNorm({x.View(), gamma.View(), y.View(), inv_rms.View(), 0.5f}, run.stream()));
  const double expected = 1 / std::sqrt(12.5 + 0.5);
  EXPECT_FLOAT_EQ(inv_rms.data[0], static_cast<float>(expected));
  EXPECT_FLOAT_EQ(y.data[0], static_cast<float>(3 * expected));
  EXPECT_FLOAT_EQ(y.data[1], static_cast<float>(8 * expected));
}

TEST(RmsNormTest, EqualsDoubleReferenceInPlace) {
  // 250 is no multiple of any vector length; 70 rows are split over threads.
  const int64_t tokens = 70, hidden = 250;
  OpRunner<float> run(3);
  const Tensor<float> x = Random<float>({tokens, hidden}, 1, 3), gamma = Random<float>({hidden}, 2);
  Tensor<float> y = x, inv_rms({tokens});
  ASSERT_OK(
      run.ops().RmsNorm({y.View(), gamma.View(), y.View(), inv_rms.View(), 1e-5f}, run.stream()));
  std::vector<double> expected, bound;
  for (int64_t t = 0; t < tokens; ++t) {
    double squares = 0;
    for (int64_t i = 0; i < hidden; ++i) squares += double{x.row(t)[i]} * x.row(t)[i];
    const double inverse = 1 / std::sqrt(squares / hidden + double{1e-5f});
    for (int64_t i = 0; i < hidden; ++i) {
      expected.push_back(x.row(t)[i] * inverse * gamma.data[i]);
      // A sum of n positive terms errs by n roundoffs at most, its root by half; two products.
      bound.push_back(std::abs(expected.back()) * (hidden / 2 + 4) * kUnitRoundoff<float>);
    }
  }
  ExpectWithin(y.data, expected, bound);
}

TEST(RmsNormTest, BackwardIsTheDerivativeAndAccumulates) {
  OpRunner<double> run;
  Tensor<double> x = Random<double>({3, 10}, 1), y({3, 10}), inv_rms({3}), dx({3, 10});
  const Tensor<double> dy = Random<double>({3, 10}, 2);
  const Tensor<float> gamma = Random<float>({10}, 3);
  const auto forward = [&] {
    EXPECT_OK(
        run.ops().RmsNorm({x.View(), gamma.View(), y.View(), inv_rms.View(), 1e-2f}, run.stream()));
    return WeightedSum(dy, y);
  };
  forward();
  RmsNormBackwardArgs args = {dy.View(), x.View(), gamma.View(), inv_rms.View(), dx.View(), false};
  ASSERT_OK(run.ops().RmsNormBackward(args, run.stream()));
  const std::vector<double> gradient = dx.data;
  ExpectGradient(x, gradient, forward);

  forward();
  args.accumulate = true;
  ASSERT_OK(run.ops().RmsNormBackward(args, run.stream()));
  for (size_t i = 0; i < gradient.size(); ++i) EXPECT_DOUBLE_EQ(dx.data[i], 2 * gradient[i]);
}

TEST(RmsNormTest, BackwardInFloatEqualsDoubleInPlaceOfDy) {
  const int64_t tokens = 40, hidden = 250;
  const Tensor<float> x = Random<float>({tokens, hidden}, 1),
                      dy = Random<float>({tokens, hidden}, 2);
  const Tensor<float> gamma = Random<float>({hidden}, 3);
  Tensor<float> dx = dy, inv_rms({tokens}), y({tokens, hidden});
  OpRunner<float> run;
  ASSERT_OK(
      run.ops().RmsNorm({x.View(), gamma.View(), y.View(), inv_rms.View(), 1e-5f}, run.stream()));
  ASSERT_OK(run.ops().RmsNormBackward(
      {dx.View(), x.View(), gamma.View(), inv_rms.View(), dx.View(), false}, run.stream()));
  std::vector<double> expected, bound;
  for (int64_t t = 0; t < tokens; ++t) {
    double dot = 0, absolute = 0;
    const double scale = inv_rms.data[t];
    for (int64_t i = 0; i < hidden; ++i) {
      dot += double{dy.row(t)[i]} * gamma.data[i] * x.row(t)[i];
      absolute += std::abs(double{dy.row(t)[i]} * gamma.data[i] * x.row(t)[i]);
    }
    for (int64_t i = 0; i < hidden; ++i) {
      const double g = double{dy.row(t)[i]} * gamma.data[i];
      const double shift = x.row(t)[i] * scale * scale / hidden;
      expected.push_back(scale * (g - shift * dot));
      bound.push_back(kUnitRoundoff<float> * scale *
                      (4 * std::abs(g) + (hidden + 6) * std::abs(shift) * absolute));
    }
  }
  ExpectWithin(dx.data, expected, bound);
}

TEST(RopeTest, RotatesHalvesByPositionTimesFrequency) {
  OpRunner<float> run;
  Tensor<float> x({2, 1, 4}, {1, 2, 3, 4, 1, 0, 0, 1});
  const Tensor<int32_t> positions({2}, {0, 3});
  const Tensor<float> inv_freq({2}, {1.0f, 0.5f});
  ASSERT_OK(run.ops().Rope({x.View(), positions.View(), inv_freq.View(), false}, run.stream()));
  EXPECT_EQ(std::vector<float>(x.data.begin(), x.data.begin() + 4),
            (std::vector<float>{1, 2, 3, 4}));
  EXPECT_FLOAT_EQ(x.data[4], std::cos(3.0f));
  EXPECT_FLOAT_EQ(x.data[5], -std::sin(1.5f));
  EXPECT_FLOAT_EQ(x.data[6], std::sin(3.0f));
  EXPECT_FLOAT_EQ(x.data[7], std::cos(1.5f));
}

TEST(RopeTest, AngleIsRoundedToFloatEvenFarOutAndInDouble) {
  // 100003 is beyond the rows that are kept; the angle must be the fp32 product.
  for (int32_t position : {1, 4095, 8191, 8192, 100003}) {
    OpRunner<double> run;
    Tensor<double> x({1, 1, 2}, {1, 0});
    const Tensor<int32_t> positions({1}, {position});
    const Tensor<float> inv_freq({1}, {0.7317f});
    ASSERT_OK(run.ops().Rope({x.View(), positions.View(), inv_freq.View(), false}, run.stream()));
    const float angle = static_cast<float>(position) * 0.7317f;
    EXPECT_EQ(x.data[0], std::cos(double{angle})) << position;
    EXPECT_EQ(x.data[1], std::sin(double{angle})) << position;
  }
}

TEST(RopeTest, InverseTurnsBackAndFrequenciesMayChangeBetweenCalls) {
  OpRunner<float> run;
  const Tensor<float> original = Random<float>({50, 3, 20}, 1);
  Tensor<int32_t> positions({50});
  for (int i = 0; i < 50; ++i) positions.data[i] = (i * 37) % 500;
  for (uint32_t seed : {2, 3}) {
    Tensor<float> x = original;
    const Tensor<float> inv_freq = Random<float>({10}, seed);
    ASSERT_OK(run.ops().Rope({x.View(), positions.View(), inv_freq.View(), false}, run.stream()));
    const float angle = static_cast<float>(positions.data[7]) * inv_freq.data[4];
    const float* before = original.row(7) + 20;  // head 1
    // Products of numbers up to 1 and a sum: three roundings, and those of sine and cosine.
    EXPECT_NEAR(x.row(7)[20 + 4], before[4] * std::cos(angle) - before[14] * std::sin(angle), 4e-7);
    ASSERT_OK(run.ops().Rope({x.View(), positions.View(), inv_freq.View(), true}, run.stream()));
    for (size_t i = 0; i < x.data.size(); ++i) ASSERT_NEAR(x.data[i], original.data[i], 1e-6);
  }
}

double Silu(double x) { return x / (1 + std::exp(-x)); }

TEST(SwiGluTest, EqualsDoubleReferenceAtEveryMagnitude) {
  OpRunner<float> run(2);
  Tensor<float> gate = Random<float>({60, 333}, 1, 12), up = Random<float>({60, 333}, 2);
  gate.data[0] = 0, gate.data[1] = 1e4f, gate.data[2] = -1e4f, gate.data[3] = -87.5f;
  gate.data[4] = 88.5f, gate.data[5] = 1e-30f, gate.data[6] = -110;
  std::vector<double> expected, bound;
  for (size_t i = 0; i < gate.data.size(); ++i) {
    expected.push_back(Silu(gate.data[i]) * up.data[i]);
    // exp within 2 ulp, a sum, a quotient and two products. Below -87, where the sigmoid leaves the
    // normal range, absolutely.
    bound.push_back(std::abs(expected.back()) * 12 * kUnitRoundoff<float> + 1e-35);
  }
  ASSERT_OK(run.ops().SwiGlu({gate.View(), up.View(), gate.View()}, run.stream()));
  ExpectWithin(gate.data, expected, bound);
}

TEST(SwiGluTest, BackwardIsTheDerivativeInPlace) {
  OpRunner<double> run;
  Tensor<double> gate = Random<double>({2, 9}, 1, 4), up = Random<double>({2, 9}, 2), out({2, 9});
  const Tensor<double> dout = Random<double>({2, 9}, 3);
  const auto forward = [&] {
    EXPECT_OK(run.ops().SwiGlu({gate.View(), up.View(), out.View()}, run.stream()));
    return WeightedSum(dout, out);
  };
  Tensor<double> dgate = dout, dup = up;  // aliases of dout and up
  ASSERT_OK(run.ops().SwiGluBackward(
      {dgate.View(), gate.View(), dup.View(), dgate.View(), dup.View()}, run.stream()));
  ExpectGradient(gate, dgate.data, forward);
  ExpectGradient(up, dup.data, forward);
}

TEST(SwiGluTest, BackwardInFloatEqualsTheFormula) {
  OpRunner<float> run(2);
  const Tensor<float> gate = Random<float>({60, 333}, 1, 12), up = Random<float>({60, 333}, 2);
  const Tensor<float> dout = Random<float>({60, 333}, 3);
  Tensor<float> dgate({60, 333}), dup({60, 333});
  ASSERT_OK(run.ops().SwiGluBackward(
      {dout.View(), gate.View(), up.View(), dgate.View(), dup.View()}, run.stream()));
  std::vector<double> expected_gate, expected_up, bound_gate, bound_up;
  for (size_t i = 0; i < gate.data.size(); ++i) {
    const double g = gate.data[i], s = 1 / (1 + std::exp(-g)), d = dout.data[i];
    expected_gate.push_back(d * up.data[i] * s * (1 + g * (1 - s)));
    expected_up.push_back(d * g * s);
    // 1 - s loses what s lost; times g, up to 12 here, before the sum with 1.
    bound_gate.push_back(std::abs(d * up.data[i]) * s * (20 + 8 * std::abs(g)) *
                         kUnitRoundoff<float>);
    bound_up.push_back(std::abs(d * g * s) * 12 * kUnitRoundoff<float>);
  }
  ExpectWithin(dgate.data, expected_gate, bound_gate);
  ExpectWithin(dup.data, expected_up, bound_up);
}

}  // namespace
}  // namespace lorad
