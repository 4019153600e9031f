#include "engine/ops/embedding.h"

#include "engine/core/status_macros.h"
#include "engine/ops/check_args.h"

namespace lorad {

absl::Status Validate(const EmbeddingArgs& args) {
  RETURN_IF_ERROR(ops::CheckDims("embedding", "ids", args.ids, 1));
  RETURN_IF_ERROR(ops::CheckActivation("embedding", "out", args.out));
  RETURN_IF_ERROR(ops::CheckDims("embedding", "table", args.table, 2));
  RETURN_IF_ERROR(ops::CheckDType("embedding", "ids", args.ids, DType::kI32));
  RETURN_IF_ERROR(ops::CheckDType("embedding", "table", args.table, DType::kBF16));
  return ops::CheckShape("embedding", "out", args.out, {args.ids.shape[0], args.table.shape[1]});
}

}  // namespace lorad
