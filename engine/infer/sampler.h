// Draws the next token of one sequence from its logits, on the host.
#ifndef LORAD_ENGINE_INFER_SAMPLER_H_
#define LORAD_ENGINE_INFER_SAMPLER_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/infer/request.h"
#include "engine/infer/token_mask.h"
#include "engine/ops/sample_row.h"

namespace lorad {

// kInvalidArgument names the parameter, its value and its range.
absl::Status Validate(const SamplingParams& params);

// The state of one sequence's sampling. With z the logits, in this order, as vLLM does:
//   mask        z = -inf                       tokens that a constraint does not allow
//   repetition  z = z > 0 ? z / p : z * p      tokens of the prompt and the output (CTRL, 2019)
//   frequency   z -= f * occurrences           tokens of the output
//   presence    z -= q                         tokens of the output
//   temperature, min-p, top-k, top-p and the draw as in engine/ops/sample.h
// Temperature 0 takes the largest z after the penalties, the lowest id among equals. Without
// mask and penalties the token is a function of the row alone, and a device draws the same one.
// Thread-compatible.
class Sampler {
 public:
  // REQUIRES: Validate(params) is OK; prompt ids are in [0, vocab).
  Sampler(const SamplingParams& params, absl::Span<const int32_t> prompt, int64_t vocab);

  // Draws token number `step` (from 0) of the output; a function of (seed, step, logits) and of the
  // tokens accepted so far. Does not accept it. kInternal when a logit is NaN or +infinity, or none
  // is finite. `allowed`, unless null, is not empty and of at least as many ids as there are
  // logits.
  absl::StatusOr<int32_t> Draw(absl::Span<const float> logits, uint64_t step,
                               const TokenMask* allowed = nullptr);
  // Whether penalties change the logits, so that only Draw can tell the token.
  bool needs_logits() const { return !seen_.empty() || !occurrences_.empty(); }
  // How a device draws token number `step`, without logprobs. REQUIRES: !needs_logits().
  DrawParams ParamsOf(uint64_t step) const;
  // Log-probability of `id` and of the `top` likeliest tokens (likeliest first, the lowest id among
  // equals) under softmax(logits), whatever the parameters. REQUIRES: as RowSampler::LogprobsOf.
  TokenLogprob LogprobOf(absl::Span<const float> logits, int32_t id, int32_t top);
  // `id` has joined the output: penalties count it.
  void Accept(int32_t id);

 private:
  absl::Span<const float> Mask(absl::Span<const float> logits, const TokenMask* allowed);
  absl::Span<const float> Penalise(absl::Span<const float> logits);

  const SamplingParams params_;
  std::vector<bool> seen_;            // in prompt or output; empty without repetition penalty
  std::vector<int32_t> occurrences_;  // in the output; empty without the other penalties
  std::vector<int32_t> accepted_;     // distinct tokens of the output, in order
  std::vector<float> masked_;
  std::vector<float> penalised_;
  RowSampler row_sampler_;
};

// The error of token number `step` whose logits are not numbers.
absl::Status LogitsAreNotNumbers(uint64_t step);

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_SAMPLER_H_
