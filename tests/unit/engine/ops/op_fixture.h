// What the tests of ops share: tensors that own their values, a backend of each precision, weights
// in every format, and comparison with derived bounds.
#ifndef LORAD_TESTS_UNIT_ENGINE_OPS_OP_FIXTURE_H_
#define LORAD_TESTS_UNIT_ENGINE_OPS_OP_FIXTURE_H_

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <type_traits>
#include <vector>

#include "engine/core/float16.h"
#include "engine/device/backend.h"
#include "engine/ops/ops.h"
#include "engine/quant/quant.h"
#include "tests/support/status_matchers.h"

namespace lorad {

// A dense tensor in host memory. View() is valid while this lives and does not move.
template <typename T>
struct Tensor {
  Shape shape;
  std::vector<T> data;

  explicit Tensor(const Shape& s) : shape(s), data(s.num_elements()) {}
  Tensor(const Shape& s, std::vector<T> values) : shape(s), data(std::move(values)) {
    EXPECT_EQ(static_cast<int64_t>(data.size()), s.num_elements());
  }
  TensorView View() { return {data.data(), DTypeOf<T>, shape}; }
  ConstTensorView View() const { return {data.data(), DTypeOf<T>, shape}; }
  T* row(int64_t i) { return data.data() + i * (shape.num_elements() / shape[0]); }
  const T* row(int64_t i) const { return data.data() + i * (shape.num_elements() / shape[0]); }
};

// Numbers of both signs in (-scale, scale), the same for the same seed.
template <typename T>
Tensor<T> Random(const Shape& shape, uint32_t seed, double scale = 1) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<double> uniform(-scale, scale);
  Tensor<T> tensor(shape);
  for (T& value : tensor.data) value = static_cast<T>(uniform(generator));
  return tensor;
}

// A weight and what owns its parts.
struct TestWeight {
  QuantizedMatrix matrix;
  std::vector<BFloat16> dense;
  WeightView view;
};

// Random values in (-0.5, 0.5), stored as `spec` says. Does not move: the view points into it.
inline std::unique_ptr<TestWeight> MakeWeight(const QuantSpec& spec, int64_t out, int64_t in,
                                              uint32_t seed) {
  const Tensor<float> values = Random<float>({out, in}, seed, 0.5);
  auto weight = std::make_unique<TestWeight>();
  if (spec.format == QuantFormat::kNone) {
    for (float value : values.data) weight->dense.push_back(ToBFloat16(value));
    weight->view.out_features = out;
    weight->view.in_features = in;
    weight->view.dense = {weight->dense.data(), DType::kBF16, {out, in}};
  } else {
    weight->matrix = Quantize(spec, out, in, values.data.data());
    weight->view = weight->matrix.View();
  }
  return weight;
}

// The weight's value by the definition in engine/ops/weight.h, written as it stands there.
inline float WeightAt(const WeightView& w, int64_t i) {
  if (w.spec.format == QuantFormat::kNone) return ToFloat(w.dense.as<BFloat16>()[i]);
  const int64_t b = i / w.spec.block;
  float absmax;
  if (w.spec.double_quant) {
    volatile float product = w.nested_code.as<float>()[w.scales_u8.as<uint8_t>()[b]] *
                             w.nested_scales.as<float>()[b / kNestedBlock];
    absmax = product + w.nested_offset;
  } else {
    absmax = w.scales.as<float>()[b];
  }
  const uint8_t* codes = w.codes.as<uint8_t>();
  int code = codes[CodeBits(w.spec.format) == 8 ? i : i / 2];
  if (CodeBits(w.spec.format) == 4) code = i % 2 == 0 ? code >> 4 : code & 15;
  return ToFloat(ToBFloat16(w.code_book.as<float>()[code] * absmax));
}

// A CPU backend whose activations are T.
template <typename T>
class OpRunner {
 public:
  // `flops` is not owned; null: nobody counts.
  explicit OpRunner(int num_threads = 0, FlopCounter* flops = nullptr)
      : backend_(CreateCpuBackend({.double_precision = std::is_same_v<T, double>,
                                   .num_threads = num_threads,
                                   .flops = flops})),
        stream_(*backend_->CreateStream()) {}

  Ops& ops() { return backend_->ops(); }
  Stream& stream() { return *stream_; }

  // Adds a workspace of the size that the op asks for. Filled with bytes that make NaN, so that
  // nothing can count on zeros.
  absl::Status Linear(LinearArgs args) {
    args.workspace = Workspace(ops().LinearWorkspaceBytes(args));
    return ops().Linear(args, stream());
  }
  absl::Status LinearBackward(LinearBackwardArgs args) {
    args.workspace = Workspace(ops().LinearBackwardWorkspaceBytes(args));
    return ops().LinearBackward(args, stream());
  }
  absl::Status LinearCrossEntropy(LinearCrossEntropyArgs args) {
    args.workspace = Workspace(ops().LinearCrossEntropyWorkspaceBytes(args));
    return ops().LinearCrossEntropy(args, stream());
  }

 private:
  TensorView Workspace(int64_t bytes) {
    workspace_.assign(bytes, 0xff);
    return {workspace_.data(), DType::kU8, {bytes}};
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Stream> stream_;
  std::vector<uint8_t> workspace_;
};

// Half the distance between neighbouring numbers at 1.
template <typename T>
inline constexpr double kUnitRoundoff = std::numeric_limits<T>::epsilon() / 2;

// |actual[i] - expected[i]| <= bound[i]; at least one expected value is not zero.
template <typename T>
void ExpectWithin(const std::vector<T>& actual, const std::vector<double>& expected,
                  const std::vector<double>& bound) {
  ASSERT_EQ(actual.size(), expected.size());
  double largest = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    largest = std::max(largest, std::abs(expected[i]));
    ASSERT_LE(std::abs(static_cast<double>(actual[i]) - expected[i]), bound[i])
        << "element " << i << " is " << actual[i] << ", expected " << expected[i];
  }
  EXPECT_GT(largest, 0) << "nothing but zeros was compared";
}
template <typename T>
void ExpectWithin(const std::vector<T>& actual, const std::vector<double>& expected, double bound) {
  ExpectWithin(actual, expected, std::vector<double>(expected.size(), bound));
}

// The derivative of `loss` by each value of `parameter` (central differences, error of second
// order in the step) against `gradient`. Only in double: the step's rounding would drown float.
template <typename Loss>
void ExpectGradient(Tensor<double>& parameter, const std::vector<double>& gradient,
                    const Loss& loss) {
  constexpr double kStep = 1e-5;
  ASSERT_EQ(parameter.data.size(), gradient.size());
  double largest = 0;
  for (double value : gradient) largest = std::max(largest, std::abs(value));
  ASSERT_GT(largest, 0);
  for (size_t i = 0; i < gradient.size(); ++i) {
    const double kept = parameter.data[i];
    parameter.data[i] = kept + kStep;
    const double above = loss();
    parameter.data[i] = kept - kStep;
    const double below = loss();
    parameter.data[i] = kept;
    // Rounding of the loss over the step, about 1e-16 / 1e-5, and the third derivative times
    // step^2.
    ASSERT_NEAR((above - below) / (2 * kStep), gradient[i], 1e-7 * std::max(1.0, largest))
        << "element " << i;
  }
}

// sum of weights[i] * values[i]: a loss whose gradient by `values` is `weights`.
template <typename T>
double WeightedSum(const Tensor<T>& weights, const Tensor<T>& values) {
  double sum = 0;
  for (size_t i = 0; i < values.data.size(); ++i) sum += weights.data[i] * values.data[i];
  return sum;
}

}  // namespace lorad

#endif  // LORAD_TESTS_UNIT_ENGINE_OPS_OP_FIXTURE_H_
