// Decoding k-bit weights: CUDA gives the CPU's bits, whatever the format, block, shape and place.
#include "engine/ops/cuda/dequantize.h"

#include <cstring>
#include <vector>

#include "engine/device/cuda/cuda_stream.h"
#include "tests/parity/parity_fixture.h"

namespace lorad {
namespace {

constexpr QuantFormat kFormats[] = {QuantFormat::kNf4, QuantFormat::kFp4, QuantFormat::kInt4,
                                    QuantFormat::kInt8};

// What outputs hold before, in every byte.
constexpr uint8_t kFiller = 0xd5;

const char* FormatName(QuantFormat format) {
  switch (format) {
    case QuantFormat::kNone:
      return "bf16";
    case QuantFormat::kNf4:
      return "nf4";
    case QuantFormat::kFp4:
      return "fp4";
    case QuantFormat::kInt4:
      return "int4";
    case QuantFormat::kInt8:
      return "int8";
  }
  return "?";
}

class DequantizeTest : public ParityTest {
 protected:
  // The weight's values by the CPU's op.
  template <typename T>
  std::vector<T> Expected(const WeightView& weight) {
    std::vector<T> values(weight.num_elements());
    const TensorView out = {values.data(), DTypeOf<T>, {weight.out_features, weight.in_features}};
    EXPECT_OK(cpu().ops().Dequantize({weight, out}, cpu_stream()));
    return values;
  }
  DeviceBuffer Filled(int64_t bytes) {
    return Upload(std::vector<uint8_t>(bytes, kFiller).data(), bytes);
  }
  template <typename T>
  std::vector<T> Fetched(const DeviceBuffer& buffer) {
    std::vector<T> values(buffer.size_bytes() / sizeof(T));
    Download(values.data(), buffer.data(), buffer.size_bytes());
    return values;
  }

  // The op, dense, in one type of output: bytes equal.
  template <typename T>
  void CheckOp(const Weight& weight) {
    const std::vector<T> expected = Expected<T>(weight.cpu());
    const int64_t bytes = static_cast<int64_t>(expected.size() * sizeof(T));
    const DeviceBuffer buffer = Filled(bytes);
    const TensorView out =
        buffer.View(DTypeOf<T>, {weight.cpu().out_features, weight.cpu().in_features});
    ASSERT_OK(cuda().ops().Dequantize({weight.cuda(), out}, stream()));
    const std::vector<T> actual = Fetched<T>(buffer);
    for (size_t i = 0; i < expected.size(); ++i)
      ASSERT_EQ(std::memcmp(&actual[i], &expected[i], sizeof(T)), 0) << "element " << i;
  }

  // Weights below one another in rows of `ld` elements, from `first_row` on and `shift` elements
  // into the buffer: bits equal, and no other element written.
  void CheckPlaced(const std::vector<Weight>& weights, int64_t first_row, int64_t ld,
                   int64_t shift) {
    std::vector<cuda::PackedWeight> packed;
    int64_t rows = first_row;
    for (const Weight& weight : weights) {
      packed.push_back(cuda::ToPackedWeight(weight.cuda(), rows));
      rows += weight.cpu().out_features;
    }
    const int64_t elements = shift + (rows + 1) * ld;  // a row to spare behind the last
    std::vector<BFloat16> expected(elements);
    std::memset(expected.data(), kFiller, 2 * elements);
    int64_t row = first_row;
    for (const Weight& weight : weights) {
      const std::vector<BFloat16> values = Expected<BFloat16>(weight.cpu());
      const int64_t columns = weight.cpu().in_features;
      for (int64_t r = 0; r < weight.cpu().out_features; ++r, ++row)
        for (int64_t c = 0; c < columns; ++c)
          expected[shift + row * ld + c] = values[r * columns + c];
    }
    const DeviceBuffer buffer = Filled(2 * elements);
    ASSERT_EQ(cuda::LaunchDequantize(packed.data(), static_cast<int>(packed.size()),
                                     static_cast<BFloat16*>(buffer.data()) + shift, ld,
                                     cuda::Handle(stream())),
              cudaSuccess);
    const std::vector<BFloat16> actual = Fetched<BFloat16>(buffer);
    for (int64_t i = 0; i < elements; ++i) {
      ASSERT_EQ(actual[i].bits, expected[i].bits)
          << "row " << (i - shift) / ld << ", column " << (i - shift) % ld;
    }
  }
};

// 160 x 264 elements: 5 nested blocks of scales at block 32, several words a thread, a last thread
// block in part; blocks that cross rows, and the last of them in part where they are long.
TEST_F(DequantizeTest, EveryFormatAndBlockHasTheBitsOfTheDefinition) {
  for (const QuantFormat format : kFormats) {
    for (const bool double_quant : {false, true}) {
      for (int32_t block = 32; block <= 4096; block *= 2) {
        SCOPED_TRACE(testing::Message()
                     << FormatName(format) << ", block " << block << ", double " << double_quant);
        const Weight weight = MakeParityWeight({format, block, double_quant}, 160, 264, 7);
        CheckOp<BFloat16>(weight);
      }
    }
  }
}

// What a loaded model's 4-bit weights look like: one strip, several, more than a thread block has,
// neighbours in one output, and rows from the middle of a weight.
TEST_F(DequantizeTest, TiledWeightsHaveTheBitsOfTheDefinition) {
  for (const QuantFormat format : {QuantFormat::kNf4, QuantFormat::kInt4}) {
    const QuantSpec spec = {format, 64, true};
    for (const auto& [out, in] :
         std::vector<std::pair<int64_t, int64_t>>{{16, 256}, {48, 768}, {160, 2304}}) {
      SCOPED_TRACE(testing::Message() << FormatName(format) << ", " << out << " x " << in);
      const Weight weight = MakeParityWeight(spec, out, in, 11);
      ASSERT_TRUE(weight.cuda().tiled);
      CheckOp<BFloat16>(weight);
      CheckOp<float>(weight);
    }
    std::vector<Weight> weights;
    for (const int64_t out : {64, 16, 32}) weights.push_back(MakeParityWeight(spec, out, 512, 12));
    CheckPlaced(weights, 3, 520, 0);
    CheckPlaced(weights, 0, 515, 1);  // not aligned: element by element
  }
}

TEST_F(DequantizeTest, WhatIsNotInWholeTilesStaysAsItIs) {
  const QuantSpec nf4 = {QuantFormat::kNf4, 64, true};
  EXPECT_FALSE(MakeParityWeight(nf4, 24, 256, 1).cuda().tiled);
  EXPECT_FALSE(MakeParityWeight(nf4, 16, 320, 1).cuda().tiled);
  EXPECT_FALSE(MakeParityWeight({QuantFormat::kNf4, 128, true}, 16, 256, 1).cuda().tiled);
  EXPECT_FALSE(MakeParityWeight({QuantFormat::kNf4, 64, false}, 16, 256, 1).cuda().tiled);
  EXPECT_FALSE(MakeParityWeight({QuantFormat::kInt8, 64, true}, 16, 256, 1).cuda().tiled);
}

TEST_F(DequantizeTest, WiderTypesHoldTheSameValues) {
  for (const QuantFormat format : kFormats) {
    for (const bool double_quant : {false, true}) {
      SCOPED_TRACE(testing::Message() << FormatName(format) << ", double " << double_quant);
      const Weight weight = MakeParityWeight({format, 64, double_quant}, 96, 120, 3);
      CheckOp<float>(weight);
      CheckOp<double>(weight);
    }
  }
  const Weight dense = MakeParityWeight({.format = QuantFormat::kNone}, 13, 37, 3);
  CheckOp<BFloat16>(dense);
  CheckOp<float>(dense);
  CheckOp<double>(dense);
}

// Rows of odd length begin at a low nibble every other time; a matrix of odd size ends at a high
// one.
TEST_F(DequantizeTest, OddShapes) {
  const int64_t shapes[][2] = {{1, 1}, {13, 37}, {257, 3}, {1, 4099}, {40, 12}, {3, 8}};
  for (const QuantFormat format : kFormats) {
    for (const bool double_quant : {false, true}) {
      for (const auto& [out, in] : shapes) {
        SCOPED_TRACE(testing::Message() << FormatName(format) << " " << out << " x " << in
                                        << ", double " << double_quant);
        CheckOp<BFloat16>(MakeParityWeight({format, 32, double_quant}, out, in, 5));
      }
    }
  }
}

// Columns whose number of words is no power of two: the division by multiplication.
TEST_F(DequantizeTest, RowsOfManyLengths) {
  for (const int64_t words : {1, 3, 5, 7, 31, 100, 127, 129, 511, 513, 1792}) {
    SCOPED_TRACE(testing::Message() << words << " words a row");
    std::vector<Weight> weights;
    weights.push_back(MakeParityWeight({}, 67, 8 * words, 11));
    CheckPlaced(weights, 0, 8 * words + 8, 0);
  }
}

// q, k, v in one launch, into the rows of a longer contraction: LoRA's columns stay.
TEST_F(DequantizeTest, WeightsTogetherGoWhereTheyBelong) {
  for (const QuantFormat format : kFormats) {
    for (const bool double_quant : {false, true}) {
      const QuantSpec spec = {format, 64, double_quant};
      std::vector<Weight> weights;
      int32_t seed = 1;
      for (const int64_t out : {128, 33, 1, 40})
        weights.push_back(MakeParityWeight(spec, out, 192, seed++));
      for (const int64_t ld : {192, 256, 199}) {
        for (const int64_t shift : {0, 8, 4, 1}) {
          SCOPED_TRACE(testing::Message() << FormatName(format) << ", double " << double_quant
                                          << ", ld " << ld << ", shift " << shift);
          CheckPlaced(weights, /*first_row=*/3, ld, shift);
        }
      }
    }
  }
}

TEST_F(DequantizeTest, FormatsMayDifferWithinACall) {
  std::vector<Weight> weights;
  weights.push_back(MakeParityWeight({QuantFormat::kNf4, 64, true}, 24, 64, 1));
  weights.push_back(MakeParityWeight({QuantFormat::kInt8, 128, false}, 17, 64, 2));
  weights.push_back(MakeParityWeight({.format = QuantFormat::kNone}, 9, 64, 3));
  weights.push_back(MakeParityWeight({QuantFormat::kFp4, 32, false}, 8, 37, 4));
  CheckPlaced(weights, 2, 72, 0);
  CheckPlaced(weights, 2, 71, 1);
}

TEST_F(DequantizeTest, AWeightWithoutRowsIsSkipped) {
  const Weight first = MakeParityWeight({}, 24, 64, 1), last = MakeParityWeight({}, 17, 64, 2);
  const std::vector<BFloat16> above = Expected<BFloat16>(first.cpu());
  const std::vector<BFloat16> below = Expected<BFloat16>(last.cpu());
  cuda::PackedWeight weights[] = {cuda::ToPackedWeight(first.cuda(), 0),
                                  cuda::ToPackedWeight(first.cuda(), 24),
                                  cuda::ToPackedWeight(last.cuda(), 24)};
  weights[1].rows = 0;
  for (const int64_t shift : {0, 1}) {
    const DeviceBuffer buffer = Filled(2 * (41 * 64 + shift));
    ASSERT_EQ(cuda::LaunchDequantize(weights, 3, static_cast<BFloat16*>(buffer.data()) + shift, 64,
                                     cuda::Handle(stream())),
              cudaSuccess);
    const std::vector<BFloat16> actual = Fetched<BFloat16>(buffer);
    for (int64_t i = 0; i < 41 * 64; ++i) {
      const BFloat16 expected = i < 24 * 64 ? above[i] : below[i - 24 * 64];
      ASSERT_EQ(actual[shift + i].bits, expected.bits) << i;
    }
  }
}

TEST_F(DequantizeTest, RefusesMoreWeightsThanALaunchTakes) {
  const cuda::PackedWeight weights[cuda::kMaxDequantizeWeights + 1] = {};
  EXPECT_EQ(cuda::LaunchDequantize(weights, cuda::kMaxDequantizeWeights + 1, nullptr, 8,
                                   cuda::Handle(stream())),
            cudaErrorInvalidValue);
  EXPECT_EQ(cuda::LaunchDequantize(weights, 0, nullptr, 8, cuda::Handle(stream())), cudaSuccess);
}

}  // namespace
}  // namespace lorad
