#ifndef LORAD_ENGINE_OPS_EMBEDDING_H_
#define LORAD_ENGINE_OPS_EMBEDDING_H_

#include "absl/status/status.h"
#include "engine/core/tensor_view.h"

namespace lorad {

// out[t, :] = table[ids[t], :]
struct EmbeddingArgs {
  ConstTensorView ids;  // kI32 [num_tokens], each in [0, vocab); the caller has checked the values
  ConstTensorView table;  // kBF16 [vocab, hidden]
  TensorView out;         // activation dtype [num_tokens, hidden]
};
absl::Status Validate(const EmbeddingArgs& args);

}  // namespace lorad

#endif  // LORAD_ENGINE_OPS_EMBEDDING_H_
