#include "engine/infer/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_format.h"
#include "engine/core/philox.h"
#include "engine/core/status_macros.h"

namespace lorad {
namespace {

// Sets the sampler's numbers apart from other users of the same seed (LoRA init, dropout).
constexpr uint32_t kPhiloxStream = 0x73616d70;  // "samp"

absl::Status OutOfRange(const char* name, double value, const char* range) {
  return absl::InvalidArgumentError(absl::StrFormat("%s is %g; it must be %s", name, value, range));
}

// Uniform in [0, 1) with 53 random bits.
double Uniform(uint64_t seed, uint64_t step) {
  const PhiloxBlock block = Philox4x32(seed, static_cast<uint32_t>(step),
                                       static_cast<uint32_t>(step >> 32), kPhiloxStream, 0);
  const uint64_t bits = uint64_t{block.words[0]} << 32 | block.words[1];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace

absl::Status Validate(const SamplingParams& params) {
  const auto within = [](double value, double low, double high) {
    return value >= low && value <= high;  // false for NaN
  };
  if (!within(params.temperature, 0, std::numeric_limits<double>::max()))
    return OutOfRange("temperature", params.temperature, "a finite number >= 0 (0: greedy)");
  if (params.top_k < 0) return OutOfRange("top_k", params.top_k, ">= 0 (0: all tokens)");
  if (!within(params.top_p, std::numeric_limits<double>::min(), 1))
    return OutOfRange("top_p", params.top_p, "in (0, 1]");
  if (!within(params.min_p, 0, 1)) return OutOfRange("min_p", params.min_p, "in [0, 1]");
  if (!within(params.repetition_penalty, std::numeric_limits<float>::min(),
              std::numeric_limits<float>::max()))
    return OutOfRange("repetition_penalty", params.repetition_penalty, "a finite number > 0");
  if (!within(params.presence_penalty, -2, 2))
    return OutOfRange("presence_penalty", params.presence_penalty, "in [-2, 2]");
  if (!within(params.frequency_penalty, -2, 2))
    return OutOfRange("frequency_penalty", params.frequency_penalty, "in [-2, 2]");
  return absl::OkStatus();
}

Sampler::Sampler(const SamplingParams& params, absl::Span<const int32_t> prompt, int64_t vocab)
    : params_(params) {
  if (params.repetition_penalty != 1) {
    seen_.assign(vocab, false);
    for (int32_t id : prompt) seen_[id] = true;
  }
  if (params.presence_penalty != 0 || params.frequency_penalty != 0) occurrences_.assign(vocab, 0);
}

void Sampler::Accept(int32_t id) {
  if (!seen_.empty()) seen_[id] = true;
  if (occurrences_.empty()) return;
  if (occurrences_[id]++ == 0) accepted_.push_back(id);
}

absl::Span<const float> Sampler::Penalise(absl::Span<const float> logits) {
  if (seen_.empty() && occurrences_.empty()) return logits;
  penalised_.assign(logits.begin(), logits.end());
  const float repetition = static_cast<float>(params_.repetition_penalty);
  for (size_t id = 0; id < seen_.size(); ++id) {
    if (!seen_[id]) continue;
    float& logit = penalised_[id];
    logit = logit > 0 ? logit / repetition : logit * repetition;
  }
  for (int32_t id : accepted_) {
    penalised_[id] -=
        static_cast<float>(params_.frequency_penalty * occurrences_[id] + params_.presence_penalty);
  }
  return penalised_;
}

absl::Span<const float> Sampler::Mask(absl::Span<const float> logits, const TokenMask* allowed) {
  if (allowed == nullptr) return logits;
  masked_.assign(logits.size(), -std::numeric_limits<float>::infinity());
  allowed->ForEach([&](int32_t id) { masked_[id] = logits[id]; });
  return masked_;
}

absl::StatusOr<int32_t> Sampler::Draw(absl::Span<const float> logits, uint64_t step,
                                      const TokenMask* allowed) {
  const absl::Span<const float> z = Penalise(Mask(logits, allowed));
  int32_t best = -1;
  float max = -std::numeric_limits<float>::infinity();
  for (size_t id = 0; id < z.size(); ++id) {
    if (z[id] > max) {
      max = z[id];
      best = static_cast<int32_t>(id);
    }
  }
  if (best < 0 || !std::isfinite(max)) {
    return absl::InternalError(absl::StrFormat(
        "no finite largest logit at output token %d: the model or its adapter overflows", step));
  }
  if (params_.temperature == 0) return best;

  candidates_.clear();
  // What min-p drops is dropped here: it needs the largest alone. exp(-inf) is 0 and goes too.
  const double floor = std::max(params_.min_p, std::numeric_limits<double>::min());
  for (size_t id = 0; id < z.size(); ++id) {
    const double weight = std::exp((double{z[id]} - max) / params_.temperature);
    if (weight >= floor) candidates_.push_back({static_cast<int32_t>(id), z[id], weight});
  }
  DropUnlikely();
  return DrawFromCandidates(step);
}

void Sampler::DropUnlikely() {
  const size_t k = params_.top_k;
  if (k > 0 && k < candidates_.size()) {
    const auto larger = [](const Candidate& a, const Candidate& b) { return a.logit > b.logit; };
    std::nth_element(candidates_.begin(), candidates_.begin() + (k - 1), candidates_.end(), larger);
    const float threshold = candidates_[k - 1].logit;
    std::erase_if(candidates_, [&](const Candidate& c) { return c.logit < threshold; });
  }
  if (params_.top_p < 1) {
    std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
      return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
    });
    double total = 0;
    for (const Candidate& c : candidates_) total += c.weight;
    double sum = 0;
    size_t kept = 0;
    while (kept < candidates_.size() && sum < params_.top_p * total)
      sum += candidates_[kept++].weight;
    candidates_.resize(std::max<size_t>(kept, 1));
  }
  // Back in order of id, so that the draw does not depend on how the candidates were found.
  if (k > 0 || params_.top_p < 1) {
    std::sort(candidates_.begin(), candidates_.end(),
              [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  }
}

int32_t Sampler::DrawFromCandidates(uint64_t step) {
  double total = 0;
  for (const Candidate& c : candidates_) total += c.weight;
  double rest = Uniform(params_.seed, step) * total;
  for (const Candidate& c : candidates_) {
    rest -= c.weight;
    if (rest < 0) return c.id;
  }
  return candidates_.back().id;  // rounding left a rest
}

TokenLogprob LogprobOf(absl::Span<const float> logits, int32_t id, int32_t top) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(double{logit} - max);
  const double log_sum = max + std::log(sum);

  TokenLogprob result{id, static_cast<float>(double{logits[id]} - log_sum), {}};
  const size_t count = std::min<size_t>(std::max(top, 0), logits.size());
  std::vector<int32_t> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  for (size_t i = 0; i < count; ++i) {
    const double logprob = double{logits[order[i]]} - log_sum;
    result.top.emplace_back(order[i], static_cast<float>(logprob));
  }
  return result;
}

}  // namespace lorad
