// Products of many rows with a packed weight: training and prefill.
#ifndef LORAD_ENGINE_OPS_CPU_MATRIX_PRODUCT_H_
#define LORAD_ENGINE_OPS_CPU_MATRIX_PRODUCT_H_

#include <cstdint>

#include "absl/types/span.h"
#include "engine/ops/cpu/flop_meter.h"
#include "engine/ops/cpu/thread_pool.h"
#include "engine/ops/weight.h"

namespace lorad::cpu {

// One of the weights that share a product.
template <typename T>
struct MatrixTerm {
  const WeightView* weight;
  T* rows;  // [num_rows, out]: y of MultiplyForward, dy of MultiplyBackward
};

// For each term: rows (+)= x [num_rows, in] W^T.
// The work is cut in tiles at fixed places, so the result does not depend on the number of threads.
// `scratch` holds MatrixScratch(pool) elements. `op` is what the products are counted as.
template <typename T>
void MultiplyForward(absl::Span<const MatrixTerm<T>> terms, const T* x, int64_t num_rows,
                     bool accumulate, T* scratch, ThreadPool& pool, FlopOp op, FlopMeter flops);

// dx [num_rows, in] (+)= sum over terms of rows W. REQUIRES: terms not empty.
template <typename T>
void MultiplyBackward(absl::Span<const MatrixTerm<const T>> terms, T* dx, int64_t num_rows,
                      bool accumulate, T* scratch, ThreadPool& pool, FlopOp op, FlopMeter flops);

// Elements of scratch.
int64_t MatrixScratch(const ThreadPool& pool);

}  // namespace lorad::cpu

#endif  // LORAD_ENGINE_OPS_CPU_MATRIX_PRODUCT_H_
