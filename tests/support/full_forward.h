// The whole decoder through the ops, without the engine: what golden and gradient tests compare.
#ifndef LORAD_TESTS_SUPPORT_FULL_FORWARD_H_
#define LORAD_TESTS_SUPPORT_FULL_FORWARD_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/core/arena.h"
#include "engine/lora/adapter.h"
#include "engine/model/layer.h"

namespace lorad {

// Sequences side by side in one batch; no sequence sees another.
struct PackedSequences {
  std::vector<int32_t> ids;               // [num_tokens]
  std::vector<int32_t> labels;            // [num_tokens]: the token that row t predicts, or -100
  std::vector<int32_t> positions;         // [num_tokens]
  std::vector<int32_t> cu_seqlens = {0};  // [num_sequences + 1]

  int64_t num_tokens() const { return static_cast<int64_t>(ids.size()); }
  int64_t num_targets() const;
  // Appends a sequence. `tokens_labels` are those of the tokens, not shifted (the reference's
  // form); empty: no targets.
  void Add(const std::vector<int32_t>& tokens, const std::vector<int32_t>& token_labels = {});
};

// One adapter on all rows, with gradients, in the backend's adapter dtype.
class TestLora final : public LayerLora {
 public:
  // `dropout`: of every module, but for its number and token keys, which are 0, 1, 2, ...
  TestLora(const HostAdapter& adapter, Backend& backend, int64_t num_tokens,
           const LoraDropout& dropout = {});

  absl::Span<LoraSegment> Segments(ModuleId id) override;
  LoraDropout Dropout(ModuleId id) const override;

  size_t num_modules() const { return modules_.size(); }
  ModuleId id(size_t module) const { return modules_[module].id; }
  // Tensors of a module: parameters and gradients.
  const LoraSegment& segment(size_t module) const { return modules_[module].segment; }

 private:
  struct Module {
    ModuleId id;
    LoraSegment segment;
  };
  TensorView Tensor(DType dtype, const Shape& shape);

  std::vector<std::vector<double>> storage_;  // doubles for their alignment
  std::vector<Module> modules_;
  std::vector<uint64_t> token_keys_;
  LoraDropout dropout_;
};

// A host tensor of kF32 or kF64.
std::vector<float> ToFloats(const TensorView& view);
double GetElement(const TensorView& view, int64_t index);
void SetElement(const TensorView& view, int64_t index, double value);

// Forward and backward over one batch, any number of times. CPU backends.
class FullForward {
 public:
  static absl::StatusOr<std::unique_ptr<FullForward>> Create(std::shared_ptr<const Model> model,
                                                             Backend& backend,
                                                             PackedSequences batch,
                                                             int64_t max_rank);

  // Logits [num_tokens * vocab] of every row.
  absl::StatusOr<std::vector<float>> Logits(LayerLora* lora);
  // Mean loss over the target tokens. With `backward`, adds the LoRA gradients.
  absl::StatusOr<double> Loss(LayerLora* lora, bool backward);

 private:
  FullForward(std::shared_ptr<const Model> model, Backend& backend, PackedSequences batch)
      : model_(std::move(model)), backend_(backend), batch_(std::move(batch)) {}

  absl::Status Layout(int64_t max_rank, Arena& arena);
  absl::Status Layers(LayerLora* lora);          // ids to hidden_
  absl::Status LayersBackward(LayerLora* lora);  // dL/dhidden in hidden_
  LinearCrossEntropyArgs LossArgs(bool backward);
  LayerContext Context(LayerLora* lora);
  LayerBatch LayerRows() const {
    return {.num_tokens = batch_.num_tokens(), .for_backward = true, .ranks = {}};
  }

  std::shared_ptr<const Model> model_;
  Backend& backend_;
  PackedSequences batch_;
  std::unique_ptr<Stream> stream_;
  DeviceBuffer buffer_;
  std::unique_ptr<Arena> arena_;
  std::vector<LayerActivations> layers_;
  TensorView ids_, labels_, positions_, cu_seqlens_;
  TensorView final_x_, hidden_, inv_rms_, logits_, losses_, workspace_;
};

}  // namespace lorad

#endif  // LORAD_TESTS_SUPPORT_FULL_FORWARD_H_
