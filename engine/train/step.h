// One optimiser step, a slice at a time.
#ifndef LORAD_ENGINE_TRAIN_STEP_H_
#define LORAD_ENGINE_TRAIN_STEP_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/core/arena.h"
#include "engine/device/backend.h"
#include "engine/model/weights.h"
#include "engine/train/micro_batch.h"
#include "engine/train/model_pass.h"
#include "engine/train/slice.h"
#include "engine/train/trainable_adapter.h"

namespace lorad {

struct OptimizerOptions {
  double max_grad_norm = 1;  // 0: no clipping
  double weight_decay = 0;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  // That one slice updates, in whole blocks of moments: 2.7 ms where fp32 moments cross PCIe at 25
  // GB/s, far less in device memory.
  int64_t slice_elements = int64_t{1} << 22;
};

struct StepInput {
  std::vector<MicroBatch> micro_batches;  // at least one, with a target token among them
  double learning_rate = 0;
  int64_t update = 1;   // AdamW's step count, from 1
  LoraDropout dropout;  // probability, seed and step
};

struct StepOutcome {
  double loss = 0;       // mean over all target tokens of the step
  double grad_norm = 0;  // before clipping
  int64_t tokens = 0, target_tokens = 0;
  bool updated = false;  // false: loss or gradient was not finite, and the weights are as before
};

// Gradients are summed over the micro-batches and divided by the number of target tokens of the
// whole step, so that how a batch is cut does not matter. Clipping as in
// torch.nn.utils.clip_grad_norm_: by max_norm / (norm + 1e-6) where that is below 1. The host waits
// for the device once a step, for the loss and the norm. Thread-compatible.
class TrainStep {
 public:
  // `pass` is with backward. Nothing is owned. `loss` [max tokens of a step] takes the tokens'
  // losses, fp32 (kF64 in double precision); `norm` kF64 [1].
  TrainStep(const Model& model, Backend& backend, TrainableAdapter& adapter,
            const PassOptions& pass, const OptimizerOptions& optimizer, TensorView loss,
            TensorView norm);

  // The arena's free part holds a pass at a time. Not owned; given back when the step ends.
  absl::Status Begin(StepInput input, Arena& arena, Stream& stream);
  // Queues one slice. False when the step is done: outcome() is then valid.
  absl::StatusOr<bool> Advance(Stream& stream);
  // What the next Advance() queues. REQUIRES: the step is not done.
  Slice next_slice() const;
  const StepOutcome& outcome() const { return outcome_; }

 private:
  absl::Status BeginPass(Stream& stream);
  absl::Status ReadBack(Stream& stream);
  // Updates some elements; false when they were the last.
  absl::StatusOr<bool> Update(Stream& stream);
  bool PassesDone() const { return !in_pass_ && micro_batch_ == input_.micro_batches.size(); }

  Backend& backend_;
  TrainableAdapter& adapter_;
  const OptimizerOptions options_;
  const TensorView loss_, norm_;
  ModelPass pass_;

  StepInput input_;
  StepOutcome outcome_;
  Arena* arena_ = nullptr;
  int64_t mark_ = 0;
  size_t micro_batch_ = 0;
  bool in_pass_ = false;
  bool read_back_ = false;  // outcome_ is known, and the update under way
  int64_t updated_ = 0;     // elements
  int64_t loss_rows_ = 0;   // tokens of the passes begun so far
};

// The sum of per-token losses [tokens] on the device, in double and in order. Blocks.
absl::StatusOr<double> SumLosses(TensorView loss, Backend& backend, Stream& stream);

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_STEP_H_
