// What the kernels of row_product*.cu share: their arguments, tiles and fragments, and what becomes
// of a sum. Private to them.
#ifndef LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_TILE_CUH_
#define LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_TILE_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/core/checked_math.h"
#include "engine/ops/cuda/attention_mma.cuh"
#include "engine/ops/cuda/compiled_code.h"
#include "engine/ops/cuda/device_attribute.cuh"
#include "engine/ops/cuda/row_product.h"
#include "engine/ops/cuda/swiglu.cuh"

namespace lorad::cuda {

inline constexpr int kRowProductThreads = 256;
inline constexpr int kChunk = 8;  // columns of a lane in two products

// Columns are shared out to 8 sums, 256 or 128 at a time (kGroup): sum s has groups s, s + 8 and so
// on. A result is the 8 sums added in order, whoever computes them.
inline constexpr int kSums = 8;
inline constexpr int kTileOuts = 16;
inline constexpr int kTileRows = 8;
inline constexpr int kMaxRows = 64;  // that a tile has

struct RowProductEntry {
  RowProductTerm term;
  uint32_t first_tile = 0;  // of the launch
  int32_t block_shift = 0;  // log2(elements of a quantisation block)
};

struct RowProductArgs {
  RowProductEntry entries[kMaxRowProductTerms];
  int count = 0;
  bool block_scaled = false;  // all weights are IsBlockScaled; otherwise none is taken so
  const __nv_bfloat16* x = nullptr;
  int64_t x_stride = 0;
  int64_t rows = 0;
  RowProductSwiGlu swiglu;  // of entries 0 and 1, which have the same number of tiles
  uint32_t passes = 0;      // over the rows
  uint32_t tiles = 0;
};

// The entry that tile `index` of a launch belongs to.
__device__ __forceinline__ int EntryOf(const RowProductArgs& args, uint32_t index) {
  int entry = 0;
  while (entry + 1 < args.count && index >= args.entries[entry + 1].first_tile) ++entry;
  return entry;
}

// Where a tile of so many outputs and rows lies.
struct RowProductTile {
  int entry;
  int64_t out, row;
};
template <int kOuts, int kRows>
__device__ __forceinline__ RowProductTile LocateTile(const RowProductArgs& args, uint32_t index) {
  const int entry = EntryOf(args, index);
  const uint32_t place = index - args.entries[entry].first_tile;
  return {entry, int64_t{place / args.passes} * kOuts, int64_t{place % args.passes} * kRows};
}

// Sets first_tile, passes and tiles for tiles of so many outputs and rows. False: too many.
inline bool LayOutTiles(int64_t outs, int64_t rows, RowProductArgs& args) {
  const int64_t passes = CeilDiv(args.rows, rows);
  int64_t tiles = 0;
  for (int i = 0; i < args.count; ++i) {
    args.entries[i].first_tile = static_cast<uint32_t>(tiles);
    tiles += CeilDiv(args.entries[i].term.weight.rows, outs) * passes;
  }
  if (tiles > INT32_MAX) return false;
  args.passes = static_cast<uint32_t>(passes);
  args.tiles = static_cast<uint32_t>(tiles);
  return true;
}

// Tiled weights, up to kNarrowRows rows, everything aligned, where HasNarrowRowProduct(); all terms
// have the tables of the first. Sets first_tile, passes and tiles.
inline constexpr int kNarrowRows = kTileRows;
cudaError_t LaunchNarrowRowProduct(RowProductArgs& args, const RowProductScratch& scratch,
                                   cudaStream_t stream);

// Up to so many rows the plain kernel is the quicker one over weights that are not tiled.
inline constexpr int kFewRows = 2 * kTileRows;
// Weights that are not tiled, more than kFewRows rows, everything aligned, where HasRoom(); sets
// first_tile, passes and tiles.
cudaError_t LaunchWideRowProduct(RowProductArgs& args, const RowProductScratch& scratch,
                                 cudaStream_t stream);
// The same for tiled weights, where HasWideTiledRowProduct().
cudaError_t LaunchWideTiledRowProduct(RowProductArgs& args, const RowProductScratch& scratch,
                                      cudaStream_t stream);

inline int Multiprocessors() { return DeviceAttribute<cudaDevAttrMultiProcessorCount>(); }

// The narrow and the wide kernels want the shared memory of compute capability 9.0, those for tiled
// weights also its instructions. Where something is missing, the plain kernel of row_product.cu
// does everything, and is slower.
inline constexpr int kMostSharedBytes = 227 << 10;
inline bool HasRoom() {
  return DeviceAttribute<cudaDevAttrMaxSharedMemoryPerBlockOptin>() >= kMostSharedBytes;
}
inline bool HasNarrowRowProduct() { return HasRoom() && RunningCode().architecture >= 900; }
inline bool HasWideTiledRowProduct() { return HasRoom() && RunningCode().has_wgmma; }

// Codes are read once: they must not drive x out of the first-level cache.
__device__ __forceinline__ uint4 LoadOnce16(const void* from) {
  uint4 words;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
               : "l"(from));
  return words;
}

// The 16 x 16 fragments of two products: outputs g and g + 8, and 8 columns of each lane.
struct WeightFragments {
  uint32_t first[4], second[4];
};
__device__ __forceinline__ WeightFragments Fragments(const uint4& w0, const uint4& w1) {
  return {{w0.x, w1.x, w0.y, w1.y}, {w0.z, w1.z, w0.w, w1.w}};
}

// The residual of a result; 0: none.
__device__ __forceinline__ float ResidualOf(const RowProductTerm& term, int64_t row, int64_t out) {
  if (term.residual == nullptr) return 0;
  return __bfloat162float(
      reinterpret_cast<const __nv_bfloat16*>(term.residual)[row * term.residual_stride + out]);
}
// One result with its bias and residual, in fp32.
__device__ __forceinline__ float Completed(const RowProductTerm& term, int64_t out, float sum,
                                           float residual) {
  if (term.bias != nullptr) sum += __ldg(term.bias + out);
  if (term.residual != nullptr) sum += residual;
  return sum;
}
__device__ __forceinline__ float Completed(const RowProductTerm& term, int64_t row, int64_t out,
                                           float sum) {
  return Completed(term, out, sum, ResidualOf(term, row, out));
}
__device__ __forceinline__ void StoreResult(const RowProductTerm& term, int64_t row, int64_t out,
                                            float value) {
  reinterpret_cast<__nv_bfloat16*>(term.y)[row * term.y_stride + out] = __float2bfloat16_rn(value);
}

// Of two results that are rounded as if they had been stored.
__device__ __forceinline__ void StoreSwiGlu(const RowProductSwiGlu& swiglu, int64_t row,
                                            int64_t out, float gate, float up) {
  const auto rounded = [](float value) { return __bfloat162float(__float2bfloat16_rn(value)); };
  reinterpret_cast<__nv_bfloat16*>(swiglu.out)[row * swiglu.stride + out] =
      __float2bfloat16_rn(SwiGlu(rounded(gate), rounded(up)));
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_TILE_CUH_
