// Shared memory of the sampling kernel's histogram, and what it finds.
#ifndef LORAD_ENGINE_OPS_CUDA_SAMPLE_BINS_CUH_
#define LORAD_ENGINE_OPS_CUDA_SAMPLE_BINS_CUH_

#include "engine/ops/cuda/block_sums.cuh"

namespace lorad::cuda {

// A key of the row, and what lies before it: tokens with larger logits.
struct SamplePlace {
  uint32_t key, count;
  uint32_t count_before;
  uint64_t weight;  // of one token
  uint64_t weight_before;
};

// Shared memory of the histogram. Per tile: 32 bins and two sums.
struct SampleBins {
  static constexpr int64_t kBytesPerTile = 8 + 4 + 4 * kWarpSize;

  uint64_t* tile_weights;
  uint32_t* tile_counts;
  uint32_t* bins;
  int tiles;

  // Lays them out in `memory` of tiles * kBytesPerTile bytes.
  __device__ SampleBins(uint64_t* memory, int tiles)
      : tile_weights(memory),
        tile_counts(reinterpret_cast<uint32_t*>(memory + tiles)),
        bins(tile_counts + tiles),
        tiles(tiles) {}
};

// What the histogram keeps in shared memory beside the bins.
struct SampleScratch {
  uint64_t warp_weights[kBlockWarps];
  uint32_t warp_counts[kBlockWarps];
  int tile;
  SamplePlace place;
};

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_SAMPLE_BINS_CUH_
