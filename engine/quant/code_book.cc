#include "engine/quant/code_book.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace lorad {
namespace {

// fp32 bit patterns: decimal text would have to be read back to the same bits.
constexpr std::array<uint32_t, 16> kNf4Bits = {
    0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0, 0xbe91a24d, 0xbe3d353f, 0xbdba7871, 0x00000000,
    0x3da2faff, 0x3e24cae3, 0x3e7c04dd, 0x3ead033a, 0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3, 0x3f800000};

// bitsandbytes' order: 0, 1/192, 2/3, 1, 1/3, 1/2, 1/6, 1/4, then the same with the sign.
constexpr std::array<double, 8> kFp4 = {0,        0.0625 / 12, 8.0 / 12, 12.0 / 12,
                                        4.0 / 12, 6.0 / 12,    2.0 / 12, 3.0 / 12};

std::array<float, 256> MakeDynamicMap(bool is_signed) {
  std::array<float, 256> map{};
  int count = 0;
  map[count++] = 0.0f;
  map[count++] = 1.0f;
  for (int exponent = 0; exponent < 7; ++exponent) {
    const int steps = 1 << (is_signed ? exponent : exponent + 1);
    // To the bit as torch.linspace in fp32: up from the start in the first half, down from the end
    // in the rest, with a fused multiply-add.
    const float step = (1.0f - 0.1f) / static_cast<float>(steps);
    const auto edge = [&](int i) {
      return i < (steps + 1) / 2 ? std::fma(step, static_cast<float>(i), 0.1f)
                                 : std::fma(-step, static_cast<float>(steps - i), 1.0f);
    };
    const float power = static_cast<float>(std::pow(10.0, exponent - 6));
    for (int i = 0; i < steps; ++i) {
      const float value = power * ((edge(i) + edge(i + 1)) / 2.0f);
      map[count++] = value;
      if (is_signed) map[count++] = -value;
    }
  }
  std::sort(map.begin(), map.end());
  return map;
}

}  // namespace

std::vector<float> CodeBook(QuantFormat format) {
  std::vector<float> book;
  switch (format) {
    case QuantFormat::kNone:
      break;
    case QuantFormat::kNf4:
      for (uint32_t bits : kNf4Bits) book.push_back(std::bit_cast<float>(bits));
      break;
    case QuantFormat::kFp4:
      for (double value : kFp4) book.push_back(static_cast<float>(value));
      for (double value : kFp4) book.push_back(static_cast<float>(0 - value));  // code 8: +0
      break;
    case QuantFormat::kInt4:
      // Two's complement nibbles: 0..7, then -8 (never written) to -1.
      for (int code = 0; code < 16; ++code) {
        const int value = code < 8 ? code : code - 16;
        book.push_back(static_cast<float>(value) / 7.0f);
      }
      break;
    case QuantFormat::kInt8:
      for (int code = -128; code < 128; ++code) book.push_back(static_cast<float>(code) / 127.0f);
      break;
  }
  return book;
}

const std::array<float, 256>& DynamicMap() {
  static const std::array<float, 256> map = MakeDynamicMap(/*is_signed=*/true);
  return map;
}

const std::array<float, 256>& UnsignedDynamicMap() {
  static const std::array<float, 256> map = MakeDynamicMap(/*is_signed=*/false);
  return map;
}

}  // namespace lorad
