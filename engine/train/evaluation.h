// The loss over an eval set, a slice at a time.
#ifndef LORAD_ENGINE_TRAIN_EVALUATION_H_
#define LORAD_ENGINE_TRAIN_EVALUATION_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/core/arena.h"
#include "engine/device/backend.h"
#include "engine/model/weights.h"
#include "engine/train/dataset.h"
#include "engine/train/micro_batch.h"
#include "engine/train/model_pass.h"
#include "engine/train/packing.h"
#include "engine/train/slice.h"
#include "engine/train/trainable_adapter.h"

namespace lorad {

// Mean loss over all target tokens of a dataset, without dropout, by the ops of training.
// Thread-compatible.
class Evaluation {
 public:
  // Nothing is owned. `loss` [max tokens of a micro-batch] as in TrainStep.
  Evaluation(const Model& model, Backend& backend, const TrainableAdapter& adapter,
             const TokenDataset& dataset, const PackingOptions& packing, TensorView loss);

  // The arena's free part holds a pass at a time. Not owned; given back when the evaluation ends.
  void Begin(Arena& arena);
  // Queues one slice; waits for the device at the end of each micro-batch. False when done: loss()
  // is then valid.
  absl::StatusOr<bool> Advance(Stream& stream);
  // What the next Advance() queues. REQUIRES: the evaluation is not done.
  Slice next_slice() const;
  double loss() const { return sum_ / static_cast<double>(dataset_.report.target_tokens); }

 private:
  absl::Status BeginPass(Stream& stream);
  absl::StatusOr<bool> ReadBack(Stream& stream);

  Backend& backend_;
  const TokenDataset& dataset_;
  const EpochPlan plan_;
  const TensorView loss_;
  ModelPass pass_;

  Arena* arena_ = nullptr;
  int64_t mark_ = 0;
  int64_t micro_batch_ = 0;
  bool in_pass_ = false;
  bool read_back_due_ = false;  // the pass is over, its losses are on the device
  MicroBatch batch_;
  double sum_ = 0;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_EVALUATION_H_
