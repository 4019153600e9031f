// How often each number occurs in a row of bf16 logits, from the largest down, with the weights of
// sampling: where a count or a share of the weight ends is found without sorting. Private to
// sample.cu.
//
// A bf16 number is one of 65,536 keys, so a bin holds one key and all of a bin's tokens weigh the
// same; a weight is computed once for each key that occurs, not for each token. Bins lie in shared
// memory, in tiles of a warp's width; tiles have sums of counts and of weights of what lies before
// them. The keys from the largest to the smallest of interest seldom are more than shared memory
// has bins (52 thousand where 227 KiB can be had; 33 thousand reach from 20 down to -20). Where
// they are, windows of keys take turns, and are counted again when one is looked into later.
//
// Counts are added atomically, and all sums are of whole numbers: their order changes nothing.
#ifndef LORAD_ENGINE_OPS_CUDA_SAMPLE_HISTOGRAM_CUH_
#define LORAD_ENGINE_OPS_CUDA_SAMPLE_HISTOGRAM_CUH_

#include "engine/ops/cuda/sample_bins.cuh"
#include "engine/ops/cuda/sample_row.cuh"

namespace lorad::cuda {

// All methods are for the whole block together, and wait for it; what they return is the same in
// every thread.
template <int kWidth>
class SampleHistogram {
 public:
  // Keys from `largest` down to `lowest`. Tokens below min_weight count with weight 0.
  __device__ SampleHistogram(const SampleRow<kWidth>& row, uint32_t largest, uint32_t lowest,
                             float octaves_per_unit, uint64_t min_weight, const SampleBins& bins,
                             SampleScratch& scratch)
      : row_(row),
        bins_(bins),
        scratch_(scratch),
        largest_(largest),
        lowest_(lowest),
        max_(LogitOf(largest)),
        octaves_per_unit_(octaves_per_unit),
        min_weight_(min_weight) {}

  // Counts the tokens; `plain`: also sums their weights at temperature 1.
  __device__ void Count(bool plain) {
    for (int w = 0; w < windows(); ++w) {
      LoadWindow(w);
      count_ += window_count_;
      weight_ += window_weight_;
      if (plain) plain_weight_ += PlainWeightOfWindow();
    }
  }
  // Of all tokens counted.
  __device__ uint32_t count() const { return count_; }
  __device__ uint64_t weight() const { return weight_; }
  __device__ uint64_t plain_weight() const { return plain_weight_; }

  // The key of token number `target`, from 0 in order of falling logits. REQUIRES: target <
  // count().
  __device__ SamplePlace FindByCount(uint32_t target) { return Find<false>(target); }
  // The key on whose tokens `target` falls when weights are laid out in that order. REQUIRES:
  // target < weight().
  __device__ SamplePlace FindByWeight(uint64_t target) { return Find<true>(target); }

 private:
  __device__ int windows() const {
    const int keys = static_cast<int>(largest_ - lowest_) + 1, bins = bins_.tiles * kWarpSize;
    return (keys + bins - 1) / bins;
  }
  __device__ uint32_t KeyOfBin(int bin) const { return first_ - static_cast<uint32_t>(bin); }
  __device__ uint64_t WeightOfKey(uint32_t key) const {
    const uint64_t weight = SampleWeight(max_ - LogitOf(key), octaves_per_unit_);
    return weight >= min_weight_ ? weight : 0;
  }

  __device__ void LoadWindow(int window) {
    if (window == loaded_) return;
    loaded_ = window;
    first_ = largest_ - static_cast<uint32_t>(window * bins_.tiles * kWarpSize);
    const int keys = static_cast<int>(first_ - lowest_) + 1;
    tiles_ = min((keys + kWarpSize - 1) / kWarpSize, bins_.tiles);
    const int bins = min(keys, tiles_ * kWarpSize);
    for (int i = threadIdx.x; i < tiles_ * kWarpSize; i += kBlockThreads) bins_.bins[i] = 0;
    __syncthreads();
    row_.ForEach([&](float logit, int) {
      const uint32_t bin = first_ - KeyOf(logit);
      if (bin < static_cast<uint32_t>(bins)) atomicAdd(&bins_.bins[bin], 1u);
    });
    __syncthreads();
    SumTiles();
    __syncthreads();
    window_count_ = SumsBefore(bins_.tile_counts, tiles_, scratch_.warp_counts);
    window_weight_ = SumsBefore(bins_.tile_weights, tiles_, scratch_.warp_weights);
  }

  __device__ void SumTiles() {
    for (int tile = Warp(); tile < tiles_; tile += kBlockWarps) {
      const int bin = tile * kWarpSize + Lane();
      const uint32_t count = bins_.bins[bin];
      uint64_t weight = 0;
      uint32_t tokens = 0;
      if (__any_sync(kAllLanes, count > 0)) {
        weight = SumOfLanes(count > 0 ? count * WeightOfKey(KeyOfBin(bin)) : uint64_t{0});
        tokens = __reduce_add_sync(kAllLanes, count);
      }
      if (Lane() == 0) bins_.tile_weights[tile] = weight, bins_.tile_counts[tile] = tokens;
    }
  }

  __device__ uint64_t PlainWeightOfWindow() {
    uint64_t sum = 0;
    for (int bin = threadIdx.x; bin < tiles_ * kWarpSize; bin += kBlockThreads) {
      const uint32_t count = bins_.bins[bin];
      if (count > 0) sum += count * SampleWeight(max_ - LogitOf(KeyOfBin(bin)), kLog2E);
    }
    sum = SumOfLanes(sum);
    if (Lane() == 0) scratch_.warp_weights[Warp()] = sum;
    __syncthreads();
    sum = SumOfLanes(scratch_.warp_weights[Lane()]);
    __syncthreads();
    return sum;
  }

  template <bool kByWeight>
  __device__ SamplePlace Find(uint64_t target) {
    uint32_t count_before = 0;
    uint64_t weight_before = 0;
    for (int w = 0; w < windows(); ++w) {
      LoadWindow(w);
      const uint64_t before = kByWeight ? weight_before : count_before;
      const uint64_t here = kByWeight ? window_weight_ : window_count_;
      if (target < before + here) {
        SamplePlace place = FindInWindow<kByWeight>(target - before);
        place.count_before += count_before;
        place.weight_before += weight_before;
        return place;
      }
      count_before += window_count_;
      weight_before += window_weight_;
    }
    return {};  // not reached: `target` is below the sum
  }

  template <bool kByWeight>
  __device__ SamplePlace FindInWindow(uint64_t target) {
    const auto before = [&](int tile) -> uint64_t {
      if (tile == tiles_) return kByWeight ? window_weight_ : window_count_;
      return kByWeight ? bins_.tile_weights[tile] : bins_.tile_counts[tile];
    };
    for (int tile = threadIdx.x; tile < tiles_; tile += kBlockThreads)
      if (before(tile) <= target && target < before(tile + 1)) scratch_.tile = tile;
    __syncthreads();
    if (Warp() == 0) FindInTile<kByWeight>(scratch_.tile, target);
    __syncthreads();
    const SamplePlace place = scratch_.place;
    __syncthreads();  // before the next search overwrites it
    return place;
  }

  // One warp.
  template <bool kByWeight>
  __device__ void FindInTile(int tile, uint64_t target) {
    const uint32_t key = KeyOfBin(tile * kWarpSize + Lane());
    const uint32_t count = bins_.bins[tile * kWarpSize + Lane()];
    const uint64_t weight = count > 0 ? WeightOfKey(key) : 0;
    const uint32_t count_before = bins_.tile_counts[tile] + SumUpToLane(count) - count;
    const uint64_t weights = count * weight;
    const uint64_t weight_before = bins_.tile_weights[tile] + SumUpToLane(weights) - weights;
    const uint64_t before = kByWeight ? weight_before : count_before;
    const uint64_t here = kByWeight ? weights : count;
    if (before <= target && target < before + here)
      scratch_.place = {key, count, count_before, weight, weight_before};
  }

  const SampleRow<kWidth>& row_;
  const SampleBins& bins_;
  SampleScratch& scratch_;
  const uint32_t largest_, lowest_;
  const float max_;
  const float octaves_per_unit_;
  const uint64_t min_weight_;
  uint32_t count_ = 0;
  uint64_t weight_ = 0, plain_weight_ = 0;
  // The window that the bins hold.
  int loaded_ = -1, tiles_ = 0;
  uint32_t first_ = 0;  // key of the first bin
  uint32_t window_count_ = 0;
  uint64_t window_weight_ = 0;
};

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_SAMPLE_HISTOGRAM_CUH_
