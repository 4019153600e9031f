// Linear layers over frozen weights with LoRA: the one op that training, prefill and decoding
// share.
#ifndef LORAD_ENGINE_OPS_LINEAR_H_
#define LORAD_ENGINE_OPS_LINEAR_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/core/tensor_view.h"
#include "engine/ops/weight.h"

namespace lorad {

// Rows [row_begin, row_end) of the batch go through this adapter. Rows in no segment are base rows.
struct LoraSegment {
  int64_t row_begin = 0;
  int64_t row_end = 0;
  // Adapter dtype; in the forward pass also the activation dtype, in which adapters are served.
  ConstTensorView a;  // [rank, in]
  ConstTensorView b;  // [out, rank], like a
  float scaling = 0;  // alpha / rank, or alpha / sqrt(rank) for rsLoRA
  // activation dtype [row_end - row_begin, rank]: drop(x) A^T. Written by the forward pass, read by
  // the backward pass.
  TensorView xa;
  TensorView
      da;  // adapter dtype [rank, in]; the backward pass adds to it; empty in the forward pass
  TensorView db;  // adapter dtype [out, rank]; likewise
};

// Inverted dropout on the input of A, as PEFT applies it. Element (t, i) is kept, and scaled by
// 1 / (1 - probability), when UniformFloat(Philox4x32(seed, step, module, token_keys[t] low 32,
// (token_keys[t] high 32) << 14 ^ (i / 4)).words[i % 4]) >= probability: a function of the seed,
// the optimiser step, the module and the token, so the same whatever shares the batch, and
// recomputable.
struct LoraDropout {
  float probability = 0;  // [0, 1); 0: none
  uint64_t seed = 0;
  uint32_t step = 0;
  uint32_t module = 0;         // index of the module in the model
  ConstTensorView token_keys;  // kU64 [num_tokens]: (sample << 32 | position in the sample)
};

// One of the linear layers that read the same x.
struct LinearTerm {
  WeightView weight;
  ConstTensorView bias;          // kF32 [out]; empty: none
  absl::Span<LoraSegment> lora;  // ascending, disjoint rows; ranks may differ
  LoraDropout dropout;
  TensorView y;  // activation dtype [num_tokens, out]
};

// How a backend likes the operands of linear layers laid out. Any layout is right; this one is
// fast.
struct LinearLayout {
  // y (or dy) of terms that share x as adjacent column slices of one buffer, in the terms' order:
  // one matrix product serves them all.
  bool side_by_side = false;
  // Spare columns: behind each row of x, and behind the last term's dy in the backward pass, room
  // for the sum of the terms' ranks, rounded up to this. 0: none wanted. They belong to the op,
  // which writes x A^T (or dy B) there and runs base and LoRA as one product over a longer
  // contraction.
  int64_t spare_column_align = 0;
  // A workspace that is left alone between a forward and its backward pass saves the second one
  // work: LinearBackwardArgs::workspace_is_forwards.
  bool reuses_workspace = false;

  int64_t SpareColumns(int64_t total_rank) const {
    const int64_t align = spare_column_align;
    return align == 0 ? 0 : (total_rank + align - 1) / align * align;
  }
};

// For each term:  y (+)= x W^T + bias + scaling * (drop(x) A^T) B^T
// LoRA: Hu et al., 2021; mixed adapters in a batch: Chen et al., "Punica", 2023.
// The CPU takes dense tensors alone.
struct LinearArgs {
  ConstTensorView x;             // activation dtype [num_tokens, in]; see LinearLayout
  absl::Span<LinearTerm> terms;  // q, k, v or gate, up: what shares x; one otherwise
  bool accumulate = false;       // add to y
  // Each row's result must not depend on the other rows: decoding. The matrix-vector kernels run
  // over the packed codes, on CUDA with bf16(code) * absmax in the place of bf16(code * absmax)
  // where 4-bit weights come in whole blocks: each is within 2^-9 of code * absmax. False: weights
  // are dequantised once and multiplied as matrices.
  bool row_invariant = false;
  TensorView workspace = {};  // kU8 [>= LinearWorkspaceBytes(args)]; may be empty if that is 0
  // Like y of the only term, which it may be; not with accumulate. y = residual + ...: a residual
  // connection without a copy. Empty: none.
  ConstTensorView residual = {};
  // Like y of the two terms, gate and up: silu(gate) * up (engine/ops/swiglu.h), of their values as
  // y holds them. Not with accumulate or residual. With row_invariant the terms' y may be left
  // unwritten. Empty: none.
  TensorView swiglu = {};
};
absl::Status Validate(const LinearArgs& args);

// Gradients for the input and the adapters; none for frozen weights. For each term, with
// s = scaling * dy B:
//   dx (+)= sum over terms of  dy W + drop'(s A)
//   db += scaling * dy^T xa,   da += s^T drop(x)
struct LinearBackwardTerm {
  WeightView weight;
  absl::Span<LoraSegment> lora;  // xa as the forward pass left it
  LoraDropout dropout;           // the same as in the forward pass
  ConstTensorView dy;            // activation dtype [num_tokens, out]
};
struct LinearBackwardArgs {
  ConstTensorView x;  // what the forward pass read
  absl::Span<LinearBackwardTerm> terms;
  TensorView dx;              // activation dtype [num_tokens, in]; empty: not wanted
  bool accumulate = false;    // add to dx
  TensorView workspace = {};  // kU8 [>= LinearBackwardWorkspaceBytes(args)]
  // The workspace is as Linear left it, called with it, not row_invariant, for the same terms over
  // the same x, whose weights and adapters are still the same: what was decoded there need not be
  // decoded again. What lies there is the op's own business.
  bool workspace_is_forwards = false;
};
absl::Status Validate(const LinearBackwardArgs& args);

}  // namespace lorad

#endif  // LORAD_ENGINE_OPS_LINEAR_H_
