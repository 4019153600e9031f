// Rows moved: embedding look-up and strided copy; and a bias added to rows.
//
//   out[t, :] = table[ids[t], :],   y[r, :] = x[r, :],   y[r, :] += bias
//
// table: bf16 [vocab, hidden], dense; ids int32 [tokens]; out, x, y: bf16 rows a stride apart; bias
// fp32 [n], added in fp32. Source and destination of a copy do not overlap.
//
// Copies: a thread moves four packs of 8, a block's width apart, all loaded before the first is
// stored: 64 bytes in flight; blockIdx.y is the row. Bias: a thread adds its pack of the bias, read
// once, to four rows, likewise loaded before the first is stored; blockIdx.y counts fours of rows.
// Blocks of up to 256 threads tile a row. Bound by memory: 4 bytes per element.
#include "engine/ops/cuda/elementwise.h"
#include "engine/ops/cuda/vector_access.cuh"

namespace lorad::cuda {
namespace {

constexpr int kPacksPerThread = 4;
constexpr int kBiasRows = 4;  // per thread

struct RowCopy {
  const int32_t* ids;  // source rows; null: row r from row r
  const __nv_bfloat16* from;
  int64_t from_stride;
  __nv_bfloat16* to;
  int64_t to_stride;
  int64_t rows;
  int64_t n;
};

template <int kWidth>
__global__ void __launch_bounds__(256) CopyRowsKernel(const RowCopy p) {
  const int64_t first =
      (static_cast<int64_t>(blockIdx.x) * kPacksPerThread * blockDim.x + threadIdx.x) * kWidth;
  const int64_t step = static_cast<int64_t>(blockDim.x) * kWidth;
  for (int64_t row = blockIdx.y; row < p.rows; row += gridDim.y) {
    const int64_t source = p.ids == nullptr ? row : p.ids[row];
    const __nv_bfloat16* from = p.from + source * p.from_stride;
    __nv_bfloat16* to = p.to + row * p.to_stride;
    Pack<kWidth> packs[kPacksPerThread];
#pragma unroll
    for (int k = 0; k < kPacksPerThread; ++k) {
      const int64_t column = first + k * step;
      if (column < p.n) packs[k] = Load<kWidth>(from + column);
    }
#pragma unroll
    for (int k = 0; k < kPacksPerThread; ++k) {
      const int64_t column = first + k * step;
      if (column < p.n) Store(packs[k], to + column);
    }
  }
}

template <int kWidth>
__global__ void __launch_bounds__(256)
    AddBiasKernel(__nv_bfloat16* y, int64_t y_stride, const float* bias, int64_t rows, int64_t n) {
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kWidth;
  if (column >= n) return;
  float added[kWidth];
  LoadConstant(bias + column, added);
  y += column;
  for (int64_t first = int64_t{blockIdx.y} * kBiasRows; first < rows;
       first += int64_t{gridDim.y} * kBiasRows) {
    Pack<kWidth> packs[kBiasRows];
#pragma unroll
    for (int r = 0; r < kBiasRows; ++r) {
      if (first + r < rows) packs[r] = Load<kWidth>(y + (first + r) * y_stride);
    }
#pragma unroll
    for (int r = 0; r < kBiasRows; ++r) {
      if (first + r >= rows) break;
      float values[kWidth];
      Unpack(packs[r], values);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) values[i] += added[i];
      StoreRounded(values, y + (first + r) * y_stride);
    }
  }
}

cudaError_t LaunchCopy(const RowCopy& p, cudaStream_t stream) {
  if (p.rows == 0 || p.n == 0) return cudaSuccess;
  if (IsAligned(p.from, p.from_stride) && IsAligned(p.to, p.to_stride) && p.n % kVectorWidth == 0) {
    const RowGrid grid = CoverRows(p.rows, p.n / kVectorWidth, kPacksPerThread);
    CopyRowsKernel<kVectorWidth><<<grid.blocks, grid.threads, 0, stream>>>(p);
  } else {
    const RowGrid grid = CoverRows(p.rows, p.n, kPacksPerThread);
    CopyRowsKernel<1><<<grid.blocks, grid.threads, 0, stream>>>(p);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchEmbedding(const int32_t* ids, const BFloat16* table, BFloat16* out,
                            int64_t out_stride, int64_t tokens, int64_t hidden,
                            cudaStream_t stream) {
  return LaunchCopy({ids, reinterpret_cast<const __nv_bfloat16*>(table), hidden,
                     reinterpret_cast<__nv_bfloat16*>(out), out_stride, tokens, hidden},
                    stream);
}

cudaError_t LaunchCopyRows(const BFloat16* x, int64_t x_stride, BFloat16* y, int64_t y_stride,
                           int64_t rows, int64_t n, cudaStream_t stream) {
  return LaunchCopy({/*ids=*/nullptr, reinterpret_cast<const __nv_bfloat16*>(x), x_stride,
                     reinterpret_cast<__nv_bfloat16*>(y), y_stride, rows, n},
                    stream);
}

cudaError_t LaunchAddBias(BFloat16* y, int64_t y_stride, const float* bias, int64_t rows, int64_t n,
                          cudaStream_t stream) {
  if (rows == 0 || n == 0) return cudaSuccess;
  __nv_bfloat16* data = reinterpret_cast<__nv_bfloat16*>(y);
  if (IsAligned(y, y_stride) && IsAligned(bias) && n % kVectorWidth == 0) {
    const RowGrid grid = CoverRows(CeilDiv(rows, kBiasRows), n / kVectorWidth, 1);
    AddBiasKernel<kVectorWidth>
        <<<grid.blocks, grid.threads, 0, stream>>>(data, y_stride, bias, rows, n);
  } else {
    const RowGrid grid = CoverRows(CeilDiv(rows, kBiasRows), n, 1);
    AddBiasKernel<1><<<grid.blocks, grid.threads, 0, stream>>>(data, y_stride, bias, rows, n);
  }
  return cudaGetLastError();
}

}  // namespace lorad::cuda
