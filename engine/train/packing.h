// Which samples share a micro-batch, in which order, epoch by epoch.
#ifndef LORAD_ENGINE_TRAIN_PACKING_H_
#define LORAD_ENGINE_TRAIN_PACKING_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/train/dataset.h"

namespace lorad {

struct PackingOptions {
  bool packing = true;             // samples share rows of max_seq_length; else a row is a sample
  bool shuffle = true;             // a new order each epoch
  uint64_t seed = 0;               // of the order
  int32_t max_seq_length = 0;      // tokens of a row, >= the longest sample
  int32_t micro_batch_size = 1;    // rows of a micro-batch
  int32_t accumulation_steps = 1;  // micro-batches of an optimiser step
};

// One epoch: every sample once, none split. An optimiser step takes up to accumulation_steps
// micro-batches and never reaches into the next epoch; the last of an epoch may be smaller.
class EpochPlan {
 public:
  // The same arguments give the same plan, on every machine.
  EpochPlan(const TokenDataset& dataset, const PackingOptions& options, int64_t epoch);

  int64_t num_steps() const;
  int64_t num_micro_batches() const { return static_cast<int64_t>(begins_.size()) - 1; }
  // Indices of micro-batches [first, second) of a step.
  std::pair<int64_t, int64_t> Step(int64_t step) const;
  // Indices of the samples of a micro-batch.
  absl::Span<const uint32_t> MicroBatch(int64_t index) const;

 private:
  int64_t accumulation_steps_;
  std::vector<uint32_t> samples_;
  std::vector<int64_t> begins_;  // [micro-batches + 1] into samples_
};

// The samples in the order of an epoch: a Fisher-Yates shuffle on Philox numbers of (seed, epoch).
std::vector<uint32_t> EpochOrder(int64_t num_samples, const PackingOptions& options, int64_t epoch);

// Best fit: each sample goes, in the given order, to the fullest row that still has room for it.
// Rows come in the order in which they were begun. Source of the idea: Krell et al., "Efficient
// Sequence Packing without Cross-contamination", 2021.
std::vector<std::vector<uint32_t>> PackRows(const TokenDataset& dataset,
                                            absl::Span<const uint32_t> order,
                                            int64_t max_seq_length);

// No micro-batch of any epoch has more tokens.
int64_t MaxMicroBatchTokens(const TokenDataset& dataset, const PackingOptions& options);

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_PACKING_H_
