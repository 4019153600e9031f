// Norms, rotary embedding, SwiGLU, look-up and row copies: CUDA against the CPU's definition.
//
// Both sides begin with the same bf16 numbers, so a result differs by the roundings of fp32 inside
// the op (u = kFloatRoundoff each, on both sides: the "slack" that each test derives) and by the
// one rounding to bf16 at its end.
#include "engine/ops/cuda/elementwise.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/device/cuda/cuda_stream.h"
#include "tests/parity/parity_fixture.h"

namespace lorad {
namespace {

constexpr double kU = kFloatRoundoff;
// Below it the device may give 0.
constexpr double kSmallestNormal = 0x1p-126;

// Where a matrix lies in wider rows. kAligned takes 16-byte accesses as long as the width is a
// multiple of 8; kShifted has such strides, but begins 8 bytes too late; kOdd has odd strides.
enum class Placement { kAligned, kShifted, kOdd };
constexpr Placement kPlacements[] = {Placement::kAligned, Placement::kShifted, Placement::kOdd};

// bf16(value) where value is within `slack` of `expected`.
double RoundedBound(double expected, double slack) {
  return kBFloat16Roundoff * (std::abs(expected) + slack) + slack;
}

std::vector<double> Widened(const std::vector<float>& values) {
  return std::vector<double>(values.begin(), values.end());
}

class ElementwiseTest : public ParityTest {
 protected:
  // The tensor is slice 1; other columns lie to its left and right.
  Slices Place(const Shape& shape, Placement placement, uint32_t seed, double scale = 1) {
    const int64_t left = placement == Placement::kAligned   ? 8
                         : placement == Placement::kShifted ? 4
                                                            : 3;
    const int64_t right = placement == Placement::kShifted ? 4 : 8;
    return RandomSlices({{shape[0], left}, shape}, right, seed, scale);
  }
  Slices PlaceValues(const Shape& shape, Placement placement, std::vector<float> values) {
    Slices like = Place(shape, placement, 1);
    std::vector<std::vector<float>> parts = {like.host[0], std::move(values)};
    return MakeSlices(like.shapes, std::move(parts), like.stride - like.width);
  }
  // Slice 1; the columns around it are as they were.
  std::vector<float> Result(const Slices& slices) {
    EXPECT_EQ(FetchSlice(slices, 0), slices.host[0]) << "columns to the left were written";
    return FetchSlice(slices, 1);
  }
  // The slice's place among the launchers' arguments.
  static BFloat16* Data(const Slices& slices) { return slices.cuda(1).as<BFloat16>(); }
  cudaStream_t Handle() { return cuda::Handle(stream()); }

  void CheckRmsNorm(int64_t rows, int64_t hidden, Placement placement, double scale);
  void CheckRmsNormBackward(int64_t rows, int64_t hidden, Placement placement, bool accumulate);
  void CheckRope(int64_t tokens, int64_t heads, int64_t head_dim, Placement placement,
                 bool inverse);
  void CheckSwiGluBackward(int64_t rows, int64_t n, Placement placement);
};

struct NormShape {
  int64_t rows, hidden;
};
// Few rows and many, of one element, of odd widths, of 128 packs, of several packs a thread, and
// wider than what a block keeps in registers.
constexpr NormShape kNormShapes[] = {{1, 1},    {3, 77},     {7, 256},    {513, 256},
                                     {9, 4096}, {520, 4096}, {514, 5128}, {2, 16392}};

// Positive terms: a sum of n squares errs by n u relatively, whatever its order, and 1 / sqrt
// halves that; mean, eps, root and reciprocal add 4 u at most. So the two sides' inv_rms differ by
// (n + 8) u, and their y, two products further, by 4 u more.
void ElementwiseTest::CheckRmsNorm(int64_t rows, int64_t hidden, Placement placement,
                                   double scale) {
  SCOPED_TRACE(testing::Message() << rows << " x " << hidden << ", placement "
                                  << static_cast<int>(placement) << ", scale " << scale);
  const double slack = static_cast<double>(hidden + 12) * kU;
  const Shape shape = {rows, hidden};
  Slices x = Place(shape, placement, 1, scale), y = Place(shape, placement, 2);
  auto gamma = Same<float>({hidden}, Random<float>({hidden}, 3).data);
  auto inv_rms = Same<float>({rows}, std::vector<float>(rows, -1.0f));
  const float eps = 1e-5f;
  ASSERT_OK(
      cpu().ops().RmsNorm({x.cpu(1), gamma.cpu(), y.cpu(1), inv_rms.cpu(), eps}, cpu_stream()));
  ASSERT_OK(
      cuda().ops().RmsNorm({x.cuda(1), gamma.cuda(), y.cuda(1), inv_rms.cuda(), eps}, stream()));
  const std::vector<float> actual = Result(y);
  std::vector<double> bound;
  for (const float value : y.host[1])
    bound.push_back(RoundedBound(value, slack * std::abs(value)) + kSmallestNormal);
  ExpectWithin(actual, Widened(y.host[1]), bound);
  const std::vector<float> inverse = Fetch(inv_rms);
  for (int64_t t = 0; t < rows; ++t)
    ASSERT_NEAR(inverse[t], inv_rms.host[t], slack * inv_rms.host[t]) << "row " << t;

  // In place, and without inv_rms.
  ASSERT_OK(cuda().ops().RmsNorm({x.cuda(1), gamma.cuda(), x.cuda(1), {}, eps}, stream()));
  EXPECT_EQ(Result(x), actual);
}

TEST_F(ElementwiseTest, RmsNormEqualsTheDefinition) {
  for (const NormShape& shape : kNormShapes)
    for (const Placement placement : kPlacements)
      CheckRmsNorm(shape.rows, shape.hidden, placement, 2);
}

TEST_F(ElementwiseTest, RmsNormOfSmallRowsIsGovernedByEps) {
  CheckRmsNorm(5, 512, Placement::kAligned, 0.002);
  CheckRmsNorm(600, 512, Placement::kAligned, 0.002);
  CheckRmsNorm(5, 77, Placement::kOdd, 0.002);
}

// With S = sum |dy gamma x| over the row: a sum errs by (n + 2) u S, its two products included; the
// factors inv_rms^2 / n, x and inv_rms by 6 u more, on both sides. The other term, inv_rms dy
// gamma, errs by 3 u on both, and so does the sum of both terms by one rounding each.
void ElementwiseTest::CheckRmsNormBackward(int64_t rows, int64_t hidden, Placement placement,
                                           bool accumulate) {
  SCOPED_TRACE(testing::Message() << rows << " x " << hidden << ", placement "
                                  << static_cast<int>(placement) << ", accumulate " << accumulate);
  const Shape shape = {rows, hidden};
  Slices x = Place(shape, placement, 1, 2), dy = Place(shape, placement, 2);
  Slices dx = Place(shape, placement, 3);
  auto gamma = Same<float>({hidden}, Random<float>({hidden}, 4).data);
  std::vector<float> statistics = Random<float>({rows}, 5).data;
  for (float& value : statistics) value = 1 + value / 2;
  auto inv_rms = Same<float>({rows}, statistics);
  ASSERT_OK(cpu().ops().RmsNormBackward(
      {dy.cpu(1), x.cpu(1), gamma.cpu(), inv_rms.cpu(), dx.cpu(1), accumulate}, cpu_stream()));
  ASSERT_OK(cuda().ops().RmsNormBackward(
      {dy.cuda(1), x.cuda(1), gamma.cuda(), inv_rms.cuda(), dx.cuda(1), accumulate}, stream()));
  const std::vector<float> actual = Result(dx);
  std::vector<double> bound;
  const double n = static_cast<double>(hidden);
  for (int64_t t = 0; t < rows; ++t) {
    const float* x_row = x.host[1].data() + t * hidden;
    const float* dy_row = dy.host[1].data() + t * hidden;
    double sum = 0;
    for (int64_t i = 0; i < hidden; ++i)
      sum += std::abs(double{dy_row[i]} * gamma.host[i] * x_row[i]);
    const double inverse = inv_rms.host[t];
    const double shift = inverse * inverse * sum / n;
    for (int64_t i = 0; i < hidden; ++i) {
      const double expected = dx.host[1][t * hidden + i];
      const double first = std::abs(double{dy_row[i]} * gamma.host[i]);
      const double second = std::abs(x_row[i]) * shift;
      const double slack =
          kU * (inverse * (8 * first + (2 * n + 20) * second) + 2 * std::abs(expected));
      bound.push_back(RoundedBound(expected, slack) + kSmallestNormal);
    }
  }
  ExpectWithin(actual, Widened(dx.host[1]), bound);
  if (accumulate) return;
  // In place of dy.
  ASSERT_OK(cuda().ops().RmsNormBackward(
      {dy.cuda(1), x.cuda(1), gamma.cuda(), inv_rms.cuda(), dy.cuda(1), false}, stream()));
  EXPECT_EQ(Result(dy), actual);
}

TEST_F(ElementwiseTest, RmsNormBackwardEqualsTheDefinition) {
  for (const NormShape& shape : kNormShapes) {
    for (const Placement placement : kPlacements) {
      CheckRmsNormBackward(shape.rows, shape.hidden, placement, false);
      CheckRmsNormBackward(shape.rows, shape.hidden, placement, true);
    }
  }
}

// Positions that fill the table of the CPU, and those beyond it; the last needs the long reduction
// of the angle.
std::vector<int32_t> Positions(int64_t tokens) {
  std::vector<int32_t> positions(tokens);
  for (int64_t t = 0; t < tokens; ++t) positions[t] = static_cast<int32_t>((t * 2917) % 131072);
  positions.back() = 131071;
  return positions;
}
std::vector<float> Frequencies(int64_t head_dim) {
  std::vector<float> frequencies(head_dim / 2);
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    const double exponent = 2 * static_cast<double>(i) / static_cast<double>(head_dim);
    frequencies[i] = static_cast<float>(std::pow(500000.0, -exponent));
  }
  return frequencies;
}

// Sines and cosines of the same fp32 angle differ by 3 u (2 ulp on the device, 1 on the host, of
// numbers up to 1); two products and a sum on each side add 4 u of |a| + |b|.
void ElementwiseTest::CheckRope(int64_t tokens, int64_t heads, int64_t head_dim,
                                Placement placement, bool inverse) {
  SCOPED_TRACE(testing::Message() << heads << " heads of " << head_dim << ", placement "
                                  << static_cast<int>(placement) << ", inverse " << inverse);
  Slices x = Place({tokens, heads, head_dim}, placement, 1);
  const std::vector<float> before = x.host[1];
  auto positions = Same<int32_t>({tokens}, Positions(tokens));
  auto inv_freq = Same<float>({head_dim / 2}, Frequencies(head_dim));
  ASSERT_OK(cpu().ops().Rope({x.cpu(1), positions.cpu(), inv_freq.cpu(), inverse}, cpu_stream()));
  ASSERT_OK(cuda().ops().Rope({x.cuda(1), positions.cuda(), inv_freq.cuda(), inverse}, stream()));
  std::vector<double> bound;
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < static_cast<int64_t>(before.size()); ++i) {
    const int64_t partner = i % head_dim < half ? i + half : i - half;
    const double slack = 7 * kU * (std::abs(before[i]) + std::abs(before[partner]));
    bound.push_back(RoundedBound(x.host[1][i], slack));
  }
  ExpectWithin(Result(x), Widened(x.host[1]), bound);
}

TEST_F(ElementwiseTest, RopeEqualsTheDefinition) {
  for (const Placement placement : kPlacements) {
    for (const bool inverse : {false, true}) {
      CheckRope(9, 5, 128, placement, inverse);
      CheckRope(5, 3, 64, placement, inverse);
      CheckRope(4, 7, 10, placement, inverse);    // half a head is no multiple of 8
      CheckRope(3, 70, 128, placement, inverse);  // more than one round over the heads
      CheckRope(3, 19, 512, placement, inverse);
      CheckRope(2, 1, 2, placement, inverse);
    }
  }
}

// What layers do with q and k of one buffer.
TEST_F(ElementwiseTest, HeadsSideBySideRotateAsTheyDoApart) {
  const int64_t tokens = 7, head_dim = 128;
  auto positions = Same<int32_t>({tokens}, Positions(tokens));
  auto inv_freq = Same<float>({head_dim / 2}, Frequencies(head_dim));
  const int32_t* at = static_cast<const int32_t*>(positions.device.data());
  const float* frequencies = static_cast<const float*>(inv_freq.device.data());
  for (const auto& [q_heads, k_heads] : {std::pair<int64_t, int64_t>{32, 8}, {5, 1}, {61, 9}}) {
    for (const int64_t spare : {0, 8, 3}) {
      for (const bool inverse : {false, true}) {
        const std::vector<Shape> shapes = {{tokens, q_heads, head_dim},
                                           {tokens, k_heads, head_dim}};
        const Slices together = RandomSlices(shapes, spare, 1),
                     apart = RandomSlices(shapes, spare, 1);
        ASSERT_EQ(
            cuda::LaunchRope(together.cuda(0).as<BFloat16>(), together.stride, at, frequencies,
                             tokens, q_heads + k_heads, head_dim, inverse, Handle()),
            cudaSuccess);
        for (const size_t i : {0, 1}) {
          ASSERT_EQ(
              cuda::LaunchRope(apart.cuda(i).as<BFloat16>(), apart.stride, at, frequencies, tokens,
                               i == 0 ? q_heads : k_heads, head_dim, inverse, Handle()),
              cudaSuccess);
        }
        for (const size_t i : {0, 1}) {
          EXPECT_EQ(FetchSlice(together, i), FetchSlice(apart, i));
          EXPECT_NE(FetchSlice(together, i), together.host[i]) << "nothing was rotated";
        }
      }
    }
  }
  EXPECT_EQ(cuda::LaunchRope(nullptr, 514, at, frequencies, 1, 1, 514, false, Handle()),
            cudaErrorInvalidValue);
  EXPECT_EQ(cuda::LaunchRope(nullptr, 7, at, frequencies, 1, 1, 7, false, Handle()),
            cudaErrorInvalidValue);
}

// Sigmoids err by 8 u on the device and 6 u on the host (an exponential of 2 ulp, a sum, a
// division), and flush below the smallest normal number on the device; two products on each side
// add 4 u.
double SwiGluSlack(double gate, double up, double expected) {
  return 18 * kU * std::abs(expected) + kSmallestNormal * (std::abs(gate * up) + 1);
}

TEST_F(ElementwiseTest, SwiGluEqualsTheDefinition) {
  // One thread, odd, several blocks a row, more rows than a grid is high.
  for (const NormShape& size : {NormShape{1, 1}, {5, 77}, {3, 14336}, {70000, 8}}) {
    for (const Placement placement : kPlacements) {
      SCOPED_TRACE(testing::Message() << size.rows << " x " << size.hidden << ", placement "
                                      << static_cast<int>(placement));
      const Shape shape = {size.rows, size.hidden};
      Slices gate = Place(shape, placement, 1, 6), up = Place(shape, placement, 2, 3);
      Slices out = Place(shape, placement, 3);
      ASSERT_OK(cpu().ops().SwiGlu({gate.cpu(1), up.cpu(1), out.cpu(1)}, cpu_stream()));
      ASSERT_OK(cuda().ops().SwiGlu({gate.cuda(1), up.cuda(1), out.cuda(1)}, stream()));
      std::vector<double> bound;
      for (size_t i = 0; i < out.host[1].size(); ++i) {
        const double expected = out.host[1][i];
        bound.push_back(
            RoundedBound(expected, SwiGluSlack(gate.host[1][i], up.host[1][i], expected)));
      }
      const std::vector<float> actual = Result(out);
      ExpectWithin(actual, Widened(out.host[1]), bound);
      ASSERT_OK(cuda().ops().SwiGlu({gate.cuda(1), up.cuda(1), up.cuda(1)}, stream()));
      EXPECT_EQ(Result(up), actual) << "in place of up";
    }
  }
}

TEST_F(ElementwiseTest, SwiGluOfExtremeGatesIsFinite) {
  const std::vector<float> gates = {-3e38f, -200, -104, -89, -88,  -87.5f, -20,  -1,
                                    0,      1,    20,   87,  88.5, 104,    1000, 3e38f};
  const Shape shape = {1, static_cast<int64_t>(gates.size())};
  std::vector<float> rounded;
  for (const float value : gates) rounded.push_back(ToFloat(ToBFloat16(value)));
  for (const Placement placement : kPlacements) {
    Slices gate = PlaceValues(shape, placement, rounded);
    Slices up = PlaceValues(shape, placement, std::vector<float>(gates.size(), 0.75f));
    Slices out = Place(shape, placement, 3);
    ASSERT_OK(cpu().ops().SwiGlu({gate.cpu(1), up.cpu(1), out.cpu(1)}, cpu_stream()));
    ASSERT_OK(cuda().ops().SwiGlu({gate.cuda(1), up.cuda(1), out.cuda(1)}, stream()));
    const std::vector<float> actual = Result(out);
    for (size_t i = 0; i < gates.size(); ++i) {
      const double expected = out.host[1][i];
      ASSERT_TRUE(std::isfinite(actual[i])) << gates[i];
      ASSERT_NEAR(actual[i], expected,
                  RoundedBound(expected, SwiGluSlack(rounded[i], 0.75, expected)))
          << gates[i];
    }
  }
}

// dup is a product like the forward pass's. In dgate, 1 - s errs by 14 u s + 2 u over both sides,
// |gate| times that goes into the bracket, which itself rounds by 2 u each side; with s (14 u) and
// the products: s |dout up| (14 + 16 |gate| + 12 + 4 |gate|) u at most.
void ElementwiseTest::CheckSwiGluBackward(int64_t rows, int64_t n, Placement placement) {
  SCOPED_TRACE(testing::Message() << rows << " x " << n << ", placement "
                                  << static_cast<int>(placement));
  const Shape shape = {rows, n};
  Slices dout = Place(shape, placement, 1), gate = Place(shape, placement, 2, 6);
  Slices up = Place(shape, placement, 3, 3), dgate = Place(shape, placement, 4);
  Slices dup = Place(shape, placement, 5);
  ASSERT_OK(cpu().ops().SwiGluBackward(
      {dout.cpu(1), gate.cpu(1), up.cpu(1), dgate.cpu(1), dup.cpu(1)}, cpu_stream()));
  ASSERT_OK(cuda().ops().SwiGluBackward(
      {dout.cuda(1), gate.cuda(1), up.cuda(1), dgate.cuda(1), dup.cuda(1)}, stream()));
  const std::vector<float> actual_dgate = Result(dgate), actual_dup = Result(dup);
  std::vector<double> dgate_bound, dup_bound;
  for (size_t i = 0; i < gate.host[1].size(); ++i) {
    const double d = dout.host[1][i], g = gate.host[1][i], u = up.host[1][i];
    const double s = 1 / (1 + std::exp(-g));
    const double slack = s * std::abs(d * u) * (26 + 20 * std::abs(g)) * kU + kSmallestNormal;
    dgate_bound.push_back(RoundedBound(dgate.host[1][i], slack));
    dup_bound.push_back(RoundedBound(dup.host[1][i], SwiGluSlack(d, g, dup.host[1][i])));
  }
  ExpectWithin(actual_dgate, Widened(dgate.host[1]), dgate_bound);
  ExpectWithin(actual_dup, Widened(dup.host[1]), dup_bound);

  // The same bits in place of the inputs.
  ASSERT_OK(cuda().ops().SwiGluBackward(
      {dout.cuda(1), gate.cuda(1), up.cuda(1), gate.cuda(1), up.cuda(1)}, stream()));
  EXPECT_EQ(Result(gate), actual_dgate);
  EXPECT_EQ(Result(up), actual_dup);
}

TEST_F(ElementwiseTest, SwiGluBackwardEqualsTheDefinition) {
  for (const NormShape& size : {NormShape{1, 1}, {5, 77}, {3, 14336}, {70000, 8}})
    for (const Placement placement : kPlacements)
      CheckSwiGluBackward(size.rows, size.hidden, placement);
}

TEST_F(ElementwiseTest, EmbeddingCopiesRowsOfTheTable) {
  const int64_t vocab = 97;
  for (const NormShape& size : {NormShape{5, 1}, {6, 1001}, {7, 8200}, {70000, 8}}) {
    for (const Placement placement : kPlacements) {
      const int64_t tokens = size.rows, hidden = size.hidden;
      SCOPED_TRACE(testing::Message() << tokens << " x " << hidden);
      std::vector<BFloat16> values;
      for (const float value : Random<float>({vocab, hidden}, 1).data)
        values.push_back(ToBFloat16(value));
      auto table = Same<BFloat16>({vocab, hidden}, values);
      std::vector<int32_t> rows(tokens);
      for (int64_t t = 0; t < tokens; ++t) rows[t] = static_cast<int32_t>((t * 31) % vocab);
      rows.back() = vocab - 1;
      auto ids = Same<int32_t>({tokens}, rows);
      Slices out = Place({tokens, hidden}, placement, 2);
      ASSERT_OK(cpu().ops().Embedding({ids.cpu(), table.cpu(), out.cpu(1)}, cpu_stream()));
      ASSERT_OK(cuda().ops().Embedding({ids.cuda(), table.cuda(), out.cuda(1)}, stream()));
      ASSERT_EQ(Result(out), out.host[1]);
    }
  }
}

TEST_F(ElementwiseTest, CopyRowsMovesEveryElementAndNothingElse) {
  for (const NormShape& size : {NormShape{1, 1}, {6, 1001}, {7, 8200}, {70000, 8}}) {
    for (const Placement from : kPlacements) {
      for (const Placement to : kPlacements) {
        SCOPED_TRACE(testing::Message() << size.rows << " x " << size.hidden);
        const Shape shape = {size.rows, size.hidden};
        Slices x = Place(shape, from, 1), y = Place(shape, to, 2);
        ASSERT_EQ(cuda::LaunchCopyRows(Data(x), x.stride, Data(y), y.stride, size.rows, size.hidden,
                                       Handle()),
                  cudaSuccess);
        ASSERT_EQ(Result(y), x.host[1]);
        ASSERT_EQ(Result(x), x.host[1]);
      }
    }
  }
}

// One sum in fp32, one rounding to bf16: the same bits.
TEST_F(ElementwiseTest, AddBiasRoundsTheSumOnce) {
  for (const NormShape& size : {NormShape{1, 1}, {6, 1001}, {7, 8200}, {300000, 8}}) {
    for (const Placement placement : kPlacements) {
      SCOPED_TRACE(testing::Message() << size.rows << " x " << size.hidden);
      const int64_t rows = size.rows, n = size.hidden;
      const Slices y = Place({rows, n}, placement, 1);
      auto bias = Same<float>({n}, Random<float>({n}, 2).data);
      ASSERT_EQ(cuda::LaunchAddBias(Data(y), y.stride, static_cast<float*>(bias.device.data()),
                                    rows, n, Handle()),
                cudaSuccess);
      const std::vector<float> actual = Result(y);
      for (int64_t i = 0; i < rows * n; ++i)
        ASSERT_EQ(actual[i], ToFloat(ToBFloat16(y.host[1][i] + bias.host[i % n]))) << i;
    }
  }
}

TEST_F(ElementwiseTest, NothingIsLaunchedForNoElements) {
  EXPECT_EQ(cuda::LaunchCopyRows(nullptr, 8, nullptr, 8, 0, 8, Handle()), cudaSuccess);
  EXPECT_EQ(cuda::LaunchAddBias(nullptr, 8, nullptr, 4, 0, Handle()), cudaSuccess);
  EXPECT_EQ(cuda::LaunchSwiGlu(nullptr, 8, nullptr, 8, nullptr, 8, 0, 8, Handle()), cudaSuccess);
  EXPECT_EQ(cuda::LaunchRmsNorm(nullptr, 8, nullptr, nullptr, 8, nullptr, 0, 8, 1e-5f, Handle()),
            cudaSuccess);
  EXPECT_EQ(cuda::LaunchRope(nullptr, 8, nullptr, nullptr, 0, 1, 8, false, Handle()), cudaSuccess);
}

}  // namespace
}  // namespace lorad
