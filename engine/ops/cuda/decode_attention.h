// A decoding step's rotation, write to the paged KV cache and attention as one kernel.
#ifndef LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_H_
#define LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/core/dtype.h"
#include "engine/ops/cuda/paged_attention.h"

namespace lorad::cuda {

// Strides as in PagedAttentionParams.
struct DecodeAttentionParams {
  // q before its rotation, which it keeps. Row t is the one new row of sequence t; cu_seqlens is
  // not read. The workspace may hold anything, and may be small.
  PagedAttentionParams attention;
  const BFloat16* k = nullptr;  // [num_tokens, num_kv_heads, head_dim], before its rotation
  const BFloat16* v = nullptr;  // like k
  int64_t k_stride = 0, v_stride = 0;
  const int32_t* positions = nullptr;  // [num_tokens]
  const float* inv_freq = nullptr;     // [head_dim / 2]
  const int64_t* slots = nullptr;      // [num_tokens]: where position context_lens[t] - 1 lies
  BFloat16* k_cache = nullptr;         // attention.k_cache
  BFloat16* v_cache = nullptr;         // attention.v_cache
  // Zeros, which the kernel leaves as it found them. Of one stream, like the workspace.
  uint32_t* counters = nullptr;
  int64_t num_counters = 0;
};

// Whether the kernel takes these: one row for each sequence, head_dim a multiple of 16 up to 128,
// at most 16 heads of q for one of k, page_tokens a multiple of 32, pointers aligned to 16 bytes
// and strides that are multiples of 8; and whether a block of the current device has enough shared
// memory, and kv heads no more than blocks or counters.
bool CanDecodeAttention(const DecodeAttentionParams& params);

// To the bit what LaunchRope of q and k, LaunchKvWrite and LaunchPagedAttention leave in o and in
// the cache. Beside the page table, the lengths, positions and slots the keys and values of earlier
// positions too must have been written by a copy, or by no kernel since the last one: the kernel
// reads them before earlier kernels have ended. cudaErrorInvalidValue where it does not take them.
cudaError_t LaunchDecodeAttention(const DecodeAttentionParams& params, cudaStream_t stream);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_H_
