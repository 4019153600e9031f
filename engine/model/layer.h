// One decoder layer, forward and backward: what training, prefill and decoding share.
//
//   n1 = rms_norm(x);  q, k, v = linear(n1);  rope(q, k);  o = attention(q, k, v);  h = x +
//   linear(o) n2 = rms_norm(h);  g, u = linear(n2);  y = h + linear(swiglu(g, u))
#ifndef LORAD_ENGINE_MODEL_LAYER_H_
#define LORAD_ENGINE_MODEL_LAYER_H_

#include <array>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/core/arena.h"
#include "engine/model/modules.h"
#include "engine/model/weights.h"
#include "engine/ops/ops.h"

namespace lorad {

// Which adapters the rows of a batch use, module by module. Implemented by lora/ (model/ knows
// nothing of adapter stores); a null LayerLora means base rows only.
class LayerLora {
 public:
  virtual ~LayerLora() = default;
  // The segments of a module, rows ascending and disjoint; empty if no row adapts it. The views
  // stay valid until the step ends. In training `xa`, `da` and `db` are set.
  virtual absl::Span<LoraSegment> Segments(ModuleId id) = 0;
  virtual LoraDropout Dropout(ModuleId id) const = 0;
};

// Attention of one layer over the batch: packed sequences in training, the paged KV cache in
// serving.
class LayerAttention {
 public:
  virtual ~LayerAttention() = default;
  // o = attention(q, k, v) of layer `layer`; q and k are rotated.
  virtual absl::Status Attend(int64_t layer, ConstTensorView q, ConstTensorView k,
                              ConstTensorView v, TensorView o, Stream& stream) = 0;
};

// AttentionArgs::scale of a model: 1 / sqrt(head_dim).
float AttentionScale(const ModelConfig& config);

// The tensors of one layer over one batch. In serving one set is reused by all layers; in training
// a layer's set is kept for its backward pass, or laid out again and recomputed from x.
struct LayerActivations {
  TensorView x;                // [num_tokens, hidden]: the layer's input
  TensorView norm1, inv_rms1;  // [num_tokens, hidden], [num_tokens]
  TensorView q, k, v, o;       // [num_tokens, heads, head_dim]; q and k rotated
  TensorView lse;              // [num_tokens, num_heads]; empty in serving
  TensorView h;  // [num_tokens, hidden]: after the attention block; empty in serving (it is y)
  TensorView norm2, inv_rms2;  // like norm1, inv_rms1
  TensorView gate, up, act;    // [num_tokens, intermediate]
};

// Lays out everything but x. With `for_backward` nothing aliases and inv_rms and lse are there;
// without, buffers that are dead by then are shared.
absl::StatusOr<LayerActivations> AllocateLayerActivations(const ModelConfig& config,
                                                          const Backend& backend,
                                                          int64_t num_tokens, bool for_backward,
                                                          Arena& arena);

struct LayerContext {
  const Model& model;
  Backend& backend;
  ConstTensorView positions;   // kI32 [num_tokens]
  LayerLora* lora = nullptr;   // not owned; null: base model
  bool row_invariant = false;  // see LinearArgs
  TensorView workspace;        // kU8; at least LayerWorkspaceBytes
};

struct LayerWorkspaceOptions {
  bool row_invariant = false;
  bool backward = false;
  int64_t max_rank = 0;  // of the adapters in use; 0: base rows only
  bool dropout = false;  // a LoraDropout with a probability above 0
};
// Scratch for forward, and for backward if asked, of any layer with `num_tokens` rows.
int64_t LayerWorkspaceBytes(const Model& model, Backend& backend, int64_t num_tokens,
                            const LayerWorkspaceOptions& options);

// Reads act.x, fills act, writes the layer's output to y (which may alias act.x only when nothing
// is kept for a backward pass).
absl::Status LayerForward(int64_t layer, const LayerContext& context, LayerAttention& attention,
                          LayerActivations& act, TensorView y, Stream& stream);

// Lays out in a measuring arena what LayerBackward takes from its arena for a layer with
// activations shaped like `act`, so that the arena's peak is exact, and gives it back.
absl::Status MeasureLayerBackward(const LayerActivations& act, Arena& arena);

// Gradients of one layer. `dy` [num_tokens, hidden] holds dL/dy on entry and dL/dx on return; LoRA
// gradients are added to the segments' da and db. `act` is as LayerForward left it and is
// destroyed. cu_seqlens as in AttentionArgs. Scratch comes from `arena`, released on return.
absl::Status LayerBackward(int64_t layer, const LayerContext& context, ConstTensorView cu_seqlens,
                           LayerActivations& act, TensorView dy, Arena& arena, Stream& stream);

}  // namespace lorad

#endif  // LORAD_ENGINE_MODEL_LAYER_H_
