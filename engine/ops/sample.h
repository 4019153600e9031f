#ifndef LORAD_ENGINE_OPS_SAMPLE_H_
#define LORAD_ENGINE_OPS_SAMPLE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "engine/core/tensor_view.h"
#include "engine/ops/sample_params.h"

namespace lorad {

// Draws a token from each row of logits, every row by its own parameters. A row has tokens in order
// of falling logits, among equals of rising id; this order decides everything below.
//
//   weight[i] = SampleWeight(max - logits[i], octaves_per_unit):
//               e^((logits[i] - max) / temperature) as a whole number,
//               0 from about 28 temperatures below the largest
//   min-p     tokens with weight < min_weight get weight 0
//   top-k     tokens with a logit below the k-th largest are dropped; equals of it stay
//   top-p     the shortest beginning of the order stays whose share of the weight reaches top_p
//   draw      with n the weight of what stayed and u 64 random bits of Philox at (seed, step), the
//             token on whose weight floor(u n / 2^64) falls when weights are laid out in the order
//   greedy    (octaves_per_unit 0) the first of the order
//   logprob   ln of the token's share under softmax(logits): no temperature, nothing dropped
//
// Weights are whole numbers, so their sums are exact and CPU and CUDA draw the same ids from the
// same logits, whatever else is in the batch. Log-probabilities err by 2^-22 (4 + |logprob|).
// A row with a NaN, with +infinity or without a finite logit gives id -1 and no other answers.
// What needs a sequence's history (penalties) or changes single logits is not done here: those rows
// go to the host.
//
// The draw in order of likelihood needs neither sums along the vocabulary nor a sort: as in a
// counting sort, a histogram of keys tells where every share of the weight ends. Filters: Holtzman
// et al., 2020 (top-p); Fan et al., 2018 (top-k); Nguyen et al., 2024 (min-p).
struct SampleArgs {
  ConstTensorView logits;  // activation dtype [rows, vocab], vocab < 2^24
  ConstTensorView params;  // kU8 [rows, sizeof(DrawParams)], 8-byte aligned
  TensorView ids;          // kI32 [rows], -1: no numbers
  TensorView logprobs;     // kF32 [rows], where DrawParams::top >= 0; 0 otherwise
  TensorView top_ids;  // kI32 [rows, n], n <= kMaxTopLogprobs: a row's DrawParams::top likeliest,
                       // then -1; empty: no row asks for any
  TensorView top_logprobs;  // kF32, like top_ids; 0 where the id is -1
};
absl::Status Validate(const SampleArgs& args);

// Parameters in the form that the op takes. temperature 0: greedy; top_k 0: all; top_p 1: all;
// min_p 0: all; seed: see DrawParams. REQUIRES: temperature >= 0, top_k >= 0, top_p in (0, 1],
// min_p in [0, 1].
DrawParams MakeDrawParams(double temperature, int32_t top_k, double top_p, double min_p,
                          uint64_t seed);

}  // namespace lorad

#endif  // LORAD_ENGINE_OPS_SAMPLE_H_
