// Sampling from one row of logits on the host. It defines engine/ops/sample.h: the CPU backend's op
// runs it for each row, and infer/sampler.h for rows that penalties have changed.
#ifndef LORAD_ENGINE_OPS_SAMPLE_ROW_H_
#define LORAD_ENGINE_OPS_SAMPLE_ROW_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "engine/ops/sample_params.h"

namespace lorad {

// Keeps scratch between calls. Thread-compatible.
class RowSampler {
 public:
  // The id that `params` draw, -1 if the logits are not numbers; params.top is not read. Takes a
  // time linear in the vocabulary. REQUIRES: 1 <= logits.size() <= kMaxSampleVocab.
  int32_t Draw(absl::Span<const float> logits, const DrawParams& params);

  struct Logprobs {
    float drawn = 0;                             // of `id`
    std::vector<std::pair<int32_t, float>> top;  // likeliest first, the lowest id among equals
  };
  // Under softmax(logits). REQUIRES: id in range, top >= 0, finite largest logit, no NaN.
  Logprobs LogprobsOf(absl::Span<const float> logits, int32_t id, int32_t top);

 private:
  struct Place {
    size_t index;     // in order_
    uint64_t before;  // weight of the tokens before it
    uint64_t weight;  // of its own
  };
  uint64_t WeightOf(uint64_t token) const;
  uint64_t SumOfWeights(size_t begin, size_t end) const;
  // Puts the tokens of at least `min_weight` into order_, and returns the sum of their weights.
  uint64_t CollectCandidates(absl::Span<const float> logits, uint64_t min_weight);
  // Whether any were dropped.
  bool KeepTopK(size_t k);
  Place Find(uint64_t target);

  // Tokens as (~key, id) in one number: ascending is the order of the op.
  std::vector<uint64_t> order_;
  float max_ = 0;
  float octaves_per_unit_ = 0;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_OPS_SAMPLE_ROW_H_
