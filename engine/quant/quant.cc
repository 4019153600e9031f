#include "engine/quant/quant.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/core/check.h"
#include "engine/core/checked_math.h"
#include "engine/quant/code_book.h"

namespace lorad {
namespace {

// bitsandbytes' guard against a division by zero: an all-zero block gets the code of zero.
constexpr float kSmallestAbsmax = 1e-38f;

// Code of each value in order of the values, and the thresholds between neighbours.
struct Encoder {
  std::vector<float> thresholds;  // ascending
  std::vector<uint8_t> codes;     // codes[i]: the code of the i-th smallest book value

  explicit Encoder(const std::vector<float>& book, QuantFormat format) {
    std::vector<int> order(book.size());
    std::iota(order.begin(), order.end(), 0);
    // Absmax formats are symmetric: the most negative code is not used.
    if (format == QuantFormat::kInt4) std::erase(order, 8);
    if (format == QuantFormat::kInt8) std::erase(order, 0);
    // Stable: fp4 has two zeros, and bitsandbytes gives small positive values the second.
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return book[a] < book[b]; });
    for (size_t i = 0; i < order.size(); ++i) {
      codes.push_back(static_cast<uint8_t>(order[i]));
      if (i + 1 < order.size()) {
        thresholds.push_back(static_cast<float>((double{book[order[i]]} + book[order[i + 1]]) / 2));
      }
    }
  }
  // Codes of values * inverse. Strictly greater: a tie takes the lower value.
  void Encode(const float* values, int64_t count, float inverse, uint8_t* out) const {
    if (thresholds.size() > 16) {
      for (int64_t i = 0; i < count; ++i) {
        const float value = values[i] * inverse;
        const auto above = std::lower_bound(thresholds.begin(), thresholds.end(), value);
        out[i] = codes[above - thresholds.begin()];
      }
      return;
    }
    // Few thresholds: counting those below each value takes no branch and fills vector registers,
    // ten times faster than a search.
    constexpr int64_t kRun = 64;
    for (int64_t begin = 0; begin < count; begin += kRun) {
      const int64_t run = std::min(kRun, count - begin);
      float scaled[kRun] = {};
      int32_t below[kRun] = {};
      for (int64_t i = 0; i < run; ++i) scaled[i] = values[begin + i] * inverse;
      for (const float threshold : thresholds) {
        for (int64_t i = 0; i < kRun; ++i) below[i] += scaled[i] > threshold ? 1 : 0;
      }
      for (int64_t i = 0; i < run; ++i) out[begin + i] = codes[below[i]];
    }
  }
};

// The nearest value of the dynamic map; a tie takes the lower.
uint8_t DynamicCode(float value) {
  const auto& map = DynamicMap();
  const auto above = std::lower_bound(map.begin(), map.end(), value);
  if (above == map.begin()) return 0;
  if (above == map.end()) return 255;
  const float midpoint = (above[-1] + above[0]) / 2.0f;
  return static_cast<uint8_t>(above - map.begin() - (value > midpoint ? 0 : 1));
}

}  // namespace

QuantizedMatrix Quantize(const QuantSpec& spec, int64_t out_features, int64_t in_features,
                         const float* values) {
  LORAD_CHECK(spec.format != QuantFormat::kNone);
  QuantizedMatrix matrix;
  matrix.spec = spec;
  matrix.out_features = out_features;
  matrix.in_features = in_features;
  matrix.code_book = CodeBook(spec.format);
  const Encoder encoder(matrix.code_book, spec.format);
  const int64_t count = out_features * in_features;
  const bool nibbles = CodeBits(spec.format) == 4;
  matrix.codes.assign(nibbles ? CeilDiv(count, 2) : count, 0);
  std::vector<float> scales(CeilDiv(count, spec.block));
  std::vector<uint8_t> block_codes(spec.block);
  for (int64_t block = 0; block < static_cast<int64_t>(scales.size()); ++block) {
    const int64_t begin = block * spec.block, end = std::min<int64_t>(begin + spec.block, count);
    float absmax = 0;
    for (int64_t i = begin; i < end; ++i) absmax = std::max(absmax, std::abs(values[i]));
    scales[block] = absmax;
    const float inverse = 1.0f / std::max(absmax, kSmallestAbsmax);
    uint8_t* codes = nibbles ? block_codes.data() : matrix.codes.data() + begin;
    encoder.Encode(values + begin, end - begin, inverse, codes);
    // Blocks have an even number of elements, so a byte never holds codes of two blocks; the last
    // nibble of an odd matrix is 0.
    if (nibbles && (end - begin) % 2 != 0) block_codes[end - begin] = 0;
    for (int64_t i = begin; nibbles && i < end; i += 2)
      matrix.codes[i / 2] = static_cast<uint8_t>(codes[i - begin] << 4 | codes[i - begin + 1]);
  }
  matrix.scales = std::move(scales);
  if (spec.double_quant) QuantizeScales(matrix);
  return matrix;
}

void QuantizeScales(QuantizedMatrix& matrix) {
  const std::vector<float> scales = std::move(matrix.scales);
  matrix.scales.clear();
  matrix.nested_scales.clear();
  matrix.spec.double_quant = true;
  const int64_t count = static_cast<int64_t>(scales.size());
  const double sum = std::accumulate(scales.begin(), scales.end(), 0.0);
  matrix.nested_offset = static_cast<float>(sum / static_cast<double>(count));
  matrix.nested_code.assign(DynamicMap().begin(), DynamicMap().end());
  matrix.scales_u8.resize(count);
  for (int64_t begin = 0; begin < count; begin += kNestedBlock) {
    const int64_t end = std::min<int64_t>(begin + kNestedBlock, count);
    float largest = 0;
    for (int64_t i = begin; i < end; ++i)
      largest = std::max(largest, std::abs(scales[i] - matrix.nested_offset));
    matrix.nested_scales.push_back(largest);
    const float inverse = 1.0f / largest;
    for (int64_t i = begin; i < end; ++i) {
      const float centred = scales[i] - matrix.nested_offset;
      // All scales equal: bitsandbytes writes code 0, and nothing is added to the mean.
      matrix.scales_u8[i] = largest == 0 ? 0 : DynamicCode(centred * inverse);
    }
  }
}

WeightView QuantizedMatrix::View() const {
  const auto view = []<typename T>(const std::vector<T>& values) {
    if (values.empty()) return ConstTensorView();
    return ConstTensorView(values.data(), DTypeOf<T>, {static_cast<int64_t>(values.size())});
  };
  WeightView weight;
  weight.spec = spec;
  weight.out_features = out_features;
  weight.in_features = in_features;
  weight.codes = view(codes);
  weight.code_book = view(code_book);
  weight.scales = view(scales);
  weight.scales_u8 = view(scales_u8);
  weight.nested_scales = view(nested_scales);
  weight.nested_code = view(nested_code);
  weight.nested_offset = nested_offset;
  return weight;
}

int64_t QuantizedBytes(const QuantSpec& spec, int64_t out_features, int64_t in_features) {
  const int64_t count = out_features * in_features;
  if (spec.format == QuantFormat::kNone) return 2 * count;
  const int64_t blocks = CeilDiv(count, spec.block);
  const int64_t codes = CeilDiv(count * CodeBits(spec.format), 8);
  return codes + (spec.double_quant ? blocks + 4 * CeilDiv(blocks, kNestedBlock) : 4 * blocks);
}

}  // namespace lorad
