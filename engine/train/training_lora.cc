#include "engine/train/training_lora.h"

#include <algorithm>

#include "engine/core/status_macros.h"

namespace lorad {

TrainingLora::TrainingLora(const TrainableAdapter& adapter, int64_t num_layers, bool backward)
    : segments_(num_layers * kNumProjections), lowest_layer_(num_layers) {
  for (const TrainableAdapter::Module& module : adapter.modules()) {
    LoraSegment segment;
    segment.a = module.a;
    segment.b = module.b;
    segment.scaling = module.scaling;
    if (backward) {
      segment.da = module.da;
      segment.db = module.db;
    }
    segments_[module.id.index()] = {segment};
    int64_t& rank = ranks_[static_cast<int>(module.id.projection)];
    rank = std::max(rank, module.a.shape[0]);
    max_rank_ = std::max(max_rank_, rank);
    lowest_layer_ = std::min<int64_t>(lowest_layer_, module.id.layer);
  }
}

absl::StatusOr<TrainingLora::LayerXa> TrainingLora::AllocateXa(int64_t num_tokens, DType dtype,
                                                               Arena& arena) const {
  LayerXa xa;
  for (const Projection projection : kAllProjections) {
    ASSIGN_OR_RETURN(xa[static_cast<int>(projection)],
                     AllocateXa(projection, num_tokens, dtype, arena));
  }
  return xa;
}

absl::StatusOr<TensorView> TrainingLora::AllocateXa(Projection projection, int64_t num_tokens,
                                                    DType dtype, Arena& arena) const {
  const int64_t rank = ranks_[static_cast<int>(projection)];
  if (rank == 0) return TensorView{};
  return arena.Allocate(dtype, {num_tokens, rank});
}

void TrainingLora::SetBatch(int64_t num_tokens, const LoraDropout& dropout,
                            ConstTensorView token_keys) {
  dropout_ = dropout;
  dropout_.token_keys = token_keys;
  for (std::vector<LoraSegment>& segments : segments_)
    for (LoraSegment& segment : segments) segment.row_end = num_tokens;
}

void TrainingLora::Bind(int64_t layer, const LayerXa& xa) {
  for (const Projection projection : kAllProjections) {
    const ModuleId id{static_cast<int32_t>(layer), projection};
    for (LoraSegment& segment : segments_[id.index()]) {
      const TensorView& wide = xa[static_cast<int>(projection)];
      segment.xa = {wide.data, wide.dtype, {segment.row_end, segment.a.shape[0]}};
    }
  }
}

absl::Span<LoraSegment> TrainingLora::Segments(ModuleId id) {
  return absl::MakeSpan(segments_[id.index()]);
}

LoraDropout TrainingLora::Dropout(ModuleId id) const {
  LoraDropout dropout = dropout_;
  dropout.module = static_cast<uint32_t>(id.index());
  return dropout;
}

}  // namespace lorad
