// Adapters as operands of matrix products, the low-rank activations back out of the wide buffer,
// and dropout. Each number is rounded once, so all of it is exact.
#include "engine/ops/cuda/lora_operands.h"

#include <cmath>
#include <utility>
#include <vector>

#include "engine/device/cuda/cuda_stream.h"
#include "engine/ops/cpu/dropout.h"
#include "engine/ops/cuda/dropout.h"
#include "tests/parity/parity_fixture.h"

namespace lorad {
namespace {

constexpr uint16_t kFiller = 0xd5d5;  // what outputs hold before

// A term of a group, with strides that may exceed its widths.
struct TestTerm {
  int64_t rank, rows, column, row;
  float scaling;
  int64_t a_spare = 0, b_spare = 0;
};

class LoraOperandsTest : public ParityTest {
 protected:
  cudaStream_t Handle() { return cuda::Handle(stream()); }

  // A matrix of bf16 in the middle of a filled buffer, `shift` elements from its start.
  struct Output {
    DeviceBuffer buffer;
    std::vector<uint16_t> expected;
    int64_t shift, ld;
    uint16_t& At(int64_t row, int64_t column) { return expected[shift + row * ld + column]; }
    BFloat16* data() const { return static_cast<BFloat16*>(buffer.data()) + shift; }
  };
  Output MakeOutput(int64_t rows, int64_t ld, int64_t shift) {
    std::vector<uint16_t> filler(shift + rows * ld + 64, kFiller);
    DeviceBuffer buffer = Upload(filler.data(), 2 * static_cast<int64_t>(filler.size()));
    return {std::move(buffer), std::move(filler), shift, ld};
  }
  void ExpectOutput(const Output& output, const char* name) {
    std::vector<uint16_t> actual(output.expected.size());
    Download(actual.data(), output.buffer.data(), 2 * static_cast<int64_t>(actual.size()));
    for (int64_t i = 0; i < static_cast<int64_t>(actual.size()); ++i) {
      ASSERT_EQ(actual[i], output.expected[i]) << name << ", row " << (i - output.shift) / output.ld
                                               << ", column " << (i - output.shift) % output.ld;
    }
  }

  void CheckOperands(const std::vector<TestTerm>& terms, int64_t in, int64_t out, int64_t columns,
                     int64_t spare, int64_t shift) {
    for (const bool is_fp32 : {true, false})
      CheckOperandsOf(is_fp32, terms, in, out, columns, spare, shift);
  }
  // Uploads the values as fp32 or rounded to bf16, which then are the values.
  DeviceBuffer UploadElements(bool is_fp32, std::vector<float>& values) {
    if (is_fp32) return Upload(values.data(), 4 * static_cast<int64_t>(values.size()));
    std::vector<BFloat16> rounded;
    for (float& value : values) {
      rounded.push_back(ToBFloat16(value));
      value = ToFloat(rounded.back());
    }
    return Upload(rounded.data(), 2 * static_cast<int64_t>(rounded.size()));
  }
  void CheckOperandsOf(bool is_fp32, const std::vector<TestTerm>& terms, int64_t in, int64_t out,
                       int64_t columns, int64_t spare, int64_t shift) {
    SCOPED_TRACE(is_fp32 ? "fp32" : "bf16");
    SCOPED_TRACE(testing::Message() << in << " inputs, " << columns << " columns, spare " << spare
                                    << ", shift " << shift);
    Output a = MakeOutput(columns, in + spare, shift), b = MakeOutput(out, columns + spare, shift);
    for (int64_t k = 0; k < columns; ++k)
      for (int64_t i = 0; i < in; ++i) a.At(k, i) = 0;
    for (int64_t n = 0; n < out; ++n)
      for (int64_t k = 0; k < columns; ++k) b.At(n, k) = 0;
    std::vector<DeviceBuffer> buffers;
    std::vector<cuda::LoraOperand> operands;
    uint32_t seed = 1;
    for (const TestTerm& term : terms) {
      const int64_t a_stride = in + term.a_spare, b_stride = term.rank + term.b_spare;
      std::vector<float> a_values = Random<float>({term.rank, a_stride}, seed++).data;
      std::vector<float> b_values = Random<float>({term.rows, b_stride}, seed++).data;
      buffers.push_back(UploadElements(is_fp32, a_values));
      const void* device_a = buffers.back().data();
      buffers.push_back(UploadElements(is_fp32, b_values));
      const void* device_b = buffers.back().data();
      for (int64_t k = 0; k < term.rank; ++k)
        for (int64_t i = 0; i < in; ++i)
          a.At(term.column + k, i) = ToBFloat16(a_values[k * a_stride + i]).bits;
      for (int64_t n = 0; n < term.rows; ++n)
        for (int64_t k = 0; k < term.rank; ++k)
          b.At(term.row + n, term.column + k) =
              ToBFloat16(term.scaling * b_values[n * b_stride + k]).bits;
      operands.push_back({.a = device_a,
                          .a_stride = a_stride,
                          .b = device_b,
                          .b_stride = b_stride,
                          .scaling = term.scaling,
                          .rank = term.rank,
                          .rows = term.rows,
                          .column = term.column,
                          .row = term.row,
                          .is_fp32 = is_fp32});
    }
    ASSERT_EQ(cuda::LaunchLoraOperands(operands.data(), static_cast<int>(operands.size()), in, out,
                                       columns, a.data(), a.ld, b.data(), b.ld, Handle()),
              cudaSuccess);
    ExpectOutput(a, "a");
    ExpectOutput(b, "b");
  }

  void CheckSaveXa(const std::vector<std::pair<int64_t, int64_t>>& ranks_and_spares, int64_t rows,
                   int64_t first_column, int64_t s_stride, int64_t shift) {
    SCOPED_TRACE(testing::Message() << rows << " rows, stride " << s_stride << ", shift " << shift);
    std::vector<BFloat16> values;
    for (const float value : Random<float>({rows * s_stride + shift}, 1).data)
      values.push_back(ToBFloat16(value));
    const DeviceBuffer s = Upload(values.data(), 2 * static_cast<int64_t>(values.size()));
    std::vector<Output> outputs;
    std::vector<cuda::XaColumns> terms;
    int64_t column = first_column;
    for (const auto& [rank, spare] : ranks_and_spares) {
      Output output = MakeOutput(rows, rank + spare, shift);
      for (int64_t t = 0; t < rows; ++t)
        for (int64_t k = 0; k < rank; ++k)
          output.At(t, k) = values[shift + t * s_stride + column + k].bits;
      terms.push_back({.xa = output.data(), .stride = output.ld, .rank = rank, .column = column});
      outputs.push_back(std::move(output));
      column += rank;
    }
    ASSERT_LE(column, s_stride);
    ASSERT_EQ(cuda::LaunchSaveXa(terms.data(), static_cast<int>(terms.size()),
                                 static_cast<const BFloat16*>(s.data()) + shift, s_stride, rows,
                                 Handle()),
              cudaSuccess);
    for (const Output& output : outputs) ExpectOutput(output, "xa");
  }

  void CheckDropout(float probability, int64_t rows, int64_t columns, int64_t spare);
};

TEST_F(LoraOperandsTest, OneTermFillsItsColumnsAndZerosTheRest) {
  for (const int64_t spare : {0, 8, 3}) {
    for (const int64_t shift : {0, 8, 1}) {
      CheckOperands({{16, 40, 0, 0, 2.0f}}, 64, 40, 64, spare, shift);
      CheckOperands({{5, 33, 0, 0, 0.7f}}, 77, 33, 8, spare, shift);
    }
  }
  // More than one block of threads of each.
  CheckOperands({{8, 1000, 0, 0, 0.3f}}, 1000, 1000, 64, 0, 0);
}

// q, k, v: ranks side by side, outputs below one another, one without an adapter, ranks that are no
// multiple of the vector and begin inside one, strides of parameters that lie in a larger buffer.
TEST_F(LoraOperandsTest, TermsOfAGroupStayApart) {
  for (const int64_t spare : {0, 64, 5}) {
    CheckOperands({{16, 48, 0, 0, 2.0f}, {16, 8, 16, 48, 1.0f}, {16, 8, 32, 56, 0.5f}}, 128, 64, 64,
                  spare, 0);
    CheckOperands({{7, 20, 0, 0, 2.0f, 3, 1}, {12, 9, 7, 25, -1.25f, 4, 4}, {1, 5, 20, 34, 0.1f}},
                  90, 41, 24, spare, 0);
    CheckOperands({{8, 20, 0, 0, 2.0f}, {0, 10, 8, 20, 1.0f}, {8, 20, 8, 30, 3.0f}}, 72, 50, 16,
                  spare, 0);
  }
}

TEST_F(LoraOperandsTest, WithoutTermsAllIsZero) { CheckOperands({}, 40, 24, 16, 3, 0); }

TEST_F(LoraOperandsTest, RefusesWhatItCannotDo) {
  const cuda::LoraOperand terms[cuda::kMaxLoraTerms + 1] = {};
  EXPECT_EQ(cuda::LaunchLoraOperands(terms, cuda::kMaxLoraTerms + 1, 8, 8, 8, nullptr, 8, nullptr,
                                     8, Handle()),
            cudaErrorInvalidValue);
  EXPECT_EQ(cuda::LaunchLoraOperands(terms, 1, 8, 8, 12, nullptr, 8, nullptr, 12, Handle()),
            cudaErrorInvalidValue);
  EXPECT_EQ(cuda::LaunchSaveXa(nullptr, 0, nullptr, 8, 5, Handle()), cudaSuccess);
}

TEST_F(LoraOperandsTest, SaveXaSplitsTheColumns) {
  for (const int64_t shift : {0, 8, 1}) {
    CheckSaveXa({{16, 0}}, 5, 0, 64, shift);
    CheckSaveXa({{16, 0}, {8, 8}, {32, 0}}, 700, 128, 192, shift);  // in vectors
    CheckSaveXa({{16, 0}, {0, 8}, {16, 16}}, 9, 0, 32, shift);      // one term has no rank
    CheckSaveXa({{5, 0}, {1, 2}, {11, 3}, {16, 0}}, 300, 7, 61, shift);
    CheckSaveXa({{16, 0}, {16, 0}}, 33, 4, 64, shift);  // begins inside a vector
  }
}

// The mask, the scale and the rounding are the CPU's: x / (1 - p) is one fp32 product, adding to
// what is there one sum, and the result is rounded once.
void LoraOperandsTest::CheckDropout(float probability, int64_t rows, int64_t columns,
                                    int64_t spare) {
  SCOPED_TRACE(testing::Message() << "p " << probability << ", " << rows << " x " << columns
                                  << ", spare " << spare);
  // Samples and positions beyond what 18 and 16 bits hold.
  std::vector<uint64_t> keys(rows);
  for (int64_t t = 0; t < rows; ++t)
    keys[t] = static_cast<uint64_t>(70001 * t + 3) << 32 | static_cast<uint64_t>(131071 - 5 * t);
  auto token_keys = Same<uint64_t>({rows}, keys);
  const LoraDropout dropout = {.probability = probability,
                               .seed = 0x123456789abcdef0u,
                               .step = 4321,
                               .module = 77,
                               .token_keys = token_keys.cpu()};
  const cuda::DropoutMask mask = {
      .probability = probability,
      .seed = dropout.seed,
      .step = dropout.step,
      .module = dropout.module,
      .token_keys = static_cast<const uint64_t*>(token_keys.device.data())};
  const Shape shape = {rows, columns};
  Slices x = RandomSlices({shape}, spare, 1), sum = RandomSlices({shape}, spare, 2);
  const Slices out = UnwrittenSlices({shape}, spare);
  std::vector<float> dropped(rows * columns), added = sum.host[0];
  for (int64_t t = 0; t < rows; ++t) {
    const float* row = x.host[0].data() + t * columns;
    cpu::DropRow(dropout, t, row, columns, /*accumulate=*/false, dropped.data() + t * columns);
    cpu::DropRow(dropout, t, row, columns, /*accumulate=*/true, added.data() + t * columns);
  }
  const auto data = [](const Slices& slices) { return slices.Base(); };
  ASSERT_EQ(
      cuda::LaunchDropout(mask, data(x), x.stride, rows, columns, data(out), out.stride, Handle()),
      cudaSuccess);
  ASSERT_EQ(cuda::LaunchDropoutAdd(mask, data(x), x.stride, rows, columns, data(sum), sum.stride,
                                   Handle()),
            cudaSuccess);
  const std::vector<float> actual = FetchSlice(out, 0), actual_sum = FetchSlice(sum, 0);
  int64_t zeros = 0;
  for (int64_t i = 0; i < rows * columns; ++i) {
    ASSERT_EQ(actual[i], ToFloat(ToBFloat16(dropped[i]))) << i;
    ASSERT_EQ(actual_sum[i], ToFloat(ToBFloat16(added[i]))) << i;
    zeros += actual[i] == 0 ? 1 : 0;
  }
  // Six standard deviations of a binomial count, and x that are 0 or round to it.
  const double n = static_cast<double>(rows * columns);
  EXPECT_NEAR(static_cast<double>(zeros), n * probability,
              6 * std::sqrt(n * probability * (1 - probability)) + 2);
  // In place.
  ASSERT_EQ(
      cuda::LaunchDropout(mask, data(x), x.stride, rows, columns, data(x), x.stride, Handle()),
      cudaSuccess);
  EXPECT_EQ(FetchSlice(x, 0), actual);
}

TEST_F(LoraOperandsTest, DropoutHasTheMaskOfTheCpu) {
  for (const float probability : {0.05f, 0.5f, 0.9f}) {
    for (const int64_t spare : {0, 8, 5}) {
      CheckDropout(probability, 37, 4096, spare);
      CheckDropout(probability, 5, 77, spare);  // ends inside a counter
      CheckDropout(probability, 300, 12, spare);
      CheckDropout(probability, 1, 3, spare);
    }
  }
}

// Each of its arguments changes the mask; a token's mask does not depend on its row.
TEST_F(LoraOperandsTest, DropoutDependsOnAllOfItsArguments) {
  const Shape shape = {1, 512};
  const Slices x = MakeSlices({shape}, {std::vector<float>(512, 1.0f)}, 0);
  const auto masked = [&](uint64_t seed, uint32_t step, uint32_t module, uint64_t key) {
    const Slices out = UnwrittenSlices({shape}, 0);
    auto keys = Same<uint64_t>({1}, {key});
    const cuda::DropoutMask mask = {0.5f, seed, step, module,
                                    static_cast<const uint64_t*>(keys.device.data())};
    EXPECT_EQ(
        cuda::LaunchDropout(mask, x.Base(), x.stride, 1, 512, out.Base(), out.stride, Handle()),
        cudaSuccess);
    return FetchSlice(out, 0);
  };
  const std::vector<float> first = masked(1, 2, 3, 4);
  EXPECT_EQ(masked(1, 2, 3, 4), first);
  EXPECT_NE(masked(uint64_t{1} << 32 | 1, 2, 3, 4), first);
  EXPECT_NE(masked(2, 2, 3, 4), first);
  EXPECT_NE(masked(1, 3, 3, 4), first);
  EXPECT_NE(masked(1, 2, 4, 4), first);
  EXPECT_NE(masked(1, 2, 3, 5), first);
  EXPECT_NE(masked(1, 2, 3, uint64_t{1} << 32 | 4), first);
}

}  // namespace
}  // namespace lorad
