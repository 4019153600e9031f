// Products of a few rows with packed weights: decoding and chunks of prompts, where each row's bits
// must not depend on the rows beside it.
#ifndef LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_H_
#define LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/core/dtype.h"
#include "engine/ops/cuda/dequantize.h"

namespace lorad::cuda {

inline constexpr int kMaxRowProductTerms = 4;

struct RowProductTerm {
  PackedWeight weight;          // row_offset is not read
  const float* bias = nullptr;  // [weight.rows]; null: none
  BFloat16* y = nullptr;        // [rows, weight.rows], rows `y_stride` elements apart
  int64_t y_stride = 0;
};

// y[t, :] (+)= x[t, :] W^T + bias for each term and each of `rows` rows, x [rows, columns of the
// weights]. At most kMaxRowProductTerms terms, all with the same number of columns; one launch
// where their formats agree. Row t of y is a function of row t of x and of the weight alone: the
// same bits whatever `rows`, the other rows, the other terms, strides and alignments are. Fast
// where columns are a multiple of 32, the stride of x a multiple of 8, and x and the codes (or
// dense weights) aligned to 16 bytes; anything else is correct, and slow. y overlaps no input.
cudaError_t LaunchRowProduct(const BFloat16* x, int64_t x_stride, int64_t rows,
                             const RowProductTerm* terms, int count, bool accumulate,
                             cudaStream_t stream);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_H_
