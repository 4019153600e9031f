// The inputs and tensors of one forward pass of serving.
#ifndef LORAD_ENGINE_INFER_PASS_H_
#define LORAD_ENGINE_INFER_PASS_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/core/arena.h"
#include "engine/core/quant_spec.h"
#include "engine/infer/staging.h"
#include "engine/lora/adapter.h"
#include "engine/lora/batch.h"
#include "engine/model/config.h"
#include "engine/model/layer.h"

namespace lorad {

// The new tokens of one sequence. Not owned; must stay until the pass is done.
struct SequenceRows {
  absl::Span<const int32_t> ids;           // at least one
  int64_t position = 0;                    // of ids[0]; the cache holds the keys before it
  absl::Span<const int32_t> pages;         // room for position + ids.size() tokens
  const DeviceAdapter* adapter = nullptr;  // null: base model
};

// How a pass multiplies with the weights.
enum class PassKind {
  // Row by row over the packed codes: a row's numbers do not depend on what shares the pass.
  kRowInvariant,
  // Weights are dequantised once and multiplied as matrices. The numbers of a row depend on how
  // many rows there are, so a pass holds one sequence, cut where that sequence alone decides.
  kMatrix,
};

// The rows of a batch as the ops want them, sequences with the same adapter side by side.
struct PackedRows {
  std::vector<int64_t> order;         // packed sequence -> index in the batch
  std::vector<int32_t> ids;           // [tokens]
  std::vector<int32_t> positions;     // [tokens]
  std::vector<int64_t> slots;         // [tokens]: places in the KV cache
  std::vector<int32_t> cu_seqlens;    // [sequences + 1]
  std::vector<int32_t> context_lens;  // [sequences]
  std::vector<int32_t> page_table;    // [sequences, max_pages]
  std::vector<AdapterRows> adapters;
  int64_t max_pages = 0;

  int64_t tokens() const { return static_cast<int64_t>(ids.size()); }
  int64_t sequences() const { return static_cast<int64_t>(order.size()); }
  // One new row for each sequence.
  bool decodes() const { return ids.size() == order.size(); }
};
PackedRows Pack(absl::Span<const SequenceRows> batch, int32_t page_tokens);
// The width of the page table of decoding passes whose sequences have at most so many pages: few
// widths, so that a pass is like the ones before it while its sequences grow.
int64_t DecodePages(int64_t pages);

enum class PassOutput { kNone, kLogits, kScores };

struct PassShape {
  PassKind kind = PassKind::kRowInvariant;
  PassOutput output = PassOutput::kNone;
  int64_t tokens = 0;
  int64_t sequences = 0;
  int64_t max_pages = 0;  // of one sequence
  int64_t max_rank = 0;   // of the adapters; 0: base rows alone
  int64_t top = 0;        // of kLogits: likeliest tokens that a row may ask for
};

struct PassTensors {
  TensorView inputs;  // kU8: the block of the next eight, which one copy fills
  TensorView ids, positions, slots, cu_seqlens, context_lens, page_table;  // as in PackedRows
  TensorView draws;   // kU8 [sequences, sizeof(DrawParams)]; of kLogits
  TensorView labels;  // kI32 [tokens]; of kScores
  TensorView x;       // activation dtype [tokens, hidden]
  LayerActivations activations;
  TensorView workspace;  // kU8: scratch of the layers, the head and the loss, one after the other
  TensorView last;       // activation dtype [sequences, hidden]: each sequence's last row
  TensorView logits;     // activation dtype [sequences, vocab]
  TensorView drawn;      // kU8: the block of the next four, which one copy reads
  TensorView drawn_ids, drawn_logprobs, top_ids, top_logprobs;  // as in SampleArgs
  TensorView losses;                                            // kF32 [tokens]
};
// Lays the tensors out in `arena`; over a measuring arena that gives the bytes of a pass. Needs no
// weights, so that memory can be planned before a model is loaded.
absl::StatusOr<PassTensors> AllocatePass(const PassShape& shape, const ModelConfig& config,
                                         const QuantSpec& quant, Backend& backend, Arena& arena);

// Bounds that the workspace of serving is sized for.
struct RunnerLimits {
  int64_t max_sequences = 0;   // of one pass
  int64_t max_tokens = 0;      // of one pass; at least max_sequences
  int64_t context_tokens = 0;  // longest sequence
  int64_t max_rank = 0;        // of an adapter
};
// Bytes that the largest pass takes.
absl::StatusOr<int64_t> RunnerWorkspaceBytes(const ModelConfig& config, const QuantSpec& quant,
                                             Backend& backend, int32_t page_tokens,
                                             const RunnerLimits& limits);

// Page-locked memory that any pass takes.
absl::StatusOr<StagingBytes> RunnerStagingBytes(const ModelConfig& config, const QuantSpec& quant,
                                                Backend& backend, int32_t page_tokens,
                                                const RunnerLimits& limits);

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_PASS_H_
