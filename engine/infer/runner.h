// Forward passes of serving: new tokens of some sequences through the whole model over the paged KV
// cache, each sequence with its own adapter or none.
#ifndef LORAD_ENGINE_INFER_RUNNER_H_
#define LORAD_ENGINE_INFER_RUNNER_H_

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/infer/pass.h"
#include "engine/kv/kv_cache.h"
#include "engine/model/weights.h"

namespace lorad {

// Owns the workspace arena of serving. Thread-compatible: belongs to the engine thread.
class Runner {
 public:
  // Takes the workspace under MemoryTag::kWorkspace. `backend` and `cache` are not owned.
  static absl::StatusOr<std::unique_ptr<Runner>> Create(std::shared_ptr<const Model> model,
                                                        Backend& backend, KvCache& cache,
                                                        const RunnerLimits& limits);

  // Runs all rows, writes their keys and values to the cache, and the logits after each sequence's
  // last token to logits [batch.size() * vocab], in the order of `batch`; empty: not wanted.
  // Returns when the device is done. kInvalidArgument: more than the limits, or several sequences
  // in a matrix pass. Any other error is the device's.
  absl::Status Forward(absl::Span<const SequenceRows> batch, PassKind kind,
                       absl::Span<float> logits);

  // A matrix pass that scores: logprobs[i] = ln p(next[i] | everything up to ids[i]), 0 where
  // next[i] is kIgnoreLabel. `next` and `logprobs` have as many entries as rows.ids.
  absl::Status Score(const SequenceRows& rows, absl::Span<const int32_t> next,
                     absl::Span<float> logprobs);

  const Model& model() const { return *model_; }
  const RunnerLimits& limits() const { return limits_; }
  KvCache& cache() { return cache_; }

 private:
  struct Pass {  // of one call
    PackedRows rows;
    PassKind kind;
    PassTensors tensors;
    std::optional<LoraBatch> lora;
  };

  Runner(std::shared_ptr<const Model> model, Backend& backend, KvCache& cache,
         const RunnerLimits& limits, std::unique_ptr<Stream> stream, DeviceBuffer workspace);

  absl::Status CheckLimits(absl::Span<const SequenceRows> batch, PassKind kind) const;
  // Lays out, uploads and runs embedding and layers; tensors.x is then the last layer's output.
  absl::StatusOr<Pass> RunLayers(absl::Span<const SequenceRows> batch, PassKind kind,
                                 PassOutput output);
  absl::Status Upload(const Pass& pass);
  absl::Status ForwardInArena(absl::Span<const SequenceRows> batch, PassKind kind,
                              absl::Span<float> logits);
  absl::Status ScoreInArena(const SequenceRows& rows, absl::Span<const int32_t> next,
                            absl::Span<float> logprobs);
  absl::Status Normalise(const TensorView& hidden);
  absl::StatusOr<TensorView> LastRows(const Pass& pass);
  absl::Status Head(const TensorView& last, const Pass& pass);
  absl::Status ReadLogits(const Pass& pass, absl::Span<float> logits);

  const std::shared_ptr<const Model> model_;
  Backend& backend_;
  KvCache& cache_;
  const RunnerLimits limits_;
  const std::unique_ptr<Stream> stream_;
  const DeviceBuffer workspace_;
  Arena arena_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_RUNNER_H_
