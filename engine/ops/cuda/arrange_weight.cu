// A 4-bit weight from rows to tiles, as engine/ops/weight.h describes them: bytes move, none
// changes.
//
//   codes  [out, in / 2] to tiles of 16 rows x 64 columns, 8 bytes (16 columns of a row) at a time
//   scales [out, in / 64] to groups of 16 rows x 4 blocks, 4 bytes at a time
//
// A copy in scratch memory is read, the weight itself written. Once a weight, when it is loaded.
#include "engine/core/checked_math.h"
#include "engine/ops/cuda/arrange_weight.h"
#include "engine/ops/cuda/weight_decode.cuh"

namespace lorad::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPieceColumns = 16;  // of a row, 8 bytes
constexpr int kScaleBlocks = 4;    // of a row, 4 bytes

__global__ void __launch_bounds__(kThreads)
    ArrangeCodesKernel(const uint2* from, uint2* to, int64_t columns, int64_t pieces) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= pieces) return;
  const int64_t per_row = columns / kPieceColumns;
  to[TiledCodes(columns, i / per_row, i % per_row * kPieceColumns) / sizeof(uint2)] = from[i];
}

__global__ void __launch_bounds__(kThreads)
    ArrangeScalesKernel(const uint32_t* from, uint32_t* to, int64_t columns, int64_t pieces) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= pieces) return;
  const int64_t per_row = columns / (kTileColumns * kScaleBlocks);
  to[TiledScale(columns, i / per_row, i % per_row * kScaleBlocks) / sizeof(uint32_t)] = from[i];
}

int64_t CodeBytes(const PackedWeight& weight) { return weight.rows * weight.columns / 2; }
int64_t ScaleBytes(const PackedWeight& weight) {
  return weight.rows * weight.columns / weight.block;
}

}  // namespace

int64_t ArrangeScratchBytes(const PackedWeight& weight) {
  const bool wanted = weight.bits == 4 && weight.block == kTileColumns && !weight.tiled &&
                      weight.scales_u8 != nullptr && weight.rows % kStripRows == 0 &&
                      weight.columns % (kTileColumns * kScaleBlocks) == 0 &&
                      ScaleBytes(weight) <= UINT32_MAX;
  return wanted ? CodeBytes(weight) + ScaleBytes(weight) : 0;
}

cudaError_t LaunchArrangeWeight(const PackedWeight& weight, void* codes, uint8_t* scales_u8,
                                void* scratch, cudaStream_t stream) {
  if (ArrangeScratchBytes(weight) == 0) return cudaErrorInvalidValue;
  char* const old_codes = static_cast<char*>(scratch);
  char* const old_scales = old_codes + CodeBytes(weight);
  cudaError_t error =
      cudaMemcpyAsync(old_codes, weight.codes, CodeBytes(weight), cudaMemcpyDeviceToDevice, stream);
  if (error != cudaSuccess) return error;
  error = cudaMemcpyAsync(old_scales, weight.scales_u8, ScaleBytes(weight),
                          cudaMemcpyDeviceToDevice, stream);
  if (error != cudaSuccess) return error;
  const int64_t pieces = CodeBytes(weight) / static_cast<int64_t>(sizeof(uint2));
  ArrangeCodesKernel<<<static_cast<unsigned>(CeilDiv(pieces, kThreads)), kThreads, 0, stream>>>(
      reinterpret_cast<const uint2*>(old_codes), static_cast<uint2*>(codes), weight.columns,
      pieces);
  const int64_t words = ScaleBytes(weight) / kScaleBlocks;
  ArrangeScalesKernel<<<static_cast<unsigned>(CeilDiv(words, kThreads)), kThreads, 0, stream>>>(
      reinterpret_cast<const uint32_t*>(old_scales), reinterpret_cast<uint32_t*>(scales_u8),
      weight.columns, words);
  return cudaGetLastError();
}

}  // namespace lorad::cuda
