#include <algorithm>
#include <array>
#include <cmath>

#include "engine/quant/code_book.h"
#include "tests/unit/engine/ops/op_fixture.h"

namespace lorad {
namespace {

// PyTorch's torch.optim.AdamW, single tensor, as its documentation states it.
struct Reference {
  double param, m = 0, v = 0;
  void Step(double grad, const AdamWArgs& a) {
    const double g = grad * a.grad_scale;
    param *= 1 - a.learning_rate * a.weight_decay;
    m = a.beta1 * m + (1 - a.beta1) * g;
    v = a.beta2 * v + (1 - a.beta2) * g * g;
    const double m_hat = m / (1 - std::pow(a.beta1, static_cast<double>(a.step)));
    const double v_hat = v / (1 - std::pow(a.beta2, static_cast<double>(a.step)));
    param -= a.learning_rate * m_hat / (std::sqrt(v_hat) + a.eps);
  }
};

template <typename T>
void ExpectSteps(double tolerance) {
  const int64_t count = 10001;  // more than one thread's grain, no multiple of a vector
  Tensor<T> param = Random<T>({count}, 1), m({count}), v({count});
  std::vector<Reference> expected;
  for (T value : param.data) expected.push_back({value});
  OpRunner<T> run(3);
  for (int64_t step = 1; step <= 5; ++step) {
    const Tensor<T> grad = Random<T>({count}, static_cast<uint32_t>(step));
    const AdamWTensor tensor = {param.View(), grad.View(), m.View(), v.View()};
    AdamWArgs args = {.tensors = absl::MakeConstSpan(&tensor, 1), .learning_rate = 0.01};
    args.weight_decay = 0.1;
    args.grad_scale = 0.5;
    args.step = step;
    ASSERT_OK(run.ops().AdamW(args, run.stream()));
    for (int64_t i = 0; i < count; ++i) expected[i].Step(grad.data[i], args);
  }
  for (int64_t i = 0; i < count; ++i) {
    ASSERT_NEAR(param.data[i], expected[i].param, tolerance) << i;
    ASSERT_NEAR(m.data[i], expected[i].m, tolerance);
    ASSERT_NEAR(v.data[i], expected[i].v, tolerance);
  }
}

TEST(AdamWTest, FiveStepsEqualTheReference) {
  // Parameters below 1 change by 0.01 a step; each step rounds five times.
  ExpectSteps<float>(5 * 5 * kUnitRoundoff<float>);
  ExpectSteps<double>(5 * 5 * kUnitRoundoff<double>);
}

TEST(AdamWTest, FirstStepMovesByTheLearningRateAgainstTheSign) {
  Tensor<double> param({3}, {1, 1, 1}), m({3}), v({3});
  const Tensor<double> grad({3}, {1e-3, -50, 0});
  const AdamWTensor tensor = {param.View(), grad.View(), m.View(), v.View()};
  OpRunner<double> run;
  ASSERT_OK(run.ops().AdamW({.tensors = absl::MakeConstSpan(&tensor, 1), .learning_rate = 0.125},
                            run.stream()));
  EXPECT_NEAR(param.data[0], 0.875, 1e-5);
  EXPECT_NEAR(param.data[1], 1.125, 1e-9);
  EXPECT_EQ(param.data[2], 1);
}

// A product or sum that is rounded to float before anything else is done with it.
float Rounded(float value) {
  volatile float rounded = value;
  return rounded;
}

// Moments in 8 bits as the contract of AdamWArgs states them, one block and element after another.
struct EightBitReference {
  const std::array<float, 256>& table;
  std::vector<uint8_t> codes;
  std::vector<float> scales;

  EightBitReference(const std::array<float, 256>& values, int64_t elements)
      : table(values), codes(elements), scales((elements + kMomentBlock - 1) / kMomentBlock) {}

  float Decode(int64_t i) const { return Rounded(table[codes[i]] * scales[i / kMomentBlock]); }
  void Encode(const std::vector<float>& moments) {
    std::fill(scales.begin(), scales.end(), 0.0f);
    for (size_t i = 0; i < moments.size(); ++i) {
      float& scale = scales[i / kMomentBlock];
      scale = std::max(scale, std::abs(moments[i]));
    }
    for (size_t i = 0; i < moments.size(); ++i) {
      const float scale = scales[i / kMomentBlock];
      const float x = scale == 0 ? 0.0f : Rounded(moments[i] / scale);
      int below = 0;
      for (int k = 0; k < 255; ++k) below += (table[k] + table[k + 1]) * 0.5f < x;
      codes[i] = static_cast<uint8_t>(below);
    }
  }
};

// A parameter tensor with 8-bit moments: as the op sees it, and as the reference.
struct EightBitTensor {
  Tensor<float> param, grad;
  Tensor<uint8_t> m, v;
  Tensor<float> m_scales, v_scales;
  std::vector<float> expected;
  EightBitReference expected_m{DynamicMap(), param.shape[0]};
  EightBitReference expected_v{UnsignedDynamicMap(), param.shape[0]};

  EightBitTensor(int64_t count, uint32_t seed)
      : param(Random<float>({count}, seed)),
        grad({count}),
        m({count}),
        v({count}),
        m_scales({(count + kMomentBlock - 1) / kMomentBlock}),
        v_scales(m_scales.shape),
        expected(param.data) {}

  AdamWTensor View() {
    return {param.View(), grad.View(), m.View(), v.View(), m_scales.View(), v_scales.View()};
  }
  // In place: views stay valid.
  void SetRandomGrad(uint32_t seed, double largest = 1) {
    const Tensor<float> random = Random<float>(grad.shape, seed, largest);
    std::copy(random.data.begin(), random.data.end(), grad.data.begin());
  }
  void StepReference(const AdamWArgs& a) {
    const double step = static_cast<double>(a.step);
    const float beta1 = static_cast<float>(a.beta1), beta2 = static_cast<float>(a.beta2);
    const float rest1 = static_cast<float>(1 - a.beta1), rest2 = static_cast<float>(1 - a.beta2);
    const float rate = static_cast<float>(a.learning_rate / (1 - std::pow(a.beta1, step)));
    const float root = static_cast<float>(std::sqrt(1 - std::pow(a.beta2, step)));
    const float decay = static_cast<float>(1 - a.learning_rate * a.weight_decay);
    std::vector<float> new_m, new_v;
    for (size_t i = 0; i < expected.size(); ++i) {
      const float g = Rounded(grad.data[i] * static_cast<float>(a.grad_scale));
      const float g2 = Rounded(Rounded(rest2 * g) * g);
      new_m.push_back(Rounded(Rounded(beta1 * expected_m.Decode(i)) + Rounded(rest1 * g)));
      new_v.push_back(Rounded(Rounded(beta2 * expected_v.Decode(i)) + g2));
      const float divisor =
          Rounded(Rounded(std::sqrt(new_v[i]) / root) + static_cast<float>(a.eps));
      const float change = Rounded(Rounded(rate * new_m[i]) / divisor);
      expected[i] = Rounded(Rounded(expected[i] * decay) - change);
    }
    expected_m.Encode(new_m);
    expected_v.Encode(new_v);
  }
};

AdamWArgs EightBitArgs(absl::Span<const AdamWTensor> tensors) {
  const Shape codes = {256};
  return {.tensors = tensors,
          .learning_rate = 0.01,
          .m_code = {DynamicMap().data(), DType::kF32, codes},
          .v_code = {UnsignedDynamicMap().data(), DType::kF32, codes}};
}

TEST(EightBitAdamWTest, EqualsTheContractBitForBit) {
  // More blocks than one thread's grain with a short one at the end, and fewer than one block.
  EightBitTensor large(10001, 1), small(200, 2);
  const AdamWTensor tensors[] = {large.View(), small.View()};
  OpRunner<float> run(3);
  for (int64_t step = 1; step <= 5; ++step) {
    large.SetRandomGrad(static_cast<uint32_t>(10 + step));
    small.SetRandomGrad(static_cast<uint32_t>(20 + step), 1e-4);
    // A block without gradients, and one whose scale an outlier rules.
    std::fill_n(large.grad.data.begin() + 512, 256, 0.0f);
    large.grad.data[1000] = 1e4f;
    AdamWArgs args = EightBitArgs(tensors);
    args.weight_decay = 0.1;
    args.grad_scale = 0.5;
    args.step = step;
    ASSERT_OK(run.ops().AdamW(args, run.stream()));
    for (EightBitTensor* tensor : {&large, &small}) {
      tensor->StepReference(args);
      ASSERT_EQ(tensor->param.data, tensor->expected) << step;
      ASSERT_EQ(tensor->m.data, tensor->expected_m.codes) << step;
      ASSERT_EQ(tensor->m_scales.data, tensor->expected_m.scales) << step;
      ASSERT_EQ(tensor->v.data, tensor->expected_v.codes) << step;
      ASSERT_EQ(tensor->v_scales.data, tensor->expected_v.scales) << step;
    }
  }
  EXPECT_EQ(large.m_scales.data[2], 0);
  EXPECT_GT(large.m_scales.data[3], 100);
}

TEST(EightBitAdamWTest, TheFirstStepIsThatOfFullMoments) {
  EightBitTensor eight(1000, 1);
  eight.SetRandomGrad(2);
  Tensor<float> param = eight.param, m({1000}), v({1000});
  const AdamWTensor eight_view = eight.View();
  const AdamWTensor full_view = {param.View(), eight.grad.View(), m.View(), v.View()};
  OpRunner<float> run;
  ASSERT_OK(run.ops().AdamW(EightBitArgs(absl::MakeConstSpan(&eight_view, 1)), run.stream()));
  ASSERT_OK(run.ops().AdamW({.tensors = absl::MakeConstSpan(&full_view, 1), .learning_rate = 0.01},
                            run.stream()));
  EXPECT_EQ(eight.param.data, param.data);
}

TEST(EightBitAdamWTest, TakesTheNearestEntryAndAtAMidpointTheLower) {
  // One step with beta1 = 0, whose m is the gradient itself; the 1 in its last place makes the
  // scale 1. First every midpoint, then what comes right after it.
  EightBitTensor tensor(256, 1);
  const std::array<float, 256>& map = DynamicMap();
  const AdamWTensor view = tensor.View();
  AdamWArgs args = EightBitArgs(absl::MakeConstSpan(&view, 1));
  args.beta1 = 0;
  OpRunner<float> run;
  for (const bool after : {false, true}) {
    for (int i = 0; i < 255; ++i) {
      const float midpoint = (map[i] + map[i + 1]) * 0.5f;
      tensor.grad.data[i] = after ? std::nextafter(midpoint, 2.0f) : midpoint;
    }
    tensor.grad.data[255] = 1;
    ASSERT_OK(run.ops().AdamW(args, run.stream()));
    ASSERT_EQ(tensor.m_scales.data[0], 1);
    for (int i = 0; i < 255; ++i) ASSERT_EQ(tensor.m.data[i], after ? i + 1 : i) << i;
  }
  tensor.SetRandomGrad(3);
  ASSERT_OK(run.ops().AdamW(args, run.stream()));
  for (int64_t i = 0; i < 256; ++i) {
    const double value = double{tensor.grad.data[i]} / tensor.m_scales.data[0];
    double nearest = 2;
    for (const float entry : map) nearest = std::min(nearest, std::abs(entry - value));
    // The quotient and the midpoints, none above 1, are rounded to fp32.
    EXPECT_LE(std::abs(map[tensor.m.data[i]] - value), nearest + 2 * kUnitRoundoff<float>) << i;
  }
}

TEST(SumSquaresTest, AddsAllTensorsInDouble) {
  OpRunner<float> run;
  Tensor<float> a({3}, {1, 2, -3}), b({2, 2}, {4, 0, 0, 5e10f});
  Tensor<double> out({1}, {77});
  const ConstTensorView tensors[] = {a.View(), b.View()};
  ASSERT_OK(run.ops().SumSquares({absl::MakeConstSpan(tensors), out.View()}, run.stream()));
  EXPECT_EQ(out.data[0], 1 + 4 + 9 + 16 + double{5e10f} * double{5e10f});
  ASSERT_OK(run.ops().SumSquares({{}, out.View()}, run.stream()));
  EXPECT_EQ(out.data[0], 0);
}

TEST(SumSquaresTest, DoesNotDependOnThreads) {
  const Tensor<float> a = Random<float>({100003}, 1);
  const ConstTensorView view = a.View();
  double expected = 0;
  for (int threads : {1, 2, 5}) {
    OpRunner<float> run(threads);
    Tensor<double> out({1});
    ASSERT_OK(run.ops().SumSquares({absl::MakeConstSpan(&view, 1), out.View()}, run.stream()));
    if (threads == 1) expected = out.data[0];
    EXPECT_EQ(out.data[0], expected);
  }
  EXPECT_NEAR(expected, 100003 / 3.0, 1000);  // the mean square of uniform numbers in (-1, 1)
}

}  // namespace
}  // namespace lorad
