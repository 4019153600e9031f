// The arithmetic of sampling: keys that order logits, and weights that are whole numbers, so that
// their sums do not depend on the order of summation and every device draws the same token.
// No Abseil, no CUDA headers: shared by .cc and .cu files.
#ifndef LORAD_ENGINE_OPS_SAMPLE_WEIGHT_H_
#define LORAD_ENGINE_OPS_SAMPLE_WEIGHT_H_

#include <cmath>
#include <cstdint>

#include "engine/core/philox.h"

namespace lorad {

// Larger numbers have larger keys, equal numbers (0 and -0, too) the same; NaN has the largest. The
// upper 16 bits are the key of a number that bf16 holds.
LORAD_HOST_DEVICE inline uint32_t SampleKey(float logit) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, logit);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0xffffffffu;
  if (magnitude == 0) return 0x80000000u;
  return bits == magnitude ? bits | 0x80000000u : ~bits;
}
// REQUIRES: the key of a number.
LORAD_HOST_DEVICE inline float LogitOfSampleKey(uint32_t key) {
  const uint32_t bits = (key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key;
  return __builtin_bit_cast(float, bits);
}
inline constexpr uint32_t kSampleKeyOfInfinity = 0xff800000u;
inline constexpr uint32_t kSampleKeyOfMinusInfinity = 0x007fffffu;

// The upper half of a product.
LORAD_HOST_DEVICE inline uint32_t HighProduct(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(uint64_t{a} * b >> 32);
}
LORAD_HOST_DEVICE inline uint64_t HighProduct(uint64_t a, uint64_t b) {
  const uint64_t a0 = a & 0xffffffffu, a1 = a >> 32, b0 = b & 0xffffffffu, b1 = b >> 32;
  const uint64_t middle = a1 * b0 + (a0 * b0 >> 32), other = a0 * b1 + (middle & 0xffffffffu);
  return a1 * b1 + (middle >> 32) + (other >> 32);
}

// The weight of the largest logit. With fewer than 2^24 tokens no sum overflows.
inline constexpr int kSampleWeightBits = 40;
inline constexpr uint64_t kLargestSampleWeight = uint64_t{1} << kSampleWeightBits;
inline constexpr int64_t kMaxSampleVocab = (int64_t{1} << 24) - 1;
// Octaves below the largest logit from which on a weight is 0.
inline constexpr float kSampleOctaves = kSampleWeightBits + 1;
// As `octaves_per_unit`: the model's own distribution, temperature 1.
inline constexpr float kLog2E = 1.44269504f;

// floor(2^40 * 2^(-below * octaves_per_unit)) but for a relative error of 2^-23 (1 + octaves) and
// one unit; never larger for a larger `below`. `below` >= 0 is the distance from the largest logit
// and may be infinite; octaves_per_unit > 0 is log2(e) / temperature. The distance becomes a
// fixed-point number with 26 fractional bits; the fraction f goes through a polynomial in [0, 1)
// that meets 2^-f at both ends and at five points between, and errs by 2^-27.6 at most.
LORAD_HOST_DEVICE inline uint64_t SampleWeight(float below, float octaves_per_unit) {
  const float octaves = below * octaves_per_unit;
  if (!(octaves < kSampleOctaves)) return 0;
  const auto fixed = static_cast<uint32_t>(octaves * 0x1p26f);
  const uint32_t f = fixed << 6;
  uint32_t sum = 0x00072b38u;
  sum = 0x0053a651u - HighProduct(f, sum);
  sum = 0x0273f327u - HighProduct(f, sum);
  sum = 0x0e34c20au - HighProduct(f, sum);
  sum = 0x3d7f60d9u - HighProduct(f, sum);
  sum = 0xb17216dbu - HighProduct(f, sum);
  const uint32_t power = 0x80000000u - (HighProduct(f, sum) >> 1);  // 31 fractional bits
  return (uint64_t{power} << (kSampleWeightBits - 31)) >> (fixed >> 26);
}

// 64 random bits for token number `step` of a sequence.
LORAD_HOST_DEVICE inline uint64_t SampleBits(uint64_t seed, uint64_t step) {
  // Sets the sampler's numbers apart from other users of the same seed (LoRA init, dropout).
  constexpr uint32_t kStream = 0x73616d70;  // "samp"
  const PhiloxBlock block =
      Philox4x32(seed, static_cast<uint32_t>(step), static_cast<uint32_t>(step >> 32), kStream, 0);
  return uint64_t{block.words[0]} << 32 | block.words[1];
}

// The least whole weight that reaches the share `fraction` / 2^64 of `total`; at least 1.
LORAD_HOST_DEVICE inline uint64_t ShareOfWeight(uint64_t fraction, uint64_t total) {
  const uint64_t share = HighProduct(fraction, total) + (fraction * total != 0 ? 1 : 0);
  return share > 0 ? share : 1;
}

// Where `sum` is the sum of all weights at temperature 1: the logarithm of the sum of
// e^(logit - max), and with it the log-probability of a logit.
LORAD_HOST_DEVICE inline double LogOfSampleWeights(uint64_t sum) {
  return std::log(static_cast<double>(sum) / static_cast<double>(kLargestSampleWeight));
}
LORAD_HOST_DEVICE inline float SampleLogprob(float logit, float max, double log_sum) {
  return static_cast<float>(double{logit} - double{max} - log_sum);
}

}  // namespace lorad

#endif  // LORAD_ENGINE_OPS_SAMPLE_WEIGHT_H_
