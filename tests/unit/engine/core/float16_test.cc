#include "engine/core/float16.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace lorad {
namespace {

TEST(Float16Test, EveryHalfSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const Float16 half{static_cast<uint16_t>(bits)};
    const float value = ToFloat(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(ToFloat(ToFloat16(value))));
    } else {
      ASSERT_EQ(ToFloat16(value).bits, half.bits) << value;
    }
  }
}

TEST(Float16Test, HalfRoundsToNearestEven) {
  EXPECT_EQ(ToFloat16(1.0f).bits, 0x3c00);
  EXPECT_EQ(ToFloat16(1.0f + 0x1p-11f).bits, 0x3c00);      // tie, even below
  EXPECT_EQ(ToFloat16(1.0f + 3 * 0x1p-11f).bits, 0x3c02);  // tie, even above
  EXPECT_EQ(ToFloat16(65519.0f).bits, 0x7bff);             // largest that does not overflow
  EXPECT_EQ(ToFloat16(65520.0f).bits, 0x7c00);             // rounds to infinity
  EXPECT_EQ(ToFloat16(0x1p-24f).bits, 0x0001);             // smallest subnormal
  EXPECT_EQ(ToFloat16(0x1p-25f).bits, 0x0000);             // tie with zero goes to even
  EXPECT_EQ(ToFloat16(-0x1.8p-24f).bits, 0x8002);          // tie goes to even
}

TEST(Float16Test, BFloat16RoundsToNearestEven) {
  EXPECT_EQ(ToBFloat16(1.0f).bits, 0x3f80);
  EXPECT_EQ(ToBFloat16(1.0f + 0x1p-8f).bits, 0x3f80);
  EXPECT_EQ(ToBFloat16(1.0f + 3 * 0x1p-8f).bits, 0x3f82);
  EXPECT_EQ(ToBFloat16(std::numeric_limits<float>::infinity()).bits, 0x7f80);
  EXPECT_TRUE(std::isnan(ToFloat(ToBFloat16(std::nanf("")))));
}

}  // namespace
}  // namespace lorad
