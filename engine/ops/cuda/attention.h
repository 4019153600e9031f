// Launchers of lorad's own FlashAttention-2 kernels: causal grouped-query attention over packed
// sequences, forward and backward. Formulas: engine/ops/attention.h.
//
// Element d of head h of token t lies at data + t * stride + h * head_dim + d, each tensor with its
// own stride: q, k and v may be slices of one buffer. What lies between the slices is neither read
// nor written. Outputs do not overlap inputs. 16-byte accesses where all pointers are aligned to 16
// bytes and all strides and head_dim are multiples of 8; anything else is correct, and slow.
// head_dim is even and at most 256; cudaErrorInvalidValue otherwise. The same inputs give the same
// bits, and a sequence's results do not depend on what it is packed with.
#ifndef LORAD_ENGINE_OPS_CUDA_ATTENTION_H_
#define LORAD_ENGINE_OPS_CUDA_ATTENTION_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/core/dtype.h"

namespace lorad::cuda {

struct AttentionForwardParams {
  const BFloat16* q;          // [num_tokens, num_heads, head_dim]
  const BFloat16* k;          // [num_tokens, num_kv_heads, head_dim]
  const BFloat16* v;          // like k
  BFloat16* o;                // like q
  float* lse;                 // [num_tokens, num_heads] dense, natural logarithm; null: not wanted
  const int32_t* cu_seqlens;  // [num_sequences + 1] in device memory, ascending, 0 to num_tokens
  int64_t num_tokens, num_sequences, num_heads, num_kv_heads, head_dim;
  int64_t q_stride, k_stride, v_stride, o_stride;
  float scale;  // > 0
};
cudaError_t LaunchAttentionForward(const AttentionForwardParams& params, cudaStream_t stream);

struct AttentionBackwardParams {
  const BFloat16* dout;           // like q
  const BFloat16 *q, *k, *v, *o;  // of the forward pass
  const float* lse;               // of the forward pass
  BFloat16 *dq, *dk, *dv;         // like q, k, v; overwritten
  const int32_t* cu_seqlens;      // as in the forward pass
  void* workspace;                // AttentionBackwardWorkspaceBytes(), 16-byte aligned
  int64_t num_tokens, num_sequences, num_heads, num_kv_heads, head_dim;
  int64_t dout_stride, q_stride, k_stride, v_stride, o_stride, dq_stride, dk_stride, dv_stride;
  float scale;  // > 0
};
cudaError_t LaunchAttentionBackward(const AttentionBackwardParams& params, cudaStream_t stream);

// 8 bytes per token and head: lse in base 2, and delta.
int64_t AttentionBackwardWorkspaceBytes(int64_t num_tokens, int64_t num_heads);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ATTENTION_H_
