// One decoder layer, forward and backward: what training, prefill and decoding share.
//   n1 = rms_norm(x);  q, k, v = linear(n1);  rope(q, k)
//   o = attention(q, k, v);  h = x + linear(o)
//   n2 = rms_norm(h);  g, u = linear(n2);  y = h + linear(swiglu(g, u))
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
  // Whether Attend rotates q and k itself, which then hold anything afterwards.
  virtual bool rotates() const { return false; }
  // o = attention(q, k, v) of layer `layer`; q and k are rotated, unless rotates().
  virtual absl::Status Attend(int64_t layer, TensorView q, TensorView k, ConstTensorView v,
                              TensorView o, Stream& stream) = 0;
};

// AttentionArgs::scale of a model: 1 / sqrt(head_dim).
float AttentionScale(const ModelConfig& config);

// Rank of each projection's adapters, the largest where layers differ; 0: not adapted.
using LoraRanks = std::array<int64_t, kNumProjections>;

// The tensors of one layer over one batch. In serving one set is reused by all layers; in training
// a layer's set is kept for its backward pass, or laid out again and recomputed from x. `norm` is
// scratch that all layers share, and so is `act` unless LayerBatch::keeps_act: the backward pass
// computes them again.
struct LayerActivations {
  TensorView x;           // [num_tokens, hidden]: the layer's input
  TensorView q, k, v, o;  // [num_tokens, heads, head_dim]; q and k rotated
  TensorView lse;         // [num_tokens, num_heads]; empty in serving
  TensorView h;  // [num_tokens, hidden]: after the attention block; empty in serving (it is y)
  TensorView inv_rms1, inv_rms2;  // [num_tokens]; empty in serving
  TensorView gate, up;            // [num_tokens, intermediate]
  TensorView norm;                // [num_tokens, hidden]: of x, then of h
  TensorView act;                 // [num_tokens, intermediate]: silu(gate) * up
};

struct LayerBatch {
  int64_t num_tokens = 0;
  bool for_backward = false;
  LoraRanks ranks{};       // room that LinearLayout wants is left for these; zeros: none
  bool keeps_act = false;  // for_backward: each layer has an act of its own
};

// Lays out norm, and for the backward pass an act that layers share.
absl::Status AllocateLayerScratch(const ModelConfig& config, Backend& backend,
                                  const LayerBatch& batch, Arena& arena, LayerActivations& act);
// Lays out everything but x and what AllocateLayerScratch does. For the backward pass nothing
// aliases and h, inv_rms and lse are there; otherwise buffers that are dead by then are shared,
// act's with gate's.
absl::Status AllocateLayerActivations(const ModelConfig& config, Backend& backend,
                                      const LayerBatch& batch, Arena& arena, LayerActivations& act);
// What the backward passes of the two blocks take from the arena, one after the other.
struct MlpScratch {
  TensorView dact, dnorm;  // [num_tokens, intermediate], [num_tokens, hidden]
};
absl::StatusOr<MlpScratch> AllocateMlpScratch(const ModelConfig& config, Backend& backend,
                                              const LayerBatch& batch, Arena& arena);
struct AttentionScratch {
  TensorView d_o, dq, dk, dv;  // like o, q, k, v
  TensorView dnorm;            // [num_tokens, hidden]
};
absl::StatusOr<AttentionScratch> AllocateAttentionScratch(const ModelConfig& config,
                                                          Backend& backend, const LayerBatch& batch,
                                                          Arena& arena);
// A gradient of the residual stream, [num_tokens, hidden], as LayerBackward wants it.
absl::StatusOr<TensorView> AllocateResidualGradient(const ModelConfig& config, Backend& backend,
                                                    const LayerBatch& batch, Arena& arena);

// The linear layers that share one op call: q k v; o; gate up; down.
enum class LinearGroup : uint8_t { kQkv, kOutput, kGateUp, kDown };
inline constexpr int kNumLinearGroups = 4;
// A layer's parts are named after the group in each, and run in these orders.
inline constexpr std::array<LinearGroup, kNumLinearGroups> kForwardParts = {
    LinearGroup::kQkv, LinearGroup::kOutput, LinearGroup::kGateUp, LinearGroup::kDown};
inline constexpr std::array<LinearGroup, kNumLinearGroups> kBackwardParts = {
    LinearGroup::kDown, LinearGroup::kGateUp, LinearGroup::kOutput, LinearGroup::kQkv};

// The workspace in parts, one for each group, so that the backward pass of a layer that was just
// computed finds the weights that its forward pass decoded. Attention takes all but the first part:
// nothing else there is in use when it runs.
struct LayerWorkspaceParts {
  std::array<int64_t, kNumLinearGroups + 1> begin{};  // bytes; ascending; the last is their end
  int64_t bytes = 0;                                  // of the workspace
};

struct LayerContext {
  const Model& model;
  Backend& backend;
  ConstTensorView positions;                   // kI32 [num_tokens]
  LayerLora* lora = nullptr;                   // not owned; null: base model
  bool row_invariant = false;                  // see LinearArgs
  TensorView workspace;                        // kU8; at least LayerWorkspaceBytes, or parts->bytes
  const LayerWorkspaceParts* parts = nullptr;  // not owned; null: one for all
  bool decoded = false;  // LayerBackward, with parts: LayerForward of this layer was the last to
                         // use the workspace
};

// Of a context, for one group's op and for attention.
TensorView LinearWorkspace(const LayerContext& context, LinearGroup group);
TensorView AttentionWorkspace(const LayerContext& context);

struct LayerWorkspaceOptions {
  bool row_invariant = false;
  bool backward = false;
  int64_t max_rank = 0;           // of the adapters in use; 0: base rows only
  bool dropout = false;           // a LoraDropout with a probability above 0
  bool packed_attention = false;  // Ops::Attention, and its backward pass with `backward`
  int64_t max_seqlen = 0;         // of packed_attention: no sequence is longer; 0: num_tokens
};
// Scratch for forward, and for backward if asked, of any layer with `num_tokens` rows.
int64_t LayerWorkspaceBytes(const Model& model, Backend& backend, int64_t num_tokens,
                            const LayerWorkspaceOptions& options);

// The same in parts.
LayerWorkspaceParts PartLayerWorkspace(const Model& model, Backend& backend, int64_t num_tokens,
                                       const LayerWorkspaceOptions& options);

// Reads act.x, fills act, writes the layer's output to y (which may alias act.x only when nothing
// is kept for a backward pass). With y empty the layer is computed again for its backward pass: all
// but the down projection, whose output that pass does not need; its adapters' xa must have been
// kept.
absl::Status LayerForward(int64_t layer, const LayerContext& context, LayerAttention& attention,
                          LayerActivations& act, TensorView y, Stream& stream);
// One part of it: of kForwardParts, in order and with the same arguments, what LayerForward does to
// the bit. With y empty kDown does nothing.
absl::Status LayerForwardPart(LinearGroup part, int64_t layer, const LayerContext& context,
                              LayerAttention& attention, LayerActivations& act, TensorView y,
                              Stream& stream);

// Packed sequences, as in AttentionArgs.
struct SequenceBounds {
  ConstTensorView cu_seqlens;
  int64_t max_seqlen = 0;
};

// Lays out in a measuring arena what LayerBackward takes from its arena, so that the arena's peak
// is exact, and gives it back.
absl::Status MeasureLayerBackward(const ModelConfig& config, Backend& backend,
                                  const LayerBatch& batch, Arena& arena);

// Gradients of one layer. `dy` [num_tokens, hidden] holds dL/dy on entry and dL/dx on return; LoRA
// gradients are added to the segments' da and db. `act` is as LayerForward left it, norm and act
// excepted, and is destroyed. Scratch comes from `arena`, released on return.
absl::Status LayerBackward(int64_t layer, const LayerContext& context,
                           const SequenceBounds& sequences, const LayerBatch& batch,
                           LayerActivations& act, TensorView dy, Arena& arena, Stream& stream);
// One part of it: of kBackwardParts, in order and with the same arguments, what LayerBackward does
// to the bit. From kOutput to kQkv the arena's free part holds data: nothing else may use it.
absl::Status LayerBackwardPart(LinearGroup part, int64_t layer, const LayerContext& context,
                               const SequenceBounds& sequences, const LayerBatch& batch,
                               LayerActivations& act, TensorView dy, Arena& arena, Stream& stream);

}  // namespace lorad

#endif  // LORAD_ENGINE_MODEL_LAYER_H_
