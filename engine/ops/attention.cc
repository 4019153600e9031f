#include "engine/ops/attention.h"

#include "engine/core/status_macros.h"
#include "engine/ops/check_args.h"

namespace lorad {
namespace {

absl::Status CheckHeads(const char* op, const ConstTensorView& q, int64_t kv_heads,
                        int64_t kv_dim) {
  RETURN_IF_ERROR(ops::CheckDims(op, "q", q, 3));
  if (kv_heads <= 0 || q.shape[1] % kv_heads != 0 || q.shape[2] != kv_dim) {
    return absl::InvalidArgumentError(
        absl::StrCat(op, ": q has ", q.shape[1], " heads of ", q.shape[2], ", k and v ", kv_heads,
                     " of ", kv_dim, "; the heads must divide and the dimensions agree"));
  }
  return absl::OkStatus();
}

absl::Status CheckWide(const char* op, const char* name, const ConstTensorView& view,
                       const ConstTensorView& q) {
  RETURN_IF_ERROR(ops::CheckDType(op, name, view, ops::WideDType(q.dtype)));
  return ops::CheckShape(op, name, view, {q.shape[0], q.shape[1]});
}

// The cache holds activations, or bf16.
absl::Status CheckCache(const char* op, const ConstTensorView& cache, const ConstTensorView& like) {
  if (cache.dtype == DType::kBF16) return absl::OkStatus();
  return ops::CheckDType(op, "k_cache", cache, like.dtype);
}

absl::Status CheckSequences(const char* op, const ConstTensorView& cu_seqlens) {
  RETURN_IF_ERROR(ops::CheckDims(op, "cu_seqlens", cu_seqlens, 1));
  RETURN_IF_ERROR(ops::CheckDType(op, "cu_seqlens", cu_seqlens, DType::kI32));
  return ops::CheckThat(cu_seqlens.shape[0] >= 1, op, "entries of cu_seqlens",
                        static_cast<double>(cu_seqlens.shape[0]), ">= 1");
}

}  // namespace

absl::Status Validate(const AttentionArgs& args) {
  RETURN_IF_ERROR(ops::CheckActivation("attention", "q", args.q));
  RETURN_IF_ERROR(ops::CheckDims("attention", "k", args.k, 3));
  RETURN_IF_ERROR(CheckHeads("attention", args.q, args.k.shape[1], args.k.shape[2]));
  RETURN_IF_ERROR(ops::CheckShape("attention", "k", args.k,
                                  {args.q.shape[0], args.k.shape[1], args.k.shape[2]}));
  RETURN_IF_ERROR(ops::CheckDType("attention", "k", args.k, args.q.dtype));
  RETURN_IF_ERROR(ops::CheckLike("attention", "v", args.v, args.k));
  RETURN_IF_ERROR(ops::CheckLike("attention", "o", args.o, args.q));
  if (!args.lse.empty()) RETURN_IF_ERROR(CheckWide("attention", "lse", args.lse, args.q));
  RETURN_IF_ERROR(ops::CheckThat(args.scale > 0, "attention", "scale", args.scale, "> 0"));
  return CheckSequences("attention", args.cu_seqlens);
}

absl::Status Validate(const AttentionBackwardArgs& args) {
  constexpr char kOp[] = "attention_backward";
  RETURN_IF_ERROR(ops::CheckActivation(kOp, "q", args.q));
  RETURN_IF_ERROR(ops::CheckDims(kOp, "k", args.k, 3));
  RETURN_IF_ERROR(CheckHeads(kOp, args.q, args.k.shape[1], args.k.shape[2]));
  RETURN_IF_ERROR(
      ops::CheckShape(kOp, "k", args.k, {args.q.shape[0], args.k.shape[1], args.k.shape[2]}));
  RETURN_IF_ERROR(ops::CheckDType(kOp, "k", args.k, args.q.dtype));
  RETURN_IF_ERROR(ops::CheckLike(kOp, "v", args.v, args.k));
  RETURN_IF_ERROR(ops::CheckLike(kOp, "o", args.o, args.q));
  RETURN_IF_ERROR(ops::CheckLike(kOp, "dout", args.dout, args.q));
  RETURN_IF_ERROR(ops::CheckLike(kOp, "dq", args.dq, args.q));
  RETURN_IF_ERROR(ops::CheckLike(kOp, "dk", args.dk, args.k));
  RETURN_IF_ERROR(ops::CheckLike(kOp, "dv", args.dv, args.k));
  RETURN_IF_ERROR(CheckWide(kOp, "lse", args.lse, args.q));
  RETURN_IF_ERROR(ops::CheckThat(args.scale > 0, kOp, "scale", args.scale, "> 0"));
  return CheckSequences(kOp, args.cu_seqlens);
}

absl::Status Validate(const PagedAttentionArgs& args) {
  constexpr char kOp[] = "paged_attention";
  RETURN_IF_ERROR(ops::CheckActivation(kOp, "q", args.q));
  RETURN_IF_ERROR(ops::CheckDims(kOp, "k_cache", args.k_cache, 4));
  RETURN_IF_ERROR(CheckHeads(kOp, args.q, args.k_cache.shape[2], args.k_cache.shape[3]));
  RETURN_IF_ERROR(CheckCache(kOp, args.k_cache, args.q));
  RETURN_IF_ERROR(ops::CheckLike(kOp, "v_cache", args.v_cache, args.k_cache));
  RETURN_IF_ERROR(ops::CheckLike(kOp, "o", args.o, args.q));
  RETURN_IF_ERROR(ops::CheckThat(args.scale > 0, kOp, "scale", args.scale, "> 0"));
  RETURN_IF_ERROR(CheckSequences(kOp, args.cu_seqlens));
  const int64_t sequences = args.cu_seqlens.shape[0] - 1;
  RETURN_IF_ERROR(ops::CheckDType(kOp, "context_lens", args.context_lens, DType::kI32));
  RETURN_IF_ERROR(ops::CheckShape(kOp, "context_lens", args.context_lens, {sequences}));
  RETURN_IF_ERROR(ops::CheckDType(kOp, "page_table", args.page_table, DType::kI32));
  RETURN_IF_ERROR(ops::CheckDims(kOp, "page_table", args.page_table, 2));
  return ops::CheckShape(kOp, "page_table", args.page_table, {sequences, args.page_table.shape[1]});
}

absl::Status Validate(const KvWriteArgs& args) {
  RETURN_IF_ERROR(ops::CheckActivation("kv_write", "k", args.k));
  RETURN_IF_ERROR(ops::CheckDims("kv_write", "k", args.k, 3));
  RETURN_IF_ERROR(ops::CheckLike("kv_write", "v", args.v, args.k));
  RETURN_IF_ERROR(ops::CheckDType("kv_write", "slots", args.slots, DType::kI64));
  RETURN_IF_ERROR(ops::CheckShape("kv_write", "slots", args.slots, {args.k.shape[0]}));
  RETURN_IF_ERROR(ops::CheckDims("kv_write", "k_cache", args.k_cache, 4));
  RETURN_IF_ERROR(ops::CheckShape(
      "kv_write", "k_cache", args.k_cache,
      {args.k_cache.shape[0], args.k_cache.shape[1], args.k.shape[1], args.k.shape[2]}));
  RETURN_IF_ERROR(CheckCache("kv_write", args.k_cache, args.k));
  return ops::CheckLike("kv_write", "v_cache", args.v_cache, args.k_cache);
}

absl::Status Validate(const RopePagedAttentionArgs& args) {
  RETURN_IF_ERROR(Validate(args.RopeOfQ()));
  RETURN_IF_ERROR(Validate(args.RopeOfK()));
  RETURN_IF_ERROR(Validate(args.Write()));
  RETURN_IF_ERROR(Validate(args.Attention()));
  RETURN_IF_ERROR(ops::CheckDType("rope_paged_attention", "k", args.k, args.q.dtype));
  const int64_t sequences = args.context_lens.shape[0];
  return ops::CheckThat(sequences <= args.q.shape[0], "rope_paged_attention", "sequences",
                        static_cast<double>(sequences), "at most the new rows");
}

}  // namespace lorad
