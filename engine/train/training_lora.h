// The training side of LayerLora: one adapter on all rows, with gradients.
#ifndef LORAD_ENGINE_TRAIN_TRAINING_LORA_H_
#define LORAD_ENGINE_TRAIN_TRAINING_LORA_H_

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/core/arena.h"
#include "engine/model/layer.h"
#include "engine/train/trainable_adapter.h"

namespace lorad {

// Thread-compatible.
class TrainingLora final : public LayerLora {
 public:
  // x A^T of the modules of one layer, by projection; empty where no layer adapts it. Kept from the
  // forward to the backward pass, like the layer's activations.
  using LayerXa = std::array<TensorView, kNumProjections>;

  // `adapter` is not owned. With `backward`, gradients are added to its grads.
  TrainingLora(const TrainableAdapter& adapter, int64_t num_layers, bool backward);

  absl::StatusOr<LayerXa> AllocateXa(int64_t num_tokens, DType dtype, Arena& arena) const;
  // That of one projection alone; empty where no layer adapts it.
  absl::StatusOr<TensorView> AllocateXa(Projection projection, int64_t num_tokens, DType dtype,
                                        Arena& arena) const;
  // For all layers from now on; module and token_keys of `dropout` are set here.
  void SetBatch(int64_t num_tokens, const LoraDropout& dropout, ConstTensorView token_keys);
  // Layer `layer` uses `xa` from now on.
  void Bind(int64_t layer, const LayerXa& xa);

  absl::Span<LoraSegment> Segments(ModuleId id) override;
  LoraDropout Dropout(ModuleId id) const override;

  // The lowest layer with an adapted module: no gradient is wanted below it.
  int64_t lowest_layer() const { return lowest_layer_; }
  // The largest rank of any module, and of each projection's.
  int64_t max_rank() const { return max_rank_; }
  const LoraRanks& ranks() const { return ranks_; }

 private:
  std::vector<std::vector<LoraSegment>> segments_;  // by ModuleId::index; none or one
  LoraRanks ranks_{};
  LoraDropout dropout_;
  int64_t lowest_layer_ = 0;
  int64_t max_rank_ = 0;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_TRAINING_LORA_H_
