#ifndef LORAD_ENGINE_OPS_ATTENTION_H_
#define LORAD_ENGINE_OPS_ATTENTION_H_

#include "absl/status/status.h"
#include "engine/core/tensor_view.h"
#include "engine/ops/rope.h"

namespace lorad {

// Causal grouped-query attention over packed sequences of different lengths; no sequence sees
// another. Head h of q reads head h / (num_heads / num_kv_heads) of k and v.
//   o[t, h, :] = sum over s <= t in the same sequence of softmax_s(scale * q[t, h] . k[s, h']) v[s,
//   h'] lse[t, h]  = log of the softmax denominator, with the maximum added back
// The score matrix is never held whole. Source: Dao, "FlashAttention-2", 2023 (lse, backward form).
struct AttentionArgs {
  ConstTensorView q;           // activation dtype [num_tokens, num_heads, head_dim]
  ConstTensorView k;           // activation dtype [num_tokens, num_kv_heads, head_dim]
  ConstTensorView v;           // like k
  ConstTensorView cu_seqlens;  // kI32 [num_sequences + 1], ascending from 0 to num_tokens
  TensorView o;                // like q
  TensorView lse;   // kF32 (kF64 in double precision) [num_tokens, num_heads]; empty: not wanted
  float scale = 0;  // 1 / sqrt(head_dim)
  int64_t max_seqlen = 0;     // no sequence is longer; 0: num_tokens
  TensorView workspace = {};  // kU8 [>= AttentionWorkspaceBytes(args)]; may be empty if that is 0
};
absl::Status Validate(const AttentionArgs& args);

// With p = exp(scale * q k^T - lse), delta = rowsum(dout * o):
//   dv = p^T dout,  ds = p * (dout v^T - delta),  dq = scale * ds k,  dk = scale * ds^T q
struct AttentionBackwardArgs {
  ConstTensorView dout;                         // like q
  ConstTensorView q, k, v, o, lse, cu_seqlens;  // of the forward pass
  TensorView dq;                                // like q; overwritten
  TensorView dk;                                // like k; overwritten
  TensorView dv;                                // like v; overwritten
  float scale = 0;
  int64_t max_seqlen = 0;     // as in AttentionArgs
  TensorView workspace = {};  // kU8 [>= AttentionBackwardWorkspaceBytes(args)]
};
absl::Status Validate(const AttentionBackwardArgs& args);

// Attention of new tokens over a paged KV cache: prefill chunks and decoding in one op. The last
// query of a sequence stands at position context_lens[s] - 1; a query at position p sees keys 0..p.
// Each row's result depends on its own sequence alone, and not on how the prompt was cut in chunks.
struct PagedAttentionArgs {
  ConstTensorView q;  // activation dtype [num_tokens, num_heads, head_dim]
  // kv dtype [num_pages, page_tokens, num_kv_heads, head_dim]; pages may lie apart (row_stride)
  ConstTensorView k_cache;
  ConstTensorView v_cache;     // like k_cache
  ConstTensorView page_table;  // kI32 [num_sequences, max_pages]; unused entries are not read
  ConstTensorView
      context_lens;            // kI32 [num_sequences]: keys of each sequence, the new ones included
  ConstTensorView cu_seqlens;  // kI32 [num_sequences + 1]: rows of q of each sequence
  TensorView o;                // like q
  float scale = 0;
};
absl::Status Validate(const PagedAttentionArgs& args);

// Writes the new tokens' keys and values to their places in the cache.
struct KvWriteArgs {
  ConstTensorView k;      // activation dtype [num_tokens, num_kv_heads, head_dim], rotated
  ConstTensorView v;      // like k
  ConstTensorView slots;  // kI64 [num_tokens]: page * page_tokens + offset, distinct
  TensorView k_cache;     // kv dtype [num_pages, page_tokens, num_kv_heads, head_dim], as above
  TensorView v_cache;     // like k_cache
};
absl::Status Validate(const KvWriteArgs& args);

// Rope of q and of k, KvWrite, PagedAttention, one after the other: what a layer does with the new
// rows of serving. To the bit as those ops, but that q and k hold anything afterwards. Every
// sequence has new rows; slots[t] is where the page table has the position of row t, and no row
// sees what another sequence's row writes. A GPU may read all indices, and the keys and values of
// positions before the new rows, before earlier work on the stream has ended, back to the last copy
// there: a pass begins with one, and writes to no earlier position.
struct RopePagedAttentionArgs {
  TensorView q;               // activation dtype [num_tokens, num_heads, head_dim]
  TensorView k;               // activation dtype [num_tokens, num_kv_heads, head_dim]
  ConstTensorView v;          // like k
  ConstTensorView positions;  // as in RopeArgs
  ConstTensorView inv_freq;
  ConstTensorView slots;  // as in KvWriteArgs
  TensorView k_cache;
  TensorView v_cache;
  ConstTensorView page_table;  // as in PagedAttentionArgs
  ConstTensorView context_lens;
  ConstTensorView cu_seqlens;
  TensorView o;
  float scale = 0;

  RopeArgs RopeOfQ() const { return {q, positions, inv_freq}; }
  RopeArgs RopeOfK() const { return {k, positions, inv_freq}; }
  KvWriteArgs Write() const { return {k, v, slots, k_cache, v_cache}; }
  PagedAttentionArgs Attention() const {
    return {q, k_cache, v_cache, page_table, context_lens, cu_seqlens, o, scale};
  }
};
absl::Status Validate(const RopePagedAttentionArgs& args);

}  // namespace lorad

#endif  // LORAD_ENGINE_OPS_ATTENTION_H_
