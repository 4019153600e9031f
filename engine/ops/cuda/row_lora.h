// LoRA of a few rows at its true rank: segments of a batch that go through different adapters. For
// those that the launch of a product does not take (row_product.h): fp32, with dropout, other
// weights than tiled ones, odd ranks.
#ifndef LORAD_ENGINE_OPS_CUDA_ROW_LORA_H_
#define LORAD_ENGINE_OPS_CUDA_ROW_LORA_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/core/dtype.h"

namespace lorad::cuda {

// Neighbouring rows of one linear layer that share an adapter. Pointers to x, xa and y are to the
// segment's first row.
struct RowLoraSegment {
  const BFloat16* x = nullptr;  // [rows, in]
  const void* a = nullptr;      // [rank, in], bf16 or fp32
  const void* b = nullptr;      // [out, rank], like a
  BFloat16* xa = nullptr;       // [rows, rank]; written
  BFloat16* y = nullptr;        // [rows, out]
  int64_t x_stride = 0, a_stride = 0, b_stride = 0, xa_stride = 0, y_stride = 0;
  int64_t rows = 0, in = 0, out = 0, rank = 0;
  float scaling = 0;
  bool is_fp32 = false;  // a and b
};

// For each segment:  xa = x A^T,  y += scaling * xa B^T, both rounded to bf16. The array is read
// before the call returns; two launches take up to kRowLoraSegmentsPerLaunch segments. A row's
// results depend on that row, its y and its adapter alone. Aligned pointers and strides (16 bytes
// of A and B, 8 bytes of x) are faster and give the same bits. y and xa of different segments do
// not overlap.
inline constexpr int kRowLoraSegmentsPerLaunch = 192;  // 64 adapters of q, k and v
cudaError_t LaunchRowLora(const RowLoraSegment* segments, int64_t count, cudaStream_t stream);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ROW_LORA_H_
