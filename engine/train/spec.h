// What a fine-tuning job is, and what it reports. Plain data; part of the façade.
// Names are those of transformers' TrainingArguments and PEFT's LoraConfig.
#ifndef LORAD_ENGINE_TRAIN_SPEC_H_
#define LORAD_ENGINE_TRAIN_SPEC_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace lorad {

struct LoraSpec {
  int32_t r = 16;           // >= 1
  double lora_alpha = 16;   // > 0
  double lora_dropout = 0;  // [0, 1)
  bool use_rslora = false;  // scaling alpha / sqrt(r) in place of alpha / r
  // Module names ("q_proj"), or path suffixes; or one entry "all-linear"; or one regular expression
  // given as "regex:..." that must match a whole module path.
  std::vector<std::string> target_modules = {"all-linear"};
};

struct TrainingSpec {
  LoraSpec lora;
  std::string warm_start_dir;  // PEFT directory to start from; empty: A random, B zero

  std::string train_path;         // JSONL
  std::string eval_path;          // JSONL; empty: none
  int32_t max_seq_length = 1024;  // tokens; longer samples are cut and counted
  bool packing = true;            // several samples in a row, attention kept apart
  bool shuffle = true;

  double learning_rate = 2e-4;               // > 0
  std::string lr_scheduler_type = "linear";  // constant | constant_with_warmup | linear | cosine
  int64_t warmup_steps = 0;                  // optimiser steps; wins over warmup_ratio
  double warmup_ratio = 0;                   // [0, 1] of all steps
  double num_train_epochs = 3;               // > 0; ignored when max_steps > 0
  int64_t max_steps = 0;                     // optimiser steps; 0: from num_train_epochs
  int32_t micro_batch_size = 8;              // rows of max_seq_length with packing, samples without
  int32_t gradient_accumulation_steps = 1;   // micro-batches per optimiser step
  double max_grad_norm = 1.0;                // 0: no clipping
  double weight_decay = 0;
  double adam_beta1 = 0.9, adam_beta2 = 0.999, adam_epsilon = 1e-8;
  // AdamW's moments: in fp32 or in 8 bits, on the device or (paged) in pinned host memory.
  std::string optim = "adamw_torch";  // adamw_torch | adamw_8bit | paged_adamw_32bit |
                                      // paged_adamw_8bit

  int64_t eval_steps = 0;               // 0: once an epoch, when there is an eval set
  int64_t save_steps = 0;               // 0: once an epoch
  bool serve_checkpoints = false;       // each checkpoint's adapter can be served: OnPublication
  int64_t logging_steps = 1;            // a step event every so many optimiser steps
  int32_t early_stopping_patience = 0;  // evals without improvement; 0: off
  uint64_t seed = 0;

  // none | every_layer | every_k:K | sqrt | offload | auto: see ParseActivationPolicy
  std::string activation_checkpointing = "auto";

  // Where checkpoints go, and where the adapter goes at the end (a PEFT directory). Both are made
  // if missing. A checkpoint found here that bears the same spec and data is resumed.
  std::string checkpoint_dir;
  std::string output_dir;
};

// What reading a dataset found.
struct DatasetReport {
  std::string kind;  // prompt_completion | text | tokens
  int64_t samples = 0;
  int64_t tokens = 0;         // after truncation
  int64_t target_tokens = 0;  // tokens in the loss
  int64_t truncated_samples = 0;
  int64_t longest_sample_tokens = 0;
};

// What a job will need, worked out before it starts.
struct TrainingPlan {
  DatasetReport train, eval;
  int64_t steps = 0;  // optimiser steps
  int64_t trainable_parameters = 0;
  int64_t adapted_modules = 0;
  int64_t adapter_bytes = 0;     // weights, gradients and moments; these not when paged
  int64_t activation_bytes = 0;  // of one micro-batch under the checkpointing policy
  int64_t workspace_bytes = 0;
  int64_t peak_bytes = 0;                // of the training arena
  int64_t pinned_bytes = 0;              // of the host: paged moments, offloaded inputs, snapshot
  std::string activation_checkpointing;  // what is kept and what is computed again, in words
};

struct StepReport {
  int64_t step = 0;   // optimiser steps done
  int64_t steps = 0;  // in all
  double epoch = 0;
  double loss = 0;       // mean over the step's target tokens, nats
  double grad_norm = 0;  // before clipping
  double learning_rate = 0;
  int64_t tokens = 0;         // of this step
  int64_t target_tokens = 0;  // of this step
  double seconds = 0;         // of this step, time given to serving not counted
  double tokens_per_second = 0;
};
struct EvalReport {
  int64_t step = 0;
  double loss = 0;
  bool best = false;  // the lowest so far: its adapter is what the job returns
  int64_t tokens = 0;
  double seconds = 0;
};
struct CheckpointReport {
  int64_t step = 0;
  std::string dir;
  int64_t bytes = 0;
  std::string adapter_id;
  double seconds = 0;
};
// An adapter of the job can be served by its id, from memory; its files are still to be written.
struct PublicationReport {
  int64_t step = 0;    // whose adapter it is
  bool final = false;  // what the job returns; otherwise a checkpoint's
  std::string adapter_id;
  double seconds = 0;  // since its weights were final on the device
};
struct TrainingResult {
  std::string adapter_id;  // sha256 of the canonical content of output_dir
  std::string output_dir;
  int64_t steps = 0;
  double final_loss = 0;
  double best_eval_loss = 0;  // NaN without an eval set
  int64_t best_step = 0;      // the step whose adapter this is
  bool stopped_early = false;
};

// What a slice of a job's work belongs to.
enum class SlicePhase : uint8_t { kForward, kLoss, kBackward, kOptimizer, kCheckpoint, kOther };
inline constexpr int kNumSlicePhases = 6;
inline constexpr const char* kSlicePhaseNames[kNumSlicePhases] = {
    "forward", "loss", "backward", "optimizer", "checkpoint", "other"};

// Receives a job's progress on the engine thread, in order. May block for a durable write of a few
// milliseconds, no longer. Exactly one of OnFinish, OnStopped and OnError is called, last. What
// OnCheckpoint and OnFinish report is durable on disk.
class TrainingSink {
 public:
  virtual ~TrainingSink() = default;
  // `resumed_from_step`: of the checkpoint; 0: from the beginning.
  virtual void OnStart(const TrainingPlan& plan, int64_t resumed_from_step) = 0;
  virtual void OnStep(const StepReport& report) = 0;
  virtual void OnEval(const EvalReport& report) = 0;
  virtual void OnCheckpoint(const CheckpointReport& report) = 0;
  // After the last step and evaluation, some time before OnFinish, unless that was not possible;
  // with serve_checkpoints also for a checkpoint, unless the one before is still on its way. The id
  // stays registered until UnregisterAdapter, however the job ends. A crash before OnFinish forgets
  // it: the job, resumed from its checkpoint, makes the same adapter with the same id.
  virtual void OnPublication(const PublicationReport&) {}
  virtual void OnWarning(const std::string& message) = 0;
  virtual void OnFinish(const TrainingResult& result) = 0;
  // Stopped on request; `checkpoint_step` is the step of the checkpoint written, -1 if none.
  virtual void OnStopped(int64_t checkpoint_step) = 0;
  // kInvalidArgument and kFailedPrecondition are the user's, all others the system's.
  virtual void OnError(const absl::Status& status) = 0;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_SPEC_H_
