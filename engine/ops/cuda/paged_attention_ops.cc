#include "engine/ops/cuda/paged_attention_ops.h"

#include "absl/strings/str_cat.h"
#include "engine/device/cuda/cuda_error.h"
#include "engine/ops/cuda/paged_attention.h"

namespace lorad::cuda {

absl::Status KvWrite(const KvWriteArgs& args, cudaStream_t stream) {
  KvWriteParams params;
  params.k = args.k.as<BFloat16>();
  params.v = args.v.as<BFloat16>();
  params.slots = args.slots.as<int64_t>();
  params.k_cache = args.k_cache.as<BFloat16>();
  params.v_cache = args.v_cache.as<BFloat16>();
  params.num_tokens = args.k.shape[0];
  params.width = args.k.shape[1] * args.k.shape[2];
  params.page_tokens = args.k_cache.shape[1];
  params.k_stride = args.k.stride();
  params.v_stride = args.v.stride();
  params.k_page_stride = args.k_cache.stride();
  params.v_page_stride = args.v_cache.stride();
  return ToStatus(LaunchKvWrite(params, stream), "kv write");
}

absl::Status PagedAttention(const PagedAttentionArgs& args, cudaStream_t stream, void* scratch,
                            int64_t scratch_bytes) {
  const int64_t head_dim = args.q.shape[2];
  if (head_dim % 2 != 0 || head_dim > kMaxPagedHeadDim) {
    return absl::InvalidArgumentError(absl::StrCat("paged_attention: heads of ", head_dim,
                                                   ", the GPU takes even ones up to ",
                                                   kMaxPagedHeadDim));
  }
  PagedAttentionParams params;
  params.q = args.q.as<BFloat16>();
  params.k_cache = args.k_cache.as<BFloat16>();
  params.v_cache = args.v_cache.as<BFloat16>();
  params.page_table = args.page_table.as<int32_t>();
  params.context_lens = args.context_lens.as<int32_t>();
  params.cu_seqlens = args.cu_seqlens.as<int32_t>();
  params.o = args.o.as<BFloat16>();
  params.num_tokens = args.q.shape[0];
  params.num_sequences = args.context_lens.shape[0];
  params.num_heads = args.q.shape[1];
  params.num_kv_heads = args.k_cache.shape[2];
  params.head_dim = args.q.shape[2];
  params.page_tokens = args.k_cache.shape[1];
  params.max_pages = args.page_table.shape[1];
  params.q_stride = args.q.stride();
  params.k_page_stride = args.k_cache.stride();
  params.v_page_stride = args.v_cache.stride();
  params.page_table_stride = args.page_table.stride();
  params.o_stride = args.o.stride();
  params.scale = args.scale;
  params.workspace = scratch;
  params.workspace_bytes = scratch_bytes;
  return ToStatus(LaunchPagedAttention(params, stream), "paged attention");
}

}  // namespace lorad::cuda
