// Attention over the paged KV cache, and writing to it. Formulas: engine/ops/attention.h.
#ifndef LORAD_ENGINE_OPS_CUDA_PAGED_ATTENTION_H_
#define LORAD_ENGINE_OPS_CUDA_PAGED_ATTENTION_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/core/dtype.h"

namespace lorad::cuda {

inline constexpr int64_t kMaxPagedHeadDim = 256;

// Strides are in elements, from one index of the first dimension to the next; the other dimensions
// are dense.
struct PagedAttentionParams {
  const BFloat16* q = nullptr;            // [num_tokens, num_heads, head_dim]
  const BFloat16* k_cache = nullptr;      // [pages, page_tokens, num_kv_heads, head_dim]
  const BFloat16* v_cache = nullptr;      // like k_cache
  const int32_t* page_table = nullptr;    // [num_sequences, max_pages]
  const int32_t* context_lens = nullptr;  // [num_sequences]
  const int32_t* cu_seqlens = nullptr;    // [num_sequences + 1], ascending, 0 to num_tokens
  BFloat16* o = nullptr;                  // like q
  int64_t num_tokens = 0, num_sequences = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
  int64_t page_tokens = 0, max_pages = 0;
  int64_t q_stride = 0, k_page_stride = 0, v_page_stride = 0, page_table_stride = 0, o_stride = 0;
  float scale = 0;  // > 0
  // PagedAttentionWorkspaceBytes(), aligned to 4 bytes, or less, or none: then the splits of a
  // context are taken one after the other, which is slow for few rows and gives the same bits.
  void* workspace = nullptr;
  int64_t workspace_bytes = 0;
};

// A row's bits depend on its q, its position and the keys and values up to it alone. 16-byte
// accesses where all pointers are aligned to 16 bytes and all strides and head_dim are multiples of
// 8; anything else is correct, and slow. head_dim is even and at most 256; cudaErrorInvalidValue
// otherwise. Page-table entries and slots beyond a row's position are not read. The page table, the
// lengths and the bounds must have been written by a copy, or by no kernel since the last one: the
// kernel may read them before earlier kernels have ended.
cudaError_t LaunchPagedAttention(const PagedAttentionParams& params, cudaStream_t stream);

// What lets few rows over long contexts use the whole device. 0: many rows, or short contexts.
// `max_keys` is max_pages * page_tokens.
int64_t PagedAttentionWorkspaceBytes(int64_t num_tokens, int64_t num_heads, int64_t num_kv_heads,
                                     int64_t head_dim, int64_t max_keys);

struct KvWriteParams {
  const BFloat16* k = nullptr;     // [num_tokens, width]
  const BFloat16* v = nullptr;     // like k
  const int64_t* slots = nullptr;  // [num_tokens]: page * page_tokens + offset, distinct
  BFloat16* k_cache = nullptr;     // [pages, page_tokens, width]
  BFloat16* v_cache = nullptr;     // like k_cache
  int64_t num_tokens = 0, width = 0, page_tokens = 0;
  int64_t k_stride = 0, v_stride = 0, k_page_stride = 0, v_page_stride = 0;
};
cudaError_t LaunchKvWrite(const KvWriteParams& params, cudaStream_t stream);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_PAGED_ATTENTION_H_
