#include "engine/ops/weight.h"

#include "engine/core/checked_math.h"
#include "engine/core/status_macros.h"
#include "engine/ops/check_args.h"
#include "engine/ops/validate_weight.h"

namespace lorad::ops {

absl::Status ValidateWeight(const char* op, const WeightView& weight) {
  if (weight.spec.format == QuantFormat::kNone) {
    RETURN_IF_ERROR(CheckDType(op, "weight", weight.dense, DType::kBF16));
    return CheckShape(op, "weight", weight.dense, {weight.out_features, weight.in_features});
  }
  const int32_t block = weight.spec.block;
  RETURN_IF_ERROR(CheckThat(block >= 32 && block <= 4096 && (block & (block - 1)) == 0, op,
                            "weight block", block, "a power of two from 32 to 4096"));
  RETURN_IF_ERROR(CheckDType(op, "weight codes", weight.codes, DType::kU8));
  RETURN_IF_ERROR(CheckDType(op, "weight code book", weight.code_book, DType::kF32));
  const int bits = CodeBits(weight.spec.format);
  const int64_t blocks = weight.num_blocks();
  RETURN_IF_ERROR(
      CheckShape(op, "weight codes", weight.codes, {CeilDiv(weight.num_elements() * bits, 8)}));
  RETURN_IF_ERROR(CheckShape(op, "weight code book", weight.code_book, {int64_t{1} << bits}));
  if (!weight.spec.double_quant) {
    RETURN_IF_ERROR(CheckDType(op, "weight scales", weight.scales, DType::kF32));
    return CheckShape(op, "weight scales", weight.scales, {blocks});
  }
  RETURN_IF_ERROR(CheckDType(op, "weight scales_u8", weight.scales_u8, DType::kU8));
  RETURN_IF_ERROR(CheckDType(op, "weight nested_code", weight.nested_code, DType::kF32));
  RETURN_IF_ERROR(CheckDType(op, "weight nested_scales", weight.nested_scales, DType::kF32));
  RETURN_IF_ERROR(CheckShape(op, "weight scales_u8", weight.scales_u8, {blocks}));
  RETURN_IF_ERROR(CheckShape(op, "weight nested_code", weight.nested_code, {256}));
  return CheckShape(op, "weight nested_scales", weight.nested_scales,
                    {CeilDiv(blocks, kNestedBlock)});
}

}  // namespace lorad::ops
