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
