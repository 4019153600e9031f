// The operations of one decoder layer's parts, as engine/model/layer.cc runs them.
#ifndef LORAD_ENGINE_PLAN_LAYER_FLOPS_H_
#define LORAD_ENGINE_PLAN_LAYER_FLOPS_H_

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "absl/numeric/int128.h"
#include "absl/types/span.h"
#include "engine/plan/flop_count.h"
#include "engine/plan/flops.h"

namespace lorad {

// What a pass works on, or several together that differ in their rows alone.
struct PassRows {
  absl::int128 passes = 1;  // each decodes the weights
  absl::int128 tokens = 0;
  absl::int128 pairs = 0;      // of a query and a key that it sees
  absl::int128 masked = 0;     // pairs that a tile multiplies on top
  absl::int128 rescaled = 0;   // rows scaled again for a further tile of keys, once for each
  absl::int128 decodings = 0;  // of each weight for further tiles of rows
};
// Of packed sequences in one micro-batch.
PassRows PackedRowsOf(absl::Span<const SequenceGroup> sequences, const FlopTiles& tiles);

// Adds to a sheet. Nothing is owned.
class LayerFlops {
 public:
  struct Options {
    bool for_backward = false;  // attention keeps its log-sum-exp
    bool dropout = false;
    bool keeps_act = false;  // silu(gate) * up is there in the backward pass
  };
  // REQUIRES: Check(model).
  LayerFlops(const AdaptedModel& model, const PassRows& rows, const Options& options,
             FlopSheet& sheet);

  // The four parts; `with_down` false: the last one is left out.
  void Forward(int64_t layer, FlopPhase phase, bool with_down = true);
  void Backward(int64_t layer);
  // A norm of all rows outside the layers.
  void Norm(FlopPhase phase) { Norm(phase, rows_.tokens); }
  void Norm(FlopPhase phase, absl::int128 rows);
  void NormBackward(bool accumulate);

  // The lowest layer with an adapted module; the number of layers where there is none.
  int64_t lowest_layer() const { return lowest_layer_; }

 private:
  using Projections = std::initializer_list<Projection>;

  void Linears(int64_t layer, PlanOp op, Projections projections, FlopPhase phase);
  void LinearsBackward(int64_t layer, PlanOp op, Projections projections);
  // Decoding, for either direction.
  void Decode(absl::int128 parameters, FlopPhase phase);
  void Attention(FlopPhase phase);
  void AttentionBackward();
  void Rope(FlopPhase phase);
  void SwiGlu(FlopPhase phase);
  bool Adapted(int64_t layer, Projections projections) const;
  int64_t rank(int64_t layer, Projection projection) const {
    return ranks_[layer * kNumProjections + static_cast<int>(projection)];
  }

  const ModelConfig& config_;
  const QuantSpec quant_;
  const PassRows rows_;
  const Options options_;
  FlopSheet& sheet_;
  std::vector<int64_t> ranks_;  // by ModuleId::index; 0: not adapted
  int64_t lowest_layer_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_PLAN_LAYER_FLOPS_H_
