// The tokens of one forward and backward pass, in host memory.
#ifndef LORAD_ENGINE_TRAIN_MICRO_BATCH_H_
#define LORAD_ENGINE_TRAIN_MICRO_BATCH_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/train/dataset.h"

namespace lorad {

// Samples one after another, without padding. Each attends to itself alone (cu_seqlens), counts its
// positions from 0 and predicts none of its neighbours' tokens, so its loss and gradient are what
// they would be in a batch of its own.
struct MicroBatch {
  std::vector<int32_t> ids;          // [tokens]
  std::vector<int32_t> labels;       // [tokens]: of the next token; kIgnoreLabel at a sample's end
  std::vector<int32_t> positions;    // [tokens]
  std::vector<int32_t> cu_seqlens;   // [samples + 1]
  std::vector<uint64_t> token_keys;  // [tokens]: sample << 32 | position
  int64_t target_tokens = 0;         // labels that are not kIgnoreLabel

  int64_t num_tokens() const { return static_cast<int64_t>(ids.size()); }
  int64_t num_samples() const { return static_cast<int64_t>(cu_seqlens.size()) - 1; }
};

// MicroBatch::num_tokens() of these samples.
int64_t NumTokens(const TokenDataset& dataset, absl::Span<const uint32_t> samples);

MicroBatch MakeMicroBatch(const TokenDataset& dataset, absl::Span<const uint32_t> samples);

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_MICRO_BATCH_H_
