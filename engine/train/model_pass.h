// One micro-batch through the model, and back if asked, a slice at a time.
#ifndef LORAD_ENGINE_TRAIN_MODEL_PASS_H_
#define LORAD_ENGINE_TRAIN_MODEL_PASS_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/core/arena.h"
#include "engine/device/backend.h"
#include "engine/model/layer.h"
#include "engine/model/weights.h"
#include "engine/plan/activation_checkpointing.h"
#include "engine/train/input_offload.h"
#include "engine/train/micro_batch.h"
#include "engine/train/slice.h"
#include "engine/train/trainable_adapter.h"
#include "engine/train/training_lora.h"

namespace lorad {

struct PassOptions {
  bool backward = false;                       // add gradients to the adapter's grads
  ActivationCheckpointing checkpointing = {};  // with backward
  bool dropout = false;                        // a PassInput may have a dropout probability above 0
  int64_t max_seqlen = 0;                      // no sample is longer; 0: not known
  InputOffload* offload = nullptr;             // not owned; set where checkpointing.offload is
};

struct PassInput {
  const MicroBatch* batch = nullptr;  // not owned; unchanged until the stream is synchronised
  TensorView loss;                    // kF32 (kF64 in double precision) [tokens]: of each token
  float grad_scale = 1;               // see LinearCrossEntropyArgs
  LoraDropout dropout;                // probability, seed and step
};

// A list of slices that Begin() draws up and Advance() works off: embedding, the four parts of each
// layer, the loss of some rows, and then, segment by segment from the last, the layers computed
// again and their backward passes. Between two slices nothing but this object's part of the arena
// is in use, so other work may be queued on the device. Thread-compatible.
class ModelPass {
 public:
  // Nothing is owned.
  ModelPass(const Model& model, Backend& backend, const TrainableAdapter& adapter,
            const PassOptions& options);

  // Runs the layout of a pass over `num_tokens` tokens, of whatever samples, over a measuring
  // arena, whose peak is then exact. Returns the scratch bytes among it.
  absl::StatusOr<int64_t> Measure(int64_t num_tokens, Arena& arena);

  // Lays out the pass in `arena`, which is not owned, and queues the upload of the batch. The
  // caller releases the arena's mark when the pass is over.
  absl::Status Begin(const PassInput& input, Arena& arena, Stream& stream);
  // Queues one slice. False when it was the last.
  absl::StatusOr<bool> Advance(Stream& stream);
  // What the next Advance() queues. REQUIRES: one is left.
  Slice next_slice() const { return slices_[next_].slice; }

 private:
  // The activations of one layer, and what its adapters leave for the backward pass.
  struct LayerSet {
    LayerActivations act;
    TrainingLora::LayerXa xa;
  };
  struct Work {
    enum class Kind : uint8_t { kEmbedding, kForward, kLoss, kRecompute, kBackward };
    Kind kind;
    Slice slice;
    int64_t begin = 0;                     // layer, or first row
    int64_t end = 0;                       // end of the rows
    LinearGroup part = LinearGroup::kQkv;  // of the layer
  };

  absl::Status Layout(int64_t num_tokens, int64_t num_samples, Arena& arena);
  absl::Status LayoutInputs(int64_t num_tokens, Arena& arena);
  absl::Status LayoutLayers(int64_t num_tokens, Arena& arena);
  int64_t PlanWorkspace(int64_t num_tokens);  // returns its bytes
  int64_t LossRows(int64_t num_tokens) const;
  void DrawUpSlices();
  absl::Status Upload(Stream& stream);

  absl::Status Run(const Work& work, Stream& stream);
  absl::Status Embed(Stream& stream);
  // Runs a part of a layer forward; what will be computed again is not kept.
  absl::Status ForwardSlice(int64_t layer, LinearGroup part, Stream& stream);
  absl::Status RecomputeSlice(int64_t layer, LinearGroup part, Stream& stream);
  // The layer's activations go to `set`, its output to `y`; y empty: computed again.
  absl::Status Forward(int64_t layer, LinearGroup part, LayerSet& set, TensorView y,
                       Stream& stream);
  absl::Status FinalNorm(Stream& stream);
  absl::Status Loss(int64_t row_begin, int64_t row_end, Stream& stream);
  absl::Status FinalNormBackward(Stream& stream);
  absl::Status Backward(int64_t layer, LinearGroup part, Stream& stream);

  bool BeginsSegment(int64_t layer) const;
  bool EndsSegment(int64_t layer) const { return layer + 1 == segments_.End(layer); }
  LayerSet& Bind(int64_t layer, LayerSet& set);
  LayerSet& KeptSet(int64_t layer) { return sets_[layer - segments_.Begin(layer)]; }
  // Of `layer`, to be run next.
  LayerContext Context(int64_t layer);
  LayerBatch Batch(int64_t num_tokens) const;
  bool Recomputes() const { return backward_ && segments_.count() > 1; }

  const Model& model_;
  Backend& backend_;
  const bool backward_;
  const bool dropout_;
  const int64_t max_seqlen_;
  const LayerSegments segments_;
  const bool keeps_decoded_;     // each layer's backward pass follows a forward pass
  const bool keeps_act_;         // checkpointing.keeps_act
  const bool offloads_;          // checkpointing.offload
  InputOffload* const offload_;  // null: only measured, or not offloads_
  TrainingLora lora_;

  PassInput input_;
  Arena* arena_ = nullptr;
  SequenceBounds sequences_;  // of the batch
  TensorView ids_, labels_, positions_, cu_seqlens_, token_keys_;
  std::vector<TensorView> xs_;  // [layers + 1] of [tokens, hidden]: each layer's input, then the
                                // last one's output; entries may share memory
  std::vector<LayerSet> sets_;  // one per layer of a segment
  // [layers]: xa of the down projections, kept where layers are computed again, because the last
  // one of a segment leaves the down projection out.
  std::vector<TensorView> down_xa_;
  TensorView hidden_;     // [tokens, hidden]: the last norm's output, then the gradient
  TensorView inv_rms_;    // [tokens], of the last norm
  TensorView workspace_;  // kU8
  // Where a layer's backward pass follows its forward pass at once: parts of the workspace, and the
  // layer whose weights lie decoded there.
  std::optional<LayerWorkspaceParts> parts_;
  int64_t decoded_layer_ = -1;
  std::vector<Work> slices_;
  size_t next_ = 0;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_MODEL_PASS_H_
