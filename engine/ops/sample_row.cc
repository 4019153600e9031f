#include "engine/ops/sample_row.h"

#include <algorithm>

#include "engine/ops/sample_weight.h"

namespace lorad {
namespace {

uint64_t Token(float logit, size_t id) { return uint64_t{~SampleKey(logit)} << 32 | id; }
float LogitOf(uint64_t token) { return LogitOfSampleKey(~static_cast<uint32_t>(token >> 32)); }
int32_t IdOf(uint64_t token) { return static_cast<int32_t>(token & 0xffffffffu); }

uint32_t LargestKey(absl::Span<const float> logits) {
  uint32_t largest = 0;
  for (const float logit : logits) largest = std::max(largest, SampleKey(logit));
  return largest;
}

}  // namespace

uint64_t RowSampler::WeightOf(uint64_t token) const {
  return SampleWeight(max_ - LogitOf(token), octaves_per_unit_);
}

uint64_t RowSampler::SumOfWeights(size_t begin, size_t end) const {
  uint64_t sum = 0;
  for (size_t i = begin; i < end; ++i) sum += WeightOf(order_[i]);
  return sum;
}

uint64_t RowSampler::CollectCandidates(absl::Span<const float> logits, uint64_t min_weight) {
  order_.clear();
  uint64_t sum = 0;
  for (size_t id = 0; id < logits.size(); ++id) {
    const uint64_t weight = SampleWeight(max_ - logits[id], octaves_per_unit_);
    if (weight < min_weight) continue;
    order_.push_back(Token(logits[id], id));
    sum += weight;
  }
  return sum;
}

bool RowSampler::KeepTopK(size_t k) {
  if (k == 0 || k >= order_.size()) return false;
  std::nth_element(order_.begin(), order_.begin() + static_cast<int64_t>(k - 1), order_.end());
  const float threshold = LogitOf(order_[k - 1]);
  return std::erase_if(order_, [&](uint64_t token) { return LogitOf(token) < threshold; }) > 0;
}

// The token on whose weight `target` falls: a quickselect that counts weights. It splits off a
// quarter, for that holds most of the weight. REQUIRES: target < the sum of all weights.
RowSampler::Place RowSampler::Find(uint64_t target) {
  size_t begin = 0, end = order_.size();
  uint64_t before = 0;
  while (end - begin > 1) {
    const size_t middle = begin + std::max<size_t>((end - begin) / 4, 1);
    const auto at = [this](size_t i) { return order_.begin() + static_cast<int64_t>(i); };
    std::nth_element(at(begin), at(middle), at(end));
    const uint64_t quarter = SumOfWeights(begin, middle);
    if (target < before + quarter) {
      end = middle;
    } else {
      before += quarter;
      begin = middle;
    }
  }
  return {begin, before, WeightOf(order_[begin])};
}

int32_t RowSampler::Draw(absl::Span<const float> logits, const DrawParams& params) {
  const uint32_t largest = LargestKey(logits);
  if (largest >= kSampleKeyOfInfinity || largest <= kSampleKeyOfMinusInfinity) return -1;
  max_ = LogitOfSampleKey(largest);
  if (params.octaves_per_unit == 0) {
    return static_cast<int32_t>(std::find(logits.begin(), logits.end(), max_) - logits.begin());
  }
  octaves_per_unit_ = params.octaves_per_unit;
  uint64_t kept = CollectCandidates(logits, params.min_weight);
  if (KeepTopK(static_cast<size_t>(params.top_k))) kept = SumOfWeights(0, order_.size());
  if (params.top_p != 0) {
    const Place last = Find(ShareOfWeight(params.top_p, kept) - 1);
    kept = last.before + last.weight;
  }
  const Place drawn = Find(HighProduct(SampleBits(params.seed, params.step), kept));
  return IdOf(order_[drawn.index]);
}

RowSampler::Logprobs RowSampler::LogprobsOf(absl::Span<const float> logits, int32_t id,
                                            int32_t top) {
  max_ = LogitOfSampleKey(LargestKey(logits));
  uint64_t sum = 0;
  for (const float logit : logits) sum += SampleWeight(max_ - logit, kLog2E);
  const double log_sum = LogOfSampleWeights(sum);
  const auto logprob = [&](float logit) { return SampleLogprob(logit, max_, log_sum); };
  Logprobs result{.drawn = logprob(logits[id]), .top = {}};
  if (top == 0) return result;

  order_.clear();
  for (size_t i = 0; i < logits.size(); ++i) order_.push_back(Token(logits[i], i));
  const auto last = order_.begin() + std::min<int64_t>(top, static_cast<int64_t>(order_.size()));
  std::partial_sort(order_.begin(), last, order_.end());
  for (auto token = order_.begin(); token != last; ++token)
    result.top.emplace_back(IdOf(*token), logprob(LogitOf(*token)));
  return result;
}

}  // namespace lorad
