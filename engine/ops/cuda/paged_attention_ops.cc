#include "engine/ops/cuda/paged_attention_ops.h"

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/device/cuda/cuda_error.h"
#include "engine/ops/cuda/decode_attention.h"
#include "engine/ops/cuda/elementwise.h"
#include "engine/ops/cuda/paged_attention.h"
#include "engine/ops/cuda/row_product.h"

namespace lorad::cuda {
namespace {

absl::Status CheckHeadDim(int64_t head_dim) {
  if (head_dim % 2 == 0 && head_dim <= kMaxPagedHeadDim) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("paged_attention: heads of ", head_dim,
                                                 ", the GPU takes even ones up to ",
                                                 kMaxPagedHeadDim));
}

PagedAttentionParams ToParams(const PagedAttentionArgs& args, void* scratch,
                              int64_t scratch_bytes) {
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
  return params;
}

absl::Status Rope(const TensorView& x, int64_t heads, const RopePagedAttentionArgs& args,
                  cudaStream_t stream) {
  return ToStatus(LaunchRope(x.as<BFloat16>(), x.stride(), args.positions.as<int32_t>(),
                             args.inv_freq.as<float>(), x.shape[0], heads, x.shape[2],
                             /*inverse=*/false, stream),
                  "rope");
}

// One launch where k follows q in each row of one buffer.
absl::Status RopeBoth(const RopePagedAttentionArgs& args, cudaStream_t stream) {
  const int64_t q_heads = args.q.shape[1], k_heads = args.k.shape[1];
  const BFloat16* q_end = args.q.as<BFloat16>() + q_heads * args.q.shape[2];
  if (args.k.as<BFloat16>() == q_end && args.q.stride() == args.k.stride() && !args.q.dense())
    return Rope(args.q, q_heads + k_heads, args, stream);
  RETURN_IF_ERROR(Rope(args.q, q_heads, args, stream));
  return Rope(args.k, k_heads, args, stream);
}

}  // namespace

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
  RETURN_IF_ERROR(CheckHeadDim(args.q.shape[2]));
  return ToStatus(LaunchPagedAttention(ToParams(args, scratch, scratch_bytes), stream),
                  "paged attention");
}

absl::Status RopePagedAttention(const RopePagedAttentionArgs& args, const LinearScratch& scratch) {
  const auto bytes = static_cast<int64_t>(scratch.lt_workspace_bytes);
  const PagedAttentionArgs attention = args.Attention();
  RETURN_IF_ERROR(CheckHeadDim(args.q.shape[2]));
  DecodeAttentionParams params;
  params.attention = ToParams(attention, scratch.lt_workspace, bytes);
  params.k = args.k.as<BFloat16>();
  params.v = args.v.as<BFloat16>();
  params.k_stride = args.k.stride();
  params.v_stride = args.v.stride();
  params.positions = args.positions.as<int32_t>();
  params.inv_freq = args.inv_freq.as<float>();
  params.slots = args.slots.as<int64_t>();
  params.k_cache = args.k_cache.as<BFloat16>();
  params.v_cache = args.v_cache.as<BFloat16>();
  params.counters = scratch.counters;
  params.num_counters = scratch.counters == nullptr ? 0 : kRowProductCounters;
  if (CanDecodeAttention(params))
    return ToStatus(LaunchDecodeAttention(params, scratch.stream), "decode attention");
  RETURN_IF_ERROR(RopeBoth(args, scratch.stream));
  RETURN_IF_ERROR(KvWrite(args.Write(), scratch.stream));
  return PagedAttention(attention, scratch.stream, scratch.lt_workspace, bytes);
}

}  // namespace lorad::cuda
