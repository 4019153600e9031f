// Rows of logits, parameters and answers of the sample op, and its definition written out as it
// stands in engine/ops/sample.h: with a full sort and sums from the top.
#ifndef LORAD_TESTS_UNIT_ENGINE_OPS_SAMPLE_FIXTURE_H_
#define LORAD_TESTS_UNIT_ENGINE_OPS_SAMPLE_FIXTURE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/core/float16.h"
#include "engine/ops/sample.h"
#include "engine/ops/sample_weight.h"

namespace lorad {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct SampleAnswers {
  SampleAnswers(int64_t rows, int64_t top)
      : ids(rows, -2),
        top_ids(rows * top, -2),
        logprobs(rows, std::nanf("")),
        top_logprobs(rows * top, std::nanf("")) {}
  std::vector<int32_t> ids, top_ids;
  std::vector<float> logprobs, top_logprobs;
};

// Ids in order of falling logits, among equals of rising id.
inline std::vector<int32_t> LikeliestFirst(const std::vector<float>& logits) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  return order;
}

inline int32_t ReferenceDraw(const std::vector<float>& logits, const DrawParams& params) {
  for (const float logit : logits)
    if (std::isnan(logit) || logit == kInfinity) return -1;
  const std::vector<int32_t> order = LikeliestFirst(logits);
  const float max = logits[order[0]];
  if (max == -kInfinity) return -1;
  if (params.octaves_per_unit == 0) return order[0];
  std::vector<unsigned __int128> weights;
  unsigned __int128 total = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const float logit = logits[order[i]];
    const auto k = static_cast<size_t>(params.top_k);
    if (k > 0 && i >= k && logit < logits[order[k - 1]]) break;
    const uint64_t weight = SampleWeight(max - logit, params.octaves_per_unit);
    if (weight < params.min_weight) break;
    weights.push_back(weight);
    total += weight;
  }
  if (params.top_p != 0) {
    size_t kept = 0;
    unsigned __int128 sum = 0;
    while (kept < weights.size() && (sum << 64) < params.top_p * total) sum += weights[kept++];
    weights.resize(std::max<size_t>(kept, 1));
    total = std::max(sum, weights[0]);
  }
  unsigned __int128 left = SampleBits(params.seed, params.step) * total >> 64;
  size_t i = 0;
  while (left >= weights[i]) left -= weights[i++];
  return order[i];
}

inline double ReferenceLogprob(const std::vector<float>& logits, int32_t id) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - max);
  return logits[id] - max - std::log(sum);
}
// Weights err by 2^-23 (1 + octaves), and what falls below 2^-41 of the largest is not counted: at
// most 2^-17 of 2^24 tokens, but for any real vocabulary, below 2^18, at most 2^-23. The mean of
// the weights' errors under softmax is what the sum errs by; e^-x (1 + x / ln 2) is below 1.5.
inline double LogprobBound(double logprob) { return 0x1p-22 * (4 + std::abs(logprob)); }

// Logits like a model's, as bf16 holds them: many equals. `spread` is the standard deviation.
inline std::vector<float> SomeLogits(int64_t vocab, double spread, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(0, spread);
  std::vector<float> logits(vocab);
  for (float& logit : logits) logit = ToFloat(ToBFloat16(static_cast<float>(normal(random))));
  return logits;
}

// Every filter alone, with each other, and at the ends of its range.
inline std::vector<DrawParams> ManyParams() {
  std::vector<DrawParams> all;
  uint64_t seed = 11;
  for (const double temperature : {0.0, 1e-300, 0.05, 0.7, 1.0, 2.5, 1e300})
    for (const int32_t top_k : {0, 1, 3, 50, 100000000})
      for (const double top_p : {1e-300, 0.3, 0.9, 1 - 0x1p-53, 1.0})
        for (const double min_p : {0.0, 0.02, 1.0})
          all.push_back(MakeDrawParams(temperature, top_k, top_p, min_p, seed++));
  for (size_t i = 0; i < all.size(); ++i) all[i].step = i % 7;
  return all;
}

inline std::string Describe(const DrawParams& p) {
  return absl::StrCat("octaves_per_unit ", p.octaves_per_unit, ", top_k ", p.top_k, ", top_p ",
                      p.top_p, ", min_weight ", p.min_weight, ", seed ", p.seed, ", step ", p.step);
}

}  // namespace lorad

#endif  // LORAD_TESTS_UNIT_ENGINE_OPS_SAMPLE_FIXTURE_H_
