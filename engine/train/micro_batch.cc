#include "engine/train/micro_batch.h"

#include "engine/ops/cross_entropy.h"

namespace lorad {

int64_t NumTokens(const TokenDataset& dataset, absl::Span<const uint32_t> samples) {
  int64_t tokens = 0;
  for (const uint32_t index : samples) tokens += dataset.num_tokens(index);
  return tokens;
}

MicroBatch MakeMicroBatch(const TokenDataset& dataset, absl::Span<const uint32_t> samples) {
  MicroBatch batch;
  const int64_t tokens = NumTokens(dataset, samples);
  batch.ids.reserve(tokens);
  batch.labels.reserve(tokens);
  batch.positions.reserve(tokens);
  batch.token_keys.reserve(tokens);
  batch.cu_seqlens.push_back(0);
  for (const uint32_t index : samples) {
    const TokenDataset::Sample sample = dataset.sample(index);
    const size_t length = sample.ids.size();
    batch.ids.insert(batch.ids.end(), sample.ids.begin(), sample.ids.end());
    for (size_t t = 0; t < length; ++t) {
      const int32_t label = t + 1 < length ? sample.labels[t + 1] : kIgnoreLabel;
      batch.target_tokens += label != kIgnoreLabel;
      batch.labels.push_back(label);
      batch.positions.push_back(static_cast<int32_t>(t));
      batch.token_keys.push_back(uint64_t{index} << 32 | t);
    }
    batch.cu_seqlens.push_back(static_cast<int32_t>(batch.ids.size()));
  }
  return batch;
}

}  // namespace lorad
