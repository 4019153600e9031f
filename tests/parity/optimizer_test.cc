// AdamW on CUDA gives the CPU's bits, whatever form the moments have and wherever they lie; the sum
// of squares is within its roundings.
#include "engine/ops/cuda/optimizer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <iterator>
#include <vector>

#include "engine/quant/code_book.h"
#include "tests/parity/parity_fixture.h"

namespace lorad {
namespace {

// Numbers of very different size: zeros, some that are no normal numbers when squared or by
// themselves, ordinary ones, and large ones.
std::vector<float> Gradients(int64_t count, uint32_t seed, float largest) {
  std::vector<float> values = Random<float>({count}, seed).data;
  const float scales[] = {1, 1e-3f, 1e-8f, 1e-20f, 1e-38f, 0, 1e3f, largest};
  for (int64_t i = 0; i < count; ++i) values[i] *= scales[i / 300 % std::size(scales)];
  return values;
}
// Its square overflows. A block of 8-bit codes would turn an infinite scale into NaN, whose bits
// differ between processors.
constexpr float kLargest = 1e25f, kLargestInEightBits = 1e15f;

// `count` elements on both sides; on the device `shift` elements after an aligned address, with
// guards around them, in device memory or in pinned.
template <typename T>
struct Mirrored {
  static constexpr int64_t kGuard = 64;
  std::vector<T> host;
  DeviceBuffer buffer;
  int64_t shift = 0;
  Shape shape;

  T* device() const { return static_cast<T*>(buffer.data()) + kGuard + shift; }
  TensorView Cpu() { return {host.data(), DTypeOf<T>, shape}; }
  TensorView Cuda() const { return {device(), DTypeOf<T>, shape}; }
};

class OptimizerTest : public ParityTest {
 protected:
  template <typename T>
  Mirrored<T> Mirror(std::vector<T> values, int64_t shift, bool pinned = false) {
    const int64_t count = static_cast<int64_t>(values.size());
    std::vector<T> whole(Guarded<T>(count, shift), Guard<T>());
    std::copy(values.begin(), values.end(), whole.begin() + Mirrored<T>::kGuard + shift);
    const int64_t bytes = static_cast<int64_t>(whole.size() * sizeof(T));
    DeviceBuffer buffer = pinned ? *cuda().AllocatePinned(bytes) : Allocate(bytes);
    EXPECT_OK(cuda().Copy(buffer.data(), whole.data(), bytes, stream()));
    EXPECT_OK(stream().Synchronize());
    return {std::move(values), std::move(buffer), shift, {count}};
  }
  // The device's bytes are the CPU's, and the guards are whole.
  template <typename T>
  void ExpectSame(const Mirrored<T>& mirrored, const char* name) {
    const int64_t count = static_cast<int64_t>(mirrored.host.size());
    std::vector<T> whole(Guarded<T>(count, mirrored.shift), Guard<T>());
    std::copy(mirrored.host.begin(), mirrored.host.end(),
              whole.begin() + Mirrored<T>::kGuard + mirrored.shift);
    std::vector<T> actual(whole.size());
    Download(actual.data(), mirrored.buffer.data(),
             static_cast<int64_t>(actual.size() * sizeof(T)));
    for (size_t i = 0; i < whole.size(); ++i) {
      ASSERT_EQ(std::memcmp(&actual[i], &whole[i], sizeof(T)), 0)
          << name << " of " << count << ", element "
          << static_cast<int64_t>(i) - Mirrored<T>::kGuard - mirrored.shift << " is " << +actual[i]
          << ", the CPU's " << +whole[i];
    }
  }

  // Steps of the CPU and of CUDA on tensors of these sizes; after each, all bits are equal.
  void CheckFull(const std::vector<int64_t>& sizes, int64_t shift, bool pinned, int64_t steps);
  void CheckEightBit(const std::vector<int64_t>& sizes, int64_t shift, bool pinned, int64_t steps);

  double SumSquares(const std::vector<Mirrored<float>>& tensors) {
    std::vector<ConstTensorView> views;
    for (const Mirrored<float>& tensor : tensors) views.push_back(tensor.Cuda());
    auto out = Same<double>({1}, {-1.0});
    EXPECT_OK(cuda().ops().SumSquares({views, out.cuda()}, stream()));
    return Fetch(out)[0];
  }

 private:
  template <typename T>
  static int64_t Guarded(int64_t count, int64_t shift) {
    return count + shift + 2 * Mirrored<T>::kGuard;
  }
  template <typename T>
  static T Guard() {
    return static_cast<T>(113);
  }
};

AdamWArgs Settings(absl::Span<const AdamWTensor> tensors, int64_t step) {
  AdamWArgs args = {.tensors = tensors, .learning_rate = 0.01};
  args.beta1 = 0.9;
  args.beta2 = 0.95;
  args.weight_decay = 0.1;
  args.grad_scale = 0.37;
  args.step = step;
  return args;
}

void OptimizerTest::CheckFull(const std::vector<int64_t>& sizes, int64_t shift, bool pinned,
                              int64_t steps) {
  SCOPED_TRACE(testing::Message() << sizes.size() << " tensors, shift " << shift << ", pinned "
                                  << pinned);
  struct Parts {
    Mirrored<float> param, grad, m, v;
  };
  std::vector<Parts> parts;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const std::vector<float> zeros(sizes[i]);
    parts.push_back({Mirror(Random<float>({sizes[i]}, static_cast<uint32_t>(i)).data, shift),
                     Mirror(zeros, shift), Mirror(zeros, shift, pinned),
                     Mirror(zeros, shift, pinned)});
  }
  for (int64_t step = 1; step <= steps; ++step) {
    std::vector<AdamWTensor> cpu_tensors, cuda_tensors;
    for (size_t i = 0; i < sizes.size(); ++i) {
      Parts& p = parts[i];
      p.grad = Mirror(Gradients(sizes[i], static_cast<uint32_t>(1000 * step + i), kLargest), shift);
      cpu_tensors.push_back({p.param.Cpu(), p.grad.Cpu(), p.m.Cpu(), p.v.Cpu()});
      cuda_tensors.push_back({p.param.Cuda(), p.grad.Cuda(), p.m.Cuda(), p.v.Cuda()});
    }
    ASSERT_OK(cpu().ops().AdamW(Settings(cpu_tensors, step), cpu_stream()));
    ASSERT_OK(cuda().ops().AdamW(Settings(cuda_tensors, step), stream()));
    for (const Parts& p : parts) {
      ExpectSame(p.param, "param");
      ExpectSame(p.m, "m");
      ExpectSame(p.v, "v");
      ExpectSame(p.grad, "grad");
      if (HasFatalFailure()) return;
    }
  }
}

// No tensor, one element, a chunk of threads, more than one, sizes that are no multiple of four.
const std::vector<int64_t>& Sizes() {
  static const auto* const sizes = new std::vector<int64_t>{1, 0, 3, 256, 1024, 1025, 2600, 40001};
  return *sizes;
}
// More tensors than two launches take, a few without elements.
std::vector<int64_t> ManySizes() {
  std::vector<int64_t> sizes;
  for (int64_t i = 0; i < 2 * cuda::kTensorsPerLaunch + 3; ++i) sizes.push_back(i * 377 % 2400);
  return sizes;
}

TEST_F(OptimizerTest, AdamWHasTheBitsOfTheDefinition) {
  for (const int64_t shift : {0, 1}) CheckFull(Sizes(), shift, /*pinned=*/false, 4);
}

TEST_F(OptimizerTest, AdamWUpdatesMoreTensorsThanALaunchTakes) {
  CheckFull(ManySizes(), 0, /*pinned=*/false, 2);
}

TEST_F(OptimizerTest, AdamWUpdatesMomentsInHostMemory) {
  CheckFull(Sizes(), 0, /*pinned=*/true, 2);
}

TEST_F(OptimizerTest, AdamWOfNothingDoesNothing) {
  ASSERT_OK(cuda().ops().AdamW(Settings({}, 1), stream()));
  CheckFull({0, 0}, 0, /*pinned=*/false, 1);
}

void OptimizerTest::CheckEightBit(const std::vector<int64_t>& sizes, int64_t shift, bool pinned,
                                  int64_t steps) {
  SCOPED_TRACE(testing::Message() << sizes.size() << " tensors, shift " << shift << ", pinned "
                                  << pinned);
  struct Parts {
    Mirrored<float> param, grad;
    Mirrored<uint8_t> m, v;
    Mirrored<float> m_scales, v_scales;
  };
  std::vector<Parts> parts;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const std::vector<uint8_t> codes(sizes[i]);
    const std::vector<float> scales((sizes[i] + kMomentBlock - 1) / kMomentBlock);
    parts.push_back({Mirror(Random<float>({sizes[i]}, static_cast<uint32_t>(i)).data, shift),
                     Mirror(std::vector<float>(sizes[i]), shift), Mirror(codes, shift, pinned),
                     Mirror(codes, shift, pinned), Mirror(scales, shift, pinned),
                     Mirror(scales, shift, pinned)});
  }
  const auto values = [](const std::array<float, 256>& map) {
    return std::vector<float>(map.begin(), map.end());
  };
  auto m_code = Same<float>({256}, values(DynamicMap()));
  auto v_code = Same<float>({256}, values(UnsignedDynamicMap()));
  for (int64_t step = 1; step <= steps; ++step) {
    std::vector<AdamWTensor> cpu_tensors, cuda_tensors;
    for (size_t i = 0; i < sizes.size(); ++i) {
      Parts& p = parts[i];
      p.grad = Mirror(
          Gradients(sizes[i], static_cast<uint32_t>(1000 * step + i), kLargestInEightBits), shift);
      cpu_tensors.push_back(
          {p.param.Cpu(), p.grad.Cpu(), p.m.Cpu(), p.v.Cpu(), p.m_scales.Cpu(), p.v_scales.Cpu()});
      cuda_tensors.push_back({p.param.Cuda(), p.grad.Cuda(), p.m.Cuda(), p.v.Cuda(),
                              p.m_scales.Cuda(), p.v_scales.Cuda()});
    }
    AdamWArgs cpu_args = Settings(cpu_tensors, step), cuda_args = Settings(cuda_tensors, step);
    cpu_args.m_code = m_code.cpu(), cpu_args.v_code = v_code.cpu();
    cuda_args.m_code = m_code.cuda(), cuda_args.v_code = v_code.cuda();
    ASSERT_OK(cpu().ops().AdamW(cpu_args, cpu_stream()));
    ASSERT_OK(cuda().ops().AdamW(cuda_args, stream()));
    for (const Parts& p : parts) {
      ExpectSame(p.m_scales, "m_scales");
      ExpectSame(p.v_scales, "v_scales");
      ExpectSame(p.m, "m");
      ExpectSame(p.v, "v");
      ExpectSame(p.param, "param");
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(OptimizerTest, EightBitAdamWHasTheBitsOfTheDefinition) {
  for (const int64_t shift : {0, 1, 4}) CheckEightBit(Sizes(), shift, /*pinned=*/false, 4);
}

TEST_F(OptimizerTest, EightBitAdamWUpdatesMoreTensorsThanALaunchTakes) {
  CheckEightBit(ManySizes(), 0, /*pinned=*/false, 2);
}

TEST_F(OptimizerTest, EightBitAdamWUpdatesMomentsInHostMemory) {
  CheckEightBit(Sizes(), 0, /*pinned=*/true, 2);
}

// More blocks of codes than a launch has warps: each takes several.
TEST_F(OptimizerTest, EightBitAdamWOfALargeTensor) {
  CheckEightBit({4096 * 8 * kMomentBlock + 5000}, 0, /*pinned=*/false, 1);
}

// With beta1 = 0 the moment is the gradient: every midpoint, and what comes right after it, in the
// place that a search through a tree finds.
TEST_F(OptimizerTest, EveryMidpointGoesToTheLowerCode) {
  const std::array<float, 256>& map = DynamicMap();
  auto m_code = Same<float>({256}, std::vector<float>(map.begin(), map.end()));
  auto v_code = Same<float>(
      {256}, std::vector<float>(UnsignedDynamicMap().begin(), UnsignedDynamicMap().end()));
  for (const bool after : {false, true}) {
    std::vector<float> grad(256, 1.0f);  // the 1 in the last place makes the scale 1
    for (int i = 0; i < 255; ++i) {
      const float midpoint = (map[i] + map[i + 1]) * 0.5f;
      grad[i] = after ? std::nextafter(midpoint, 2.0f) : midpoint;
    }
    auto param = Same<float>({256}, std::vector<float>(256)), gradient = Same<float>({256}, grad);
    auto m = Same<uint8_t>({256}, std::vector<uint8_t>(256));
    auto v = Same<uint8_t>({256}, std::vector<uint8_t>(256));
    auto m_scales = Same<float>({1}, {0.0f}), v_scales = Same<float>({1}, {0.0f});
    const AdamWTensor tensor = {param.cuda(), gradient.cuda(), m.cuda(),
                                v.cuda(),     m_scales.cuda(), v_scales.cuda()};
    AdamWArgs args = {.tensors = absl::MakeConstSpan(&tensor, 1), .learning_rate = 0.01};
    args.beta1 = 0;
    args.m_code = m_code.cuda(), args.v_code = v_code.cuda();
    ASSERT_OK(cuda().ops().AdamW(args, stream()));
    ASSERT_EQ(Fetch(m_scales)[0], 1);
    const std::vector<uint8_t> codes = Fetch(m);
    for (int i = 0; i < 255; ++i) ASSERT_EQ(codes[i], after ? i + 1 : i);
  }
}

// Squares of fp32 are exact in fp64; a sum of n positive terms errs by n 2^-53 at most, in any
// order, here and on the CPU.
TEST_F(OptimizerTest, SumSquaresIsThatOfTheDefinition) {
  for (const int64_t shift : {0, 1}) {
    for (const bool many : {false, true}) {
      std::vector<Mirrored<float>> tensors;
      std::vector<ConstTensorView> views;
      double count = 0;
      for (const int64_t size : many ? ManySizes() : Sizes()) {
        tensors.push_back(Mirror(Random<float>({size}, static_cast<uint32_t>(size)).data, shift));
        count += static_cast<double>(size);
      }
      for (Mirrored<float>& tensor : tensors) views.push_back(tensor.Cpu());
      double expected = 0;
      ASSERT_OK(cpu().ops().SumSquares({views, {&expected, DType::kF64, {1}}}, cpu_stream()));
      ASSERT_GT(expected, 0);
      const double actual = SumSquares(tensors);
      EXPECT_NEAR(actual, expected, 2 * count * 0x1p-53 * expected);
      EXPECT_EQ(SumSquares(tensors), actual);
    }
  }
}

// More chunks than there are partial sums; whole numbers, so that the sum is exact.
TEST_F(OptimizerTest, SumSquaresOfALargeTensorMissesNothing) {
  std::vector<float> values(5'000'003);
  double expected = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(i % 1000);
    expected += static_cast<double>(values[i]) * values[i];
  }
  std::vector<Mirrored<float>> tensors;
  tensors.push_back(Mirror(values, 0));
  EXPECT_EQ(SumSquares(tensors), expected);
}

TEST_F(OptimizerTest, SumSquaresOfNothingIsZero) {
  EXPECT_EQ(SumSquares({}), 0);
  std::vector<Mirrored<float>> empty;
  empty.push_back(Mirror(std::vector<float>(), 0));
  EXPECT_EQ(SumSquares(empty), 0);
}

}  // namespace
}  // namespace lorad
