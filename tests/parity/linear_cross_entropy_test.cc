// Output head with loss: CUDA against the CPU.
//
// hidden, the head and the labels are the same numbers on both sides. CUDA rounds logits, their
// gradient and dhidden to bf16 (u = kBFloat16Roundoff relatively, at most); the rest is fp32.
//   loss = log(sum(exp(l))) - l[label]: errors of l of at most u max|l| move each term by that.
//   dhidden[i] = sum_v g_v W_vi with g = grad_scale (p - onehot): an error e_v of l_v, at most
//   u |l_v|, moves it by grad_scale p_v e_v (W_vi - sum_w p_w W_wi); rounding g_v by u |g_v W_vi|.
// Errors of many logits add up as linear_bounds.h says: kSpread times the root of the squares.
#include "engine/ops/cuda/linear_cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "engine/device/cuda/cuda_stream.h"
#include "tests/parity/linear_bounds.h"

namespace lorad {
namespace {

constexpr QuantSpec kNf4 = {QuantFormat::kNf4, 64, true};
constexpr QuantSpec kInt8 = {QuantFormat::kInt8, 64, false};
constexpr QuantSpec kDense = {QuantFormat::kNone, 64, false};

struct Spec {
  const char* name;
  QuantSpec quant;
  int64_t tokens, width, vocab;
  bool ignore_some = true;
  bool gradient = true;
  bool in_place = false;  // dhidden is hidden
  int64_t spare = 0;      // columns behind hidden and dhidden
  cuda::LinearLimits limits = {};
  int64_t vocab_parts = 1;  // that dhidden is added up from
};
std::ostream& operator<<(std::ostream& out, const Spec& spec) { return out << spec.name; }

constexpr float kGradScale = 0.25f;

class LinearCrossEntropyTest : public ParityTest, public testing::WithParamInterface<Spec> {
 protected:
  struct Problem {
    Weight head;
    Slices hidden, dhidden;
    Both<int32_t> labels;
    Both<float> loss;

    Slices& gradient(const Spec& spec) { return spec.in_place ? hidden : dhidden; }
  };
  Problem Make(const Spec& spec) {
    Problem p;
    p.head = MakeParityWeight(spec.quant, spec.vocab, spec.width, 1);
    const std::vector<Shape> shapes = {{spec.tokens, spec.width}};
    p.hidden = RandomSlices(shapes, spec.spare, 2);
    p.dhidden = UnwrittenSlices(shapes, spec.spare);
    std::vector<int32_t> labels;
    for (int64_t t = 0; t < spec.tokens; ++t) {
      const bool ignored = spec.ignore_some && t % 3 == 1;
      labels.push_back(ignored ? kIgnoreLabel : static_cast<int32_t>((t * 31 + 5) % spec.vocab));
    }
    p.labels = Same<int32_t>({spec.tokens}, labels);
    p.loss = Same<float>({spec.tokens}, std::vector<float>(spec.tokens, std::nanf("")));
    return p;
  }
  LinearCrossEntropyArgs Args(const Spec& spec, Problem& p, bool on_cuda) {
    LinearCrossEntropyArgs args;
    args.hidden = on_cuda ? p.hidden.cuda(0) : p.hidden.cpu(0);
    args.head = on_cuda ? p.head.cuda() : p.head.cpu();
    args.labels = on_cuda ? p.labels.cuda() : p.labels.cpu();
    args.loss = on_cuda ? p.loss.cuda() : p.loss.cpu();
    Slices& gradient = p.gradient(spec);
    if (spec.gradient) args.dhidden = on_cuda ? gradient.cuda(0) : gradient.cpu(0);
    args.grad_scale = kGradScale;
    return args;
  }

  void RunCuda(const Spec& spec, Problem& p) {
    LinearCrossEntropyArgs args = Args(spec, p, true);
    const int64_t bytes = cuda::LinearCrossEntropyWorkspaceBytes(args, spec.limits);
    constexpr int64_t kGuard = 4096;
    const DeviceBuffer scratch =
        Upload(std::vector<uint8_t>(bytes + kGuard, 0xff).data(), bytes + kGuard);
    args.workspace = {scratch.data(), DType::kU8, {bytes}};
    if (spec.limits.weight_bytes == cuda::LinearLimits{}.weight_bytes) {
      ASSERT_EQ(cuda().ops().LinearCrossEntropyWorkspaceBytes(args), bytes);
      ASSERT_OK(cuda().ops().LinearCrossEntropy(args, stream()));
    } else {
      const std::unique_ptr<cuda::Matmul> matmul = *cuda::Matmul::Create();
      const DeviceBuffer lt = Allocate(cuda::kMatmulWorkspaceBytes);
      ASSERT_OK(cuda::LinearCrossEntropy(
          *matmul, args, {cuda::Handle(stream()), lt.data(), cuda::kMatmulWorkspaceBytes},
          spec.limits));
      ASSERT_OK(stream().Synchronize());
    }
    std::vector<uint8_t> tail(kGuard);
    Download(tail.data(), static_cast<uint8_t*>(scratch.data()) + bytes, kGuard);
    EXPECT_EQ(tail, std::vector<uint8_t>(kGuard, 0xff)) << "written past the workspace";
  }

  struct Bounds {
    std::vector<double> loss, dhidden;
  };
  static Bounds BoundErrors(const Spec& spec, const Problem& p) {
    constexpr double u = kBFloat16Roundoff;
    const std::vector<double> w = DenseValues(p.head.cpu());
    const int64_t width = spec.width, vocab = spec.vocab;
    Bounds bounds;
    for (int64_t t = 0; t < spec.tokens; ++t) {
      const int32_t label = p.labels.host[t];
      if (label == kIgnoreLabel) {
        bounds.loss.push_back(0);
        bounds.dhidden.insert(bounds.dhidden.end(), width, 0);
        continue;
      }
      const float* h = p.hidden.host[0].data() + t * width;
      std::vector<double> logits(vocab), mean(width);
      double largest = 0, absolute = 0, sum = 0;
      for (int64_t v = 0; v < vocab; ++v) {
        double products = 0;
        for (int64_t i = 0; i < width; ++i) {
          logits[v] += h[i] * w[v * width + i];
          products += std::abs(h[i] * w[v * width + i]);
        }
        largest = std::max(largest, std::abs(logits[v]));
        absolute = std::max(absolute, products);
        sum += std::exp(logits[v]);
      }
      // fp32: of the logits; of the sum of vocab exponentials, and of subtracting the maximum.
      const double fp32 = SumRoundoff(width) * absolute +
                          kFloatRoundoff * (static_cast<double>(vocab) + 8 * largest);
      bounds.loss.push_back(1.02 * (2 * u * largest + 2 * fp32));
      for (int64_t v = 0; v < vocab; ++v) {
        const double probability = std::exp(logits[v]) / sum;
        for (int64_t i = 0; i < width; ++i) mean[i] += probability * w[v * width + i];
      }
      for (int64_t i = 0; i < width; ++i) {
        double value = 0, square = 0, size = 0;
        for (int64_t v = 0; v < vocab; ++v) {
          const double probability = std::exp(logits[v]) / sum, weight = w[v * width + i];
          const double g = kGradScale * (probability - (v == label ? 1 : 0));
          const double moved = kGradScale * probability * logits[v] * (weight - mean[i]);
          value += g * weight, size += std::abs(g * weight);
          square += moved * moved + g * weight * g * weight;
        }
        // Parts of the vocabulary are rounded one by one; their sums stay below `size`.
        const double parts = static_cast<double>(spec.vocab_parts - 1);
        bounds.dhidden.push_back(1.02 *
                                 (kSpread * u * std::sqrt(square) + u * std::abs(value) +
                                  u * parts * size + (SumRoundoff(vocab) + 4 * fp32) * size));
      }
    }
    return bounds;
  }
  static std::vector<double> Wide(const std::vector<float>& values) {
    return {values.begin(), values.end()};
  }
};

TEST_P(LinearCrossEntropyTest, EqualsTheCpuAndItself) {
  const Spec& spec = GetParam();
  Problem p = Make(spec);
  RunCuda(spec, p);
  const Bounds bounds = BoundErrors(spec, p);
  LinearCrossEntropyArgs args = Args(spec, p, false);
  args.workspace = CpuWorkspace(cpu().ops().LinearCrossEntropyWorkspaceBytes(args));
  const std::vector<float> hidden = p.hidden.host[0];
  ASSERT_OK(cpu().ops().LinearCrossEntropy(args, cpu_stream()));

  const std::vector<float> loss = Fetch(p.loss);
  ExpectWithin(loss, Wide(p.loss.host), bounds.loss);
  const std::vector<float> dhidden = FetchSlice(p.gradient(spec), 0);
  if (spec.gradient) {
    ExpectWithin(dhidden, Wide(p.gradient(spec).host[0]), bounds.dhidden);
  } else {
    for (const float value : dhidden) ASSERT_TRUE(std::isnan(value)) << "dhidden was written";
  }
  if (!spec.in_place) {
    EXPECT_EQ(FetchSlice(p.hidden, 0), hidden) << "hidden changed";
  }

  Problem again = Make(spec);
  RunCuda(spec, again);
  const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
  };
  EXPECT_TRUE(same(Fetch(again.loss), loss));
  EXPECT_TRUE(same(FetchSlice(again.gradient(spec), 0), dhidden));
}

// Three chunks of 128 tokens at the most; parts of the vocabulary of 128 rows, whole blocks of both
// quantisations (64 * 256 elements, 128 to a row).
constexpr cuda::LinearLimits kSmall = {.weight_bytes = 200 * 128 * 2, .logits_bytes = 1};

INSTANTIATE_TEST_SUITE_P(
    Cases, LinearCrossEntropyTest,
    testing::Values(Spec{"Dense", kDense, 130, 128, 512}, Spec{"Nf4", kNf4, 130, 128, 512},
                    Spec{"OneToken", kNf4, 1, 64, 200, false},
                    Spec{.name = "LossAlone",
                         .quant = kNf4,
                         .tokens = 67,
                         .width = 64,
                         .vocab = 300,
                         .gradient = false},
                    Spec{.name = "InPlaceWithSpareColumns",
                         .quant = kDense,
                         .tokens = 70,
                         .width = 64,
                         .vocab = 304,
                         .in_place = true,
                         .spare = 64},
                    Spec{
                        .name = "OddSizes", .quant = kInt8, .tokens = 9, .width = 35, .vocab = 101},
                    Spec{.name = "OddSizesDense",
                         .quant = kDense,
                         .tokens = 9,
                         .width = 33,
                         .vocab = 77,
                         .spare = 3},
                    Spec{.name = "ChunksOfTokensAndOfTheVocabulary",
                         .quant = kNf4,
                         .tokens = 300,
                         .width = 128,
                         .vocab = 500,
                         .in_place = true,
                         .limits = kSmall,
                         .vocab_parts = 4},
                    Spec{.name = "ChunksOfTokensDense",
                         .quant = kDense,
                         .tokens = 300,
                         .width = 128,
                         .vocab = 500,
                         .limits = kSmall}),
    [](const testing::TestParamInfo<Spec>& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace lorad
