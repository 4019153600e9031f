#include "engine/infer/sampler.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/ops/sample.h"

namespace lorad {
namespace {

absl::Status OutOfRange(const char* name, double value, const char* range) {
  return absl::InvalidArgumentError(absl::StrFormat("%s is %g; it must be %s", name, value, range));
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

// NaN and +infinity stay where they are: they spoil the whole row.
absl::Span<const float> Sampler::Mask(absl::Span<const float> logits, const TokenMask* allowed) {
  if (allowed == nullptr) return logits;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  masked_.resize(logits.size());
  for (size_t id = 0; id < logits.size(); ++id)
    masked_[id] = logits[id] < kInfinity ? -kInfinity : logits[id];
  allowed->ForEach([&](int32_t id) { masked_[id] = logits[id]; });
  return masked_;
}

DrawParams Sampler::ParamsOf(uint64_t step) const {
  DrawParams draw = MakeDrawParams(params_.temperature, params_.top_k, params_.top_p, params_.min_p,
                                   params_.seed);
  draw.step = step;
  return draw;
}

absl::StatusOr<int32_t> Sampler::Draw(absl::Span<const float> logits, uint64_t step,
                                      const TokenMask* allowed) {
  const int32_t id = row_sampler_.Draw(Penalise(Mask(logits, allowed)), ParamsOf(step));
  if (id < 0) return LogitsAreNotNumbers(step);
  return id;
}

absl::Status LogitsAreNotNumbers(uint64_t step) {
  return absl::InternalError(absl::StrFormat(
      "no finite largest logit at output token %d: the model or its adapter overflows", step));
}

TokenLogprob Sampler::LogprobOf(absl::Span<const float> logits, int32_t id, int32_t top) {
  RowSampler::Logprobs logprobs = row_sampler_.LogprobsOf(logits, id, top);
  return {id, logprobs.drawn, std::move(logprobs.top)};
}

}  // namespace lorad
