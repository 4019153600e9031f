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

absl::Status CheckSequences(const char* op, const ConstTensorView& cu_seqlens) {
  RETURN_IF_ERROR(ops::CheckDims(op, "cu_seqlens", cu_seqlens, 1));
  RETURN_IF_ERROR(ops::CheckDType(op, "cu_seqlens", cu_seqlens, DType::kI32));
  return ops::CheckThat(cu_seqlens.shape[0] >= 1, op, "entries of cu_seqlens",
                        static_cast<double>(cu_seqlens.shape[0]), ">= 1");
}

}  // namespace

absl::Status Validate(const AttentionArgs& args) {
  RETURN_IF_ERROR(ops::CheckDims("attention", "k", args.k, 3));
  RETURN_IF_ERROR(CheckHeads("attention", args.q, args.k.shape[1], args.k.shape[2]));
  RETURN_IF_ERROR(ops::CheckShape("attention", "k", args.k,
                                  {args.q.shape[0], args.k.shape[1], args.k.shape[2]}));
  RETURN_IF_ERROR(ops::CheckShape("attention", "v", args.v, args.k.shape));
  RETURN_IF_ERROR(ops::CheckShape("attention", "o", args.o, args.q.shape));
  if (!args.lse.empty()) {
    RETURN_IF_ERROR(
        ops::CheckShape("attention", "lse", args.lse, {args.q.shape[0], args.q.shape[1]}));
  }
  return CheckSequences("attention", args.cu_seqlens);
}

absl::Status Validate(const AttentionBackwardArgs& args) {
  constexpr char kOp[] = "attention_backward";
  RETURN_IF_ERROR(ops::CheckDims(kOp, "k", args.k, 3));
  RETURN_IF_ERROR(CheckHeads(kOp, args.q, args.k.shape[1], args.k.shape[2]));
  RETURN_IF_ERROR(ops::CheckShape(kOp, "v", args.v, args.k.shape));
  RETURN_IF_ERROR(ops::CheckShape(kOp, "o", args.o, args.q.shape));
  RETURN_IF_ERROR(ops::CheckShape(kOp, "dout", args.dout, args.q.shape));
  RETURN_IF_ERROR(ops::CheckShape(kOp, "dq", args.dq, args.q.shape));
  RETURN_IF_ERROR(ops::CheckShape(kOp, "dk", args.dk, args.k.shape));
  RETURN_IF_ERROR(ops::CheckShape(kOp, "dv", args.dv, args.k.shape));
  RETURN_IF_ERROR(ops::CheckShape(kOp, "lse", args.lse, {args.q.shape[0], args.q.shape[1]}));
  return CheckSequences(kOp, args.cu_seqlens);
}

absl::Status Validate(const PagedAttentionArgs& args) {
  constexpr char kOp[] = "paged_attention";
  RETURN_IF_ERROR(ops::CheckDims(kOp, "k_cache", args.k_cache, 4));
  RETURN_IF_ERROR(CheckHeads(kOp, args.q, args.k_cache.shape[2], args.k_cache.shape[3]));
  RETURN_IF_ERROR(ops::CheckShape(kOp, "v_cache", args.v_cache, args.k_cache.shape));
  RETURN_IF_ERROR(ops::CheckShape(kOp, "o", args.o, args.q.shape));
  RETURN_IF_ERROR(CheckSequences(kOp, args.cu_seqlens));
  const int64_t sequences = args.cu_seqlens.shape[0] - 1;
  RETURN_IF_ERROR(ops::CheckDType(kOp, "context_lens", args.context_lens, DType::kI32));
  RETURN_IF_ERROR(ops::CheckShape(kOp, "context_lens", args.context_lens, {sequences}));
  RETURN_IF_ERROR(ops::CheckDType(kOp, "page_table", args.page_table, DType::kI32));
  RETURN_IF_ERROR(ops::CheckDims(kOp, "page_table", args.page_table, 2));
  return ops::CheckShape(kOp, "page_table", args.page_table, {sequences, args.page_table.shape[1]});
}

absl::Status Validate(const KvWriteArgs& args) {
  RETURN_IF_ERROR(ops::CheckDims("kv_write", "k", args.k, 3));
  RETURN_IF_ERROR(ops::CheckShape("kv_write", "v", args.v, args.k.shape));
  RETURN_IF_ERROR(ops::CheckDType("kv_write", "slots", args.slots, DType::kI64));
  RETURN_IF_ERROR(ops::CheckShape("kv_write", "slots", args.slots, {args.k.shape[0]}));
  RETURN_IF_ERROR(ops::CheckDims("kv_write", "k_cache", args.k_cache, 4));
  RETURN_IF_ERROR(ops::CheckShape(
      "kv_write", "k_cache", args.k_cache,
      {args.k_cache.shape[0], args.k_cache.shape[1], args.k.shape[1], args.k.shape[2]}));
  return ops::CheckShape("kv_write", "v_cache", args.v_cache, args.k_cache.shape);
}

}  // namespace lorad
