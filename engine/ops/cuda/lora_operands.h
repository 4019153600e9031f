// Adapters as operands of matrix products: A and B of several terms side by side in bf16,
// and the low-rank activations x A^T back out of the wide buffer.
#ifndef LORAD_ENGINE_OPS_CUDA_LORA_OPERANDS_H_
#define LORAD_ENGINE_OPS_CUDA_LORA_OPERANDS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/core/dtype.h"

namespace lorad::cuda {

inline constexpr int kMaxLoraTerms = 4;  // adapters of one group of layers

// The adapter of one term: A [rank, in] and B [rows, rank], bf16 or fp32.
struct LoraOperand {
  const void* a = nullptr;
  int64_t a_stride = 0;
  const void* b = nullptr;
  int64_t b_stride = 0;
  float scaling = 0;
  int64_t rank = 0;
  int64_t rows = 0;    // outputs of the term
  int64_t column = 0;  // its ranks are [column, column + rank) of the group's
  int64_t row = 0;     // its outputs are [row, row + rows) of the group's
  bool is_fp32 = false;
};

// a_out [columns, in] = the A of all terms, one below the other; b_out [out, columns] = scaling * B
// of each term at its rows and columns. Zero elsewhere: all of both matrices is written. `columns`
// is a multiple of 8. At most kMaxLoraTerms terms, all with elements of one type.
cudaError_t LaunchLoraOperands(const LoraOperand* terms, int count, int64_t in, int64_t out,
                               int64_t columns, BFloat16* a_out, int64_t lda, BFloat16* b_out,
                               int64_t ldb, cudaStream_t stream);

// Where columns [column, column + rank) of s go: xa [rows, rank].
struct XaColumns {
  BFloat16* xa = nullptr;
  int64_t stride = 0;
  int64_t rank = 0;
  int64_t column = 0;
};

// xa[t, k] = s[t, column + k] for each of `terms`; s [rows, ..]. At most kMaxLoraTerms terms.
cudaError_t LaunchSaveXa(const XaColumns* terms, int count, const BFloat16* s, int64_t s_stride,
                         int64_t rows, cudaStream_t stream);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_LORA_OPERANDS_H_
