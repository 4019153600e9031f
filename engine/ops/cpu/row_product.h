// Products of few rows with a packed weight, each row on its own: decoding.
#ifndef LORAD_ENGINE_OPS_CPU_ROW_PRODUCT_H_
#define LORAD_ENGINE_OPS_CPU_ROW_PRODUCT_H_

#include <cstdint>

#include "engine/ops/cpu/flop_meter.h"
#include "engine/ops/cpu/thread_pool.h"
#include "engine/ops/weight.h"

namespace lorad::cpu {

// y [rows, out] (+)= x [rows, in] W^T. What a row gets does not depend on the other rows, on their
// number, or on the threads. `scratch` holds RowProductScratch elements.
void RowProduct(const WeightView& weight, const float* x, int64_t rows, bool accumulate, float* y,
                float* scratch, ThreadPool& pool, FlopMeter flops);
void RowProduct(const WeightView& weight, const double* x, int64_t rows, bool accumulate, double* y,
                double* scratch, ThreadPool& pool, FlopMeter flops);
// Elements of scratch.
int64_t RowProductScratch(const WeightView& weight, int64_t rows);

// y[o] += scaling * b[o, :] . xa for o in [0, out); b [out, rank].
void AddLoraRow(const float* b, const float* xa, int64_t rank, float scaling, float* y,
                int64_t out);
void AddLoraRow(const double* b, const double* xa, int64_t rank, double scaling, double* y,
                int64_t out);

}  // namespace lorad::cpu

#endif  // LORAD_ENGINE_OPS_CPU_ROW_PRODUCT_H_
