#include "engine/quant/quant.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <vector>

#include "engine/core/float16.h"
#include "engine/device/backend.h"
#include "engine/ops/ops.h"
#include "engine/quant/code_book.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

constexpr QuantFormat kFormats[] = {QuantFormat::kNf4, QuantFormat::kFp4, QuantFormat::kInt4,
                                    QuantFormat::kInt8};

std::vector<float> Normal(int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

std::vector<float> Decode(const QuantizedMatrix& matrix) {
  std::unique_ptr<Backend> backend = CreateCpuBackend();
  std::unique_ptr<Stream> stream = *backend->CreateStream();
  std::vector<float> out(matrix.out_features * matrix.in_features);
  const TensorView view = {out.data(), DType::kF32, {matrix.out_features, matrix.in_features}};
  EXPECT_OK(backend->ops().Dequantize({matrix.View(), view}, *stream));
  return out;
}

double RootMeanSquareError(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
  return std::sqrt(sum / static_cast<double>(a.size()));
}

// The largest distance between neighbouring values of a code book, both used.
float LargestGap(std::vector<float> book) {
  std::sort(book.begin(), book.end());
  float gap = 0;
  for (size_t i = 1; i < book.size(); ++i) gap = std::max(gap, book[i] - book[i - 1]);
  return gap;
}

TEST(QuantSpecTextTest, ParsesAndFormatsEveryForm) {
  for (const char* text : {"nf4", "fp4", "int4", "int8", "none", "nf4,block=128",
                           "nf4,double_quant=false", "int8,block=4096,double_quant=false"}) {
    ASSERT_OK_AND_ASSIGN(const QuantSpec spec, ParseQuantSpec(text));
    EXPECT_EQ(FormatQuantSpec(spec), text);
  }
  ASSERT_OK_AND_ASSIGN(const QuantSpec spec, ParseQuantSpec("fp4,double_quant=false,block=32"));
  EXPECT_EQ(spec, (QuantSpec{QuantFormat::kFp4, 32, false}));
  ASSERT_OK_AND_ASSIGN(const QuantSpec defaults, ParseQuantSpec("nf4,block=64,double_quant=true"));
  EXPECT_EQ(FormatQuantSpec(defaults), "nf4");
}

TEST(QuantSpecTextTest, RefusesWhatItDoesNotKnowByName) {
  const auto refused = [](const char* text, const char* part) {
    EXPECT_THAT(ParseQuantSpec(text), StatusIs(absl::StatusCode::kInvalidArgument, part)) << text;
  };
  refused("", "unknown format \"\"");
  refused("nf5", "\"nf5\"");
  refused("NF4", "\"NF4\"");
  refused("nf4,block", "\"block\"");
  refused("nf4,block=abc", "\"block=abc\"");
  refused("nf4,block=16", "block 16");
  refused("nf4,block=8192", "block 8192");
  refused("nf4,block=96", "block 96");
  refused("nf4,double_quant=maybe", "\"double_quant=maybe\"");
  refused("nf4,nested=1", "\"nested=1\"");
}

// The entries from their definition, in double: for each power of ten the midpoints of a division
// of [0.1, 1] into 2^exponent parts, or twice as many without sign.
std::vector<double> DynamicEntries(bool is_signed) {
  std::vector<double> entries = {0, 1};
  for (int exponent = 0; exponent < 7; ++exponent) {
    const int parts = (is_signed ? 1 : 2) << exponent;
    for (int i = 0; i < parts; ++i) {
      const double value = std::pow(10, exponent - 6) * (0.1 + 0.9 * (i + 0.5) / parts);
      entries.push_back(value);
      if (is_signed) entries.push_back(-value);
    }
  }
  std::sort(entries.begin(), entries.end());
  return entries;
}

TEST(DynamicMapTest, HoldsTheEntriesOfItsDefinition) {
  for (const bool is_signed : {true, false}) {
    const std::array<float, 256>& map = is_signed ? DynamicMap() : UnsignedDynamicMap();
    const std::vector<double> entries = DynamicEntries(is_signed);
    ASSERT_EQ(entries.size(), map.size());
    // Ends, step, edge, sum of two edges, power and product: eight roundings at most.
    for (size_t i = 0; i < map.size(); ++i)
      ASSERT_NEAR(map[i], entries[i], 8 * 0x1p-24 * std::abs(entries[i])) << i;
  }
  EXPECT_EQ(DynamicMap()[127], 0);
  EXPECT_EQ(DynamicMap()[255], 1);
  EXPECT_FLOAT_EQ(DynamicMap()[0], -0.99296875f);
  EXPECT_FLOAT_EQ(DynamicMap()[128], 5.5e-7f);
  EXPECT_EQ(UnsignedDynamicMap()[0], 0);
  EXPECT_EQ(UnsignedDynamicMap()[255], 1);
  EXPECT_FLOAT_EQ(UnsignedDynamicMap()[1], 3.25e-7f);
  EXPECT_FLOAT_EQ(UnsignedDynamicMap()[254], 0.996484375f);
}

TEST(QuantizeTest, Int4AndInt8RoundToTheNearestStep) {
  // absmax 7: an int4 step is 1, an int8 step 7/127.
  std::vector<float> values(32, 0.0f);
  const std::vector<float> first = {7, -7, 3.2f, 3.7f, -0.4f, -0.6f, 0, 1};
  std::copy(first.begin(), first.end(), values.begin());
  const QuantizedMatrix int4 = Quantize({QuantFormat::kInt4, 32, false}, 1, 32, values.data());
  EXPECT_EQ(int4.scales, std::vector<float>{7});
  EXPECT_EQ(int4.codes[0], 0x79);  // 7, -7 as two's complement nibbles, the first one high
  EXPECT_EQ(int4.codes[1], 0x34);
  EXPECT_EQ(int4.codes[2], 0x0f);
  EXPECT_EQ(int4.codes[3], 0x01);
  const QuantizedMatrix int8 = Quantize({QuantFormat::kInt8, 32, false}, 1, 32, values.data());
  EXPECT_EQ(int8.codes[0], 128 + 127);
  EXPECT_EQ(int8.codes[1], 128 - 127);
  EXPECT_EQ(int8.codes[2], 128 + std::lround(3.2 * 127 / 7));
  EXPECT_EQ(int8.codes[4], 128 + std::lround(-0.4 * 127 / 7));
  EXPECT_EQ(int8.codes[6], 128);
}

TEST(QuantizeTest, ErrorStaysWithinHalfAGapForEveryFormatAndBlock) {
  const int64_t out = 6, in = 4096 + 37;  // the last block is ragged for every block size
  const std::vector<float> values = Normal(out * in, 1);
  for (QuantFormat format : kFormats) {
    for (int block = 32; block <= 4096; block *= 2) {
      const QuantizedMatrix matrix = Quantize({format, block, false}, out, in, values.data());
      const std::vector<float> decoded = Decode(matrix);
      std::vector<float> book = matrix.code_book;
      // The most negative integer code is not used.
      if (format == QuantFormat::kInt4) book.erase(book.begin() + 8);
      if (format == QuantFormat::kInt8) book.erase(book.begin());
      const float half_gap = LargestGap(book) / 2;
      for (size_t i = 0; i < values.size(); ++i) {
        const float absmax = matrix.scales[i / block];
        // bf16 rounds the decoded value by at most 2^-8 of it; the products by a few 2^-24.
        ASSERT_LE(std::abs(decoded[i] - values[i]), absmax * (half_gap + 0x1p-8f + 0x1p-20f))
            << "format " << static_cast<int>(format) << " block " << block << " element " << i;
      }
    }
  }
}

TEST(QuantizeTest, OnNormalDataNf4BeatsFp4AndInt4AndInt8BeatsAll) {
  const int64_t out = 64, in = 1024;
  const std::vector<float> values = Normal(out * in, 2);
  const auto error = [&](QuantFormat format) {
    return RootMeanSquareError(Decode(Quantize({format, 64, true}, out, in, values.data())),
                               values);
  };
  const double nf4 = error(QuantFormat::kNf4), fp4 = error(QuantFormat::kFp4);
  const double int4 = error(QuantFormat::kInt4), int8 = error(QuantFormat::kInt8);
  EXPECT_LT(nf4, fp4);
  EXPECT_LT(nf4, int4);
  EXPECT_LT(int8, nf4 / 4);
  EXPECT_GT(nf4, 0.05);  // four bits cannot be exact: the comparison compares something
}

TEST(QuantizeTest, DoubleQuantisationMovesScalesByItsOwnErrorOnly) {
  const int64_t out = 300, in = 64;  // 300 blocks: two nested blocks, the second ragged
  const std::vector<float> values = Normal(out * in, 3);
  const QuantizedMatrix single = Quantize({QuantFormat::kNf4, 64, false}, out, in, values.data());
  const QuantizedMatrix nested = Quantize({QuantFormat::kNf4, 64, true}, out, in, values.data());
  EXPECT_EQ(nested.codes, single.codes);
  ASSERT_EQ(nested.scales_u8.size(), 300u);
  ASSERT_EQ(nested.nested_scales.size(), 2u);
  EXPECT_TRUE(nested.scales.empty());
  for (size_t b = 0; b < 300; ++b) {
    const float scale = nested.nested_code[nested.scales_u8[b]] * nested.nested_scales[b / 256] +
                        nested.nested_offset;
    // Neighbours of the dynamic map lie at most 0.9 / 64 apart; half of it is the error.
    EXPECT_NEAR(scale, single.scales[b], nested.nested_scales[b / 256] * 0.45 / 64 + 1e-6);
  }
}

TEST(QuantizeTest, DecodedValuesEncodeToTheSameCodes) {
  const int64_t out = 16, in = 256;
  const std::vector<float> values = Normal(out * in, 4);
  // Not int8: its steps are as small as the bf16 rounding of what is decoded.
  for (QuantFormat format : {QuantFormat::kNf4, QuantFormat::kFp4, QuantFormat::kInt4}) {
    const QuantSpec spec = {format, 64, false};
    const QuantizedMatrix once = Quantize(spec, out, in, values.data());
    const QuantizedMatrix twice = Quantize(spec, out, in, Decode(once).data());
    ASSERT_EQ(twice.codes.size(), once.codes.size());
    for (size_t i = 0; i < once.codes.size(); ++i) {
      // By value: fp4 has two codes of zero.
      const uint8_t a = once.codes[i], b = twice.codes[i];
      ASSERT_EQ(once.code_book[a >> 4], once.code_book[b >> 4]) << static_cast<int>(format);
      ASSERT_EQ(once.code_book[a & 15], once.code_book[b & 15]) << static_cast<int>(format);
    }
  }
}

TEST(QuantizeTest, ZeroBlocksDecodeToZeroInEveryFormat) {
  std::vector<float> values(64 * 3, 0.0f);
  for (int i = 64; i < 128; ++i) values[i] = static_cast<float>(i - 90);
  for (QuantFormat format : kFormats) {
    for (bool double_quant : {false, true}) {
      const std::vector<float> decoded =
          Decode(Quantize({format, 64, double_quant}, 3, 64, values.data()));
      for (int i = 0; i < 64; ++i) ASSERT_EQ(decoded[i], 0.0f) << static_cast<int>(format);
      EXPECT_NE(decoded[64], 0.0f);
    }
  }
}

TEST(QuantizeTest, OddNumberOfElementsLeavesTheLastLowNibbleZero) {
  const std::vector<float> values = Normal(33, 5);
  const QuantizedMatrix matrix = Quantize({QuantFormat::kNf4, 32, false}, 1, 33, values.data());
  ASSERT_EQ(matrix.codes.size(), 17u);
  EXPECT_EQ(matrix.codes[16] & 15, 0);
  EXPECT_EQ(matrix.scales.size(), 2u);
  EXPECT_EQ(matrix.scales[1], std::abs(values[32]));
}

TEST(QuantizeTest, PiecesOfWholeBlocksThenScalesAreTheSameAsAtOnce) {
  const int64_t out = 8, in = 128;
  const std::vector<float> values = Normal(out * in, 6);
  const QuantizedMatrix whole = Quantize({QuantFormat::kNf4, 64, true}, out, in, values.data());
  QuantizedMatrix joined = Quantize({QuantFormat::kNf4, 64, false}, 4, in, values.data());
  const QuantizedMatrix rest =
      Quantize({QuantFormat::kNf4, 64, false}, 4, in, values.data() + 4 * in);
  joined.out_features = out;
  joined.codes.insert(joined.codes.end(), rest.codes.begin(), rest.codes.end());
  joined.scales.insert(joined.scales.end(), rest.scales.begin(), rest.scales.end());
  QuantizeScales(joined);
  EXPECT_EQ(joined.codes, whole.codes);
  EXPECT_EQ(joined.scales_u8, whole.scales_u8);
  EXPECT_EQ(joined.nested_scales, whole.nested_scales);
  EXPECT_EQ(joined.nested_offset, whole.nested_offset);
}

TEST(QuantizedBytesTest, CountsWhatTheMatrixHolds) {
  // nf4, block 64, double: 4 + 8/64 + 32/(64 * 256) bits a parameter.
  EXPECT_EQ(QuantizedBytes({QuantFormat::kNf4, 64, true}, 4096, 4096),
            4096 * 4096 / 2 + 4096 * 64 + 4 * 1024);
  EXPECT_EQ(QuantizedBytes({QuantFormat::kNone, 64, false}, 3, 5), 30);
  for (QuantFormat format : kFormats) {
    for (bool double_quant : {false, true}) {
      const QuantSpec spec = {format, 32, double_quant};
      const std::vector<float> values = Normal(7 * 33, 7);
      const QuantizedMatrix matrix = Quantize(spec, 7, 33, values.data());
      const int64_t held = static_cast<int64_t>(
          matrix.codes.size() + matrix.scales_u8.size() +
          sizeof(float) * (matrix.scales.size() + matrix.nested_scales.size()));
      EXPECT_EQ(QuantizedBytes(spec, 7, 33), held);
    }
  }
}

}  // namespace
}  // namespace lorad
