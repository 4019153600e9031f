// The micro-batches of a job, optimiser step by optimiser step.
#ifndef LORAD_ENGINE_TRAIN_DATA_STREAM_H_
#define LORAD_ENGINE_TRAIN_DATA_STREAM_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/train/dataset.h"
#include "engine/train/micro_batch.h"
#include "engine/train/packing.h"

namespace lorad {

// Goes through the epochs without end. A position is (epoch, step): the stream of a position is the
// same whatever was read before it. Thread-compatible.
class DataStream {
 public:
  // `dataset` is not owned.
  DataStream(const TokenDataset& dataset, const PackingOptions& options);

  void Seek(int64_t epoch, int64_t step);
  // The micro-batches of the step at the position, which then moves on.
  std::vector<MicroBatch> Next();

  int64_t epoch() const { return epoch_; }
  int64_t step() const { return step_; }
  // The next step begins an epoch.
  bool at_epoch_start() const { return step_ == 0; }
  // Epochs done, with the fraction of the running one.
  double epochs_done() const;

 private:
  const TokenDataset& dataset_;
  const PackingOptions options_;
  int64_t epoch_ = 0, step_ = 0;
  EpochPlan plan_;  // of epoch_
};

// Optimiser steps in `num_epochs` passes, which may end within an epoch (rounded up to a step).
int64_t CountSteps(const TokenDataset& dataset, const PackingOptions& options, double num_epochs);

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_DATA_STREAM_H_
