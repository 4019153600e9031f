// Forward passes of serving: new tokens of some sequences through the whole model over the paged KV
// cache, each sequence with its own adapter or none.
#ifndef LORAD_ENGINE_INFER_RUNNER_H_
#define LORAD_ENGINE_INFER_RUNNER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/infer/draw.h"
#include "engine/infer/pass.h"
#include "engine/infer/pass_graphs.h"
#include "engine/infer/staging.h"
#include "engine/kv/kv_cache.h"
#include "engine/model/weights.h"

namespace lorad {

// Owns the workspace arena of serving, and page-locked memory for what goes to a pass and comes
// from it: one copy up, one for all tokens down, one wait. Thread-compatible: belongs to the engine
// thread.
class Runner {
 public:
  // Takes the workspace under MemoryTag::kWorkspace, the rest under kPinned. `backend` and `cache`
  // are not owned.
  static absl::StatusOr<std::unique_ptr<Runner>> Create(std::shared_ptr<const Model> model,
                                                        Backend& backend, KvCache& cache,
                                                        const RunnerLimits& limits);

  // Runs all rows and writes their keys and values to the cache. Returns when the device is done.
  // kInvalidArgument: more than the limits, or several sequences in a matrix pass. Any other error
  // is the device's.
  absl::Status Forward(absl::Span<const SequenceRows> batch, PassKind kind);
  // The same, and draws a token after each sequence's last one; logits leave the device for those
  // sequences alone that ask for them. `requests` and `results` are in the order of `batch`. A
  // row whose logits are not numbers concerns its own result alone. Also kInvalidArgument:
  // params.top > kMaxTopLogprobs.
  absl::Status Draw(absl::Span<const SequenceRows> batch, PassKind kind,
                    absl::Span<const DrawRequest> requests, absl::Span<DrawResult> results);

  // A matrix pass that scores: logprobs[i] = ln p(next[i] | everything up to ids[i]), 0 where
  // next[i] is kIgnoreLabel. `next` and `logprobs` have as many entries as rows.ids.
  absl::Status Score(const SequenceRows& rows, absl::Span<const int32_t> next,
                     absl::Span<float> logprobs);

  const Model& model() const { return *model_; }
  const RunnerLimits& limits() const { return limits_; }
  KvCache& cache() { return cache_; }

 private:
  struct Pass {  // of one call
    PassShape shape;
    PackedRows rows;
    PassTensors tensors;
    std::optional<LoraBatch> lora;
  };
  // What a pass is to give; of the spans, in the order of the batch, those that `output` calls for.
  struct Wanted {
    PassOutput output = PassOutput::kNone;
    absl::Span<const DrawRequest> draws;  // of kLogits
    absl::Span<const int32_t> labels;     // of kScores
  };

  Runner(std::shared_ptr<const Model> model, Backend& backend, KvCache& cache,
         const RunnerLimits& limits, std::unique_ptr<Stream> stream, DeviceBuffer workspace,
         Staging staging);

  // Runs `pass` and leaves nothing behind: no tensors, and no copy in flight if it failed.
  template <typename Function>
  absl::Status InArena(Function pass);
  absl::Status CheckLimits(absl::Span<const SequenceRows> batch, PassKind kind) const;
  // Lays out, and keeps the inputs for their copy to the device: nothing is queued.
  absl::StatusOr<Pass> Prepare(absl::Span<const SequenceRows> batch, PassKind kind,
                               const Wanted& wanted);
  void KeepInputs(const Pass& pass, const Wanted& wanted);
  // Uploads and runs embedding and layers; tensors.x is then the last layer's output.
  absl::Status QueueLayers(Pass& pass);
  // All up to the logits, which stay on the device.
  absl::Status QueueToLogits(Pass& pass);
  // All, with what was drawn to `drawn`: of passes none of whose rows asks for logits.
  absl::Status QueueDraws(Pass& pass, void* drawn);
  PassKey KeyOf(const Pass& pass) const;
  absl::Status ForwardInArena(absl::Span<const SequenceRows> batch, PassKind kind);
  absl::Status DrawInArena(absl::Span<const SequenceRows> batch, PassKind kind,
                           absl::Span<const DrawRequest> requests, absl::Span<DrawResult> results);
  absl::Status ScoreInArena(const SequenceRows& rows, absl::Span<const int32_t> next,
                            absl::Span<float> logprobs);
  absl::Status Normalise(const TensorView& hidden);
  absl::StatusOr<TensorView> LastRows(const Pass& pass);
  absl::Status Head(const TensorView& last, const Pass& pass);
  absl::Status Sample(const Pass& pass);

  const std::shared_ptr<const Model> model_;
  Backend& backend_;
  KvCache& cache_;
  const RunnerLimits limits_;
  const std::unique_ptr<Stream> stream_;
  const DeviceBuffer workspace_;
  Arena arena_;
  Staging staging_;
  PassGraphs graphs_;          // of *stream_
  std::vector<float> logits_;  // of the rows that DrawResult::logits shows
};

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_RUNNER_H_
