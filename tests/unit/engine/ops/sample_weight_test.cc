#include "engine/ops/sample_weight.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "engine/core/float16.h"
#include "gtest/gtest.h"

namespace lorad {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(SampleWeightTest, IsAPowerOfTwoWithinItsBound) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(0.0f, 41.5f);
  for (int i = 0; i < 1000000; ++i) {
    const float octaves = uniform(random);
    const double exact = std::exp2(40.0 - double{octaves});
    const double bound = 0x1p-23 * (1 + double{octaves}) * exact + 1;
    ASSERT_NEAR(static_cast<double>(SampleWeight(octaves, 1.0f)), exact, bound) << octaves;
  }
}

TEST(SampleWeightTest, ScalesTheDistance) {
  // ln 2 below the largest, at temperature 1 and at 1/2.
  const float below = std::log(2.0f);
  EXPECT_NEAR(static_cast<double>(SampleWeight(below, kLog2E)) * 0x1p-40, 0.5, 0x1p-22);
  EXPECT_NEAR(static_cast<double>(SampleWeight(below, 2 * kLog2E)) * 0x1p-40, 0.25, 0x1p-22);
}

// Every fixed-point fraction of one octave, and the borders of all: the sort by key and the sums by
// weight would part ways if a smaller logit could weigh more.
TEST(SampleWeightTest, NeverGrowsWithTheDistance) {
  uint64_t before = kLargestSampleWeight + 1;
  for (uint32_t fixed = 0; fixed <= 1u << 26; fixed += 1) {
    const uint64_t weight = SampleWeight(static_cast<float>(fixed) * 0x1p-26f, 1.0f);
    ASSERT_LE(weight, before) << fixed;
    before = weight;
  }
  for (float octave = 1; octave <= 41; ++octave) {
    const float above = std::nextafter(octave, 0.0f);
    EXPECT_GE(SampleWeight(above, 1.0f), SampleWeight(octave, 1.0f)) << octave;
    if (octave < 41) {
      EXPECT_EQ(SampleWeight(octave, 1.0f), kLargestSampleWeight >> static_cast<int>(octave));
    }
  }
}

TEST(SampleWeightTest, EndsOfTheRange) {
  constexpr float kLeast = std::numeric_limits<float>::min();
  constexpr float kMost = std::numeric_limits<float>::max();
  EXPECT_EQ(SampleWeight(0, kLog2E), kLargestSampleWeight);
  EXPECT_EQ(SampleWeight(0, kMost), kLargestSampleWeight);
  EXPECT_EQ(SampleWeight(0, kLeast), kLargestSampleWeight);
  EXPECT_EQ(SampleWeight(kInf, kLeast), 0);
  EXPECT_EQ(SampleWeight(kMost, kMost), 0);
  EXPECT_EQ(SampleWeight(41, 1), 0);
  EXPECT_EQ(SampleWeight(std::nanf(""), 1), 0);
}

TEST(SampleKeyTest, OrdersNumbersAndComesBack) {
  const std::vector<float> ascending = {-kInf,  -3e38f, -1.5f, -1e-40f, 0,
                                        1e-40f, 0.5f,   1.0f,  3e38f,   kInf};
  for (size_t i = 0; i + 1 < ascending.size(); ++i)
    EXPECT_LT(SampleKey(ascending[i]), SampleKey(ascending[i + 1])) << ascending[i];
  for (const float value : ascending) EXPECT_EQ(LogitOfSampleKey(SampleKey(value)), value);
  EXPECT_EQ(SampleKey(-0.0f), SampleKey(0.0f));
  EXPECT_EQ(SampleKey(kInf), kSampleKeyOfInfinity);
  EXPECT_EQ(SampleKey(-kInf), kSampleKeyOfMinusInfinity);
  for (const float sign : {1.0f, -1.0f})
    EXPECT_GT(SampleKey(std::copysign(std::nanf(""), sign)), kSampleKeyOfInfinity);
}

TEST(SampleKeyTest, TheUpperHalfIsTheKeyOfABFloat16) {
  std::vector<bool> taken(1 << 16, false);
  for (uint32_t bits = 0; bits < 1 << 16; ++bits) {
    const float value = ToFloat(BFloat16{static_cast<uint16_t>(bits)});
    if (std::isnan(value) || bits == 0x8000) continue;  // -0 has the key of 0
    const uint32_t key = SampleKey(value) >> 16;
    EXPECT_FALSE(taken[key]) << value;
    taken[key] = true;
  }
}

TEST(SampleArithmeticTest, HighProductIsTheUpperHalf) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 100000; ++i) {
    const uint64_t a = random() >> (i % 64), b = random() >> (i / 64 % 64);
    ASSERT_EQ(HighProduct(a, b),
              static_cast<uint64_t>(static_cast<unsigned __int128>(a) * b >> 64));
  }
  EXPECT_EQ(HighProduct(~uint64_t{0}, ~uint64_t{0}), ~uint64_t{0} - 1);
}

TEST(SampleArithmeticTest, ShareOfWeightRoundsUpAndIsNeverNothing) {
  EXPECT_EQ(ShareOfWeight(uint64_t{1} << 63, 10), 5);
  EXPECT_EQ(ShareOfWeight(uint64_t{1} << 63, 11), 6);
  EXPECT_EQ(ShareOfWeight((uint64_t{1} << 63) + 1, 10), 6);
  EXPECT_EQ(ShareOfWeight(1, 10), 1);
  EXPECT_EQ(ShareOfWeight(~uint64_t{0}, 10), 10);
}

TEST(SampleArithmeticTest, BitsAreAFunctionOfSeedAndStep) {
  EXPECT_EQ(SampleBits(1, 2), SampleBits(1, 2));
  EXPECT_NE(SampleBits(1, 2), SampleBits(1, 3));
  EXPECT_NE(SampleBits(1, 2), SampleBits(2, 2));
  EXPECT_NE(SampleBits(1, 0), SampleBits(1, uint64_t{1} << 32));
}

}  // namespace
}  // namespace lorad
