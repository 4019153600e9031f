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

// Rows [row_begin, row_end) of a product go through this adapter:
//   xa = x A^T, rounded to bf16;  y += scaling * xa B^T, before y is rounded
struct RowProductLora {
  const BFloat16* a = nullptr;  // [rank, columns of the weight], aligned to 16 bytes
  const BFloat16* b = nullptr;  // [weight.rows, rank], likewise
  BFloat16* xa = nullptr;       // [row_end - row_begin, rank], to 8; written
  float scaling = 0;
  int64_t rank = 0;  // a multiple of kRowLoraRankStep, at most kMaxRowLoraRank
  int64_t row_begin = 0, row_end = 0;
};
inline constexpr int kRowLoraRankStep = 4;
// Of a launch with adapters.
inline constexpr int kMaxRowLoraRank = 1024, kMaxRowLoraRows = 64, kMaxRowLoraTerms = 3;

struct RowProductTerm {
  PackedWeight weight;                 // row_offset is not read
  const float* bias = nullptr;         // [weight.rows]; null: none
  const BFloat16* residual = nullptr;  // like y, which it may be; null: none
  BFloat16* y = nullptr;               // [rows, weight.rows], rows `y_stride` elements apart
  int64_t residual_stride = 0, y_stride = 0;
  // Adapters of ascending, disjoint rows, where TakesLoras(); read before the call returns.
  const RowProductLora* loras = nullptr;
  int64_t num_loras = 0;
};

// What lets a few outputs and many columns use the whole device. Memory of one stream: launches on
// others must not use it at the same time. Blocks of a launch that shares tiles wait for each
// other: one stream of a device at a time may run such launches, or two could keep each other's
// blocks out.
struct RowProductScratch {
  void* partial_sums = nullptr;  // aligned to 16 bytes
  int64_t partial_bytes = 0;  // 2 KB for each output and 64 rows; with less, tiles are not shared
  uint32_t* counters = nullptr;  // [kRowProductCounters]; zeros before the first launch
};
// Of tiles, or pairs of strips of gate and up, that are shared, and one of the adapters.
inline constexpr int kRowTileCounters = 256, kRowProductCounters = kRowTileCounters + 1;

// Whether a launch takes adapters of this weight: tiled, and everything aligned.
bool TakesLoras(const PackedWeight& weight, const BFloat16* x, int64_t x_stride);

// silu(y of the first term) * y of the second, as if both had been written and read again.
struct RowProductSwiGlu {
  BFloat16* out = nullptr;  // [rows, weight.rows], like y; null: none
  int64_t stride = 0;
};
// Whether LaunchRowProduct can end in it: two tiled weights of one size, x aligned; more than a few
// rows want compute capability 9.0.
bool CanEndInSwiGlu(const BFloat16* x, int64_t x_stride, int64_t rows, const RowProductTerm* terms,
                    int count);

// y[t, :] = residual[t, :] + x[t, :] W^T + bias for each term and each of `rows` rows, x [rows,
// columns of the weights, at most 2^24]. At most kMaxRowProductTerms terms, all with the same
// number of columns; one launch where their formats agree. Row t of y is a function of row t of x,
// of the weight and of the row's adapter alone: the same bits whatever `rows`, the other rows and
// adapters, the other terms, strides, alignments and scratch are. Fast where columns are a multiple
// of 32, the stride of x a multiple of 8, and x and the codes (or dense weights) aligned to 16
// bytes; anything else is correct, and slow. So are few rows over 4-bit weights in blocks of 64
// with double quantisation and columns in multiples of 256 that are not tiled. y overlaps no input
// but its residual. With `swiglu`, which CanEndInSwiGlu must allow, the terms' y are not written.
cudaError_t LaunchRowProduct(const BFloat16* x, int64_t x_stride, int64_t rows,
                             const RowProductTerm* terms, int count,
                             const RowProductScratch& scratch, cudaStream_t stream,
                             const RowProductSwiGlu& swiglu = {});

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_H_
