// The 8 sums of a tile that a block computes one after the other, or shares with other blocks.
// Private to row_product_wide*.cu, whose variants V say how a tile lies:
//   kOutTiles, kWarpOuts = 16 kOutTiles   of a warp     kRowTiles   fragments of 8 rows
//   kThreads   of a block     kSharesTiles   several blocks a tile     Sums   a thread's
#ifndef LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_SUMS_CUH_
#define LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_SUMS_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "engine/ops/cuda/row_product_lora.cuh"
#include "engine/ops/cuda/row_product_tile.cuh"

namespace lorad::cuda {

struct WideArgs {
  RowProductArgs product;
  int sharers = 1;  // blocks of a tile: 1, 2, 4 or 8
  float4* partial_sums = nullptr;
  uint32_t* counters = nullptr;
};

// Of the sums so far, where one block has all of them.
template <typename V>
using TileTotals =
    float4[V::kSharesTiles ? 1 : V::kOutTiles * V::kRowTiles][V::kSharesTiles ? 1 : V::kThreads];

// The groups of columns of some sums, in order: of sum 0 groups 0, 8, ..., then of sum 1, ...
class GroupWalk {
 public:
  __device__ GroupWalk(int columns, int group, int first_sum, int end_sum)
      : columns_(columns),
        group_(group),
        sum_(first_sum),
        end_(end_sum),
        column_(first_sum * group) {
    SkipEmpty();
  }
  __device__ bool done() const { return sum_ == end_; }
  __device__ int column() const { return column_; }
  __device__ int sum() const { return sum_; }
  __device__ void Next() {
    column_ += kSums * group_;
    if (column_ >= columns_) {
      ++sum_;
      column_ = sum_ * group_;
      SkipEmpty();
    }
  }

 private:
  __device__ void SkipEmpty() {  // sums without columns come last
    if (column_ >= columns_) sum_ = end_;
  }
  int columns_, group_;
  int sum_, end_, column_;
};

// What becomes of sum number `sum` when its columns are done. A thread meets only its own elements.
template <typename V>
__device__ __forceinline__ void EndSum(const WideArgs& args, uint32_t tile, int sum, bool is_first,
                                       typename V::Sums& sums, TileTotals<V>& totals) {
#pragma unroll
  for (int o = 0; o < V::kOutTiles; ++o) {
#pragma unroll
    for (int n = 0; n < V::kRowTiles; ++n) {
      float(&s)[4] = sums[o][n];
      float4 four = make_float4(s[0], s[1], s[2], s[3]);
      s[0] = s[1] = s[2] = s[3] = 0;
      const int place = o * V::kRowTiles + n;
      if constexpr (V::kSharesTiles) {
        const int64_t index = (int64_t{tile} * kSums + sum) * (V::kOutTiles * V::kRowTiles) + place;
        args.partial_sums[index * V::kThreads + threadIdx.x] = four;
      } else {
        float4& total = totals[place][threadIdx.x];
        if (!is_first) {
          const float4 before = total;
          four.x = before.x + four.x, four.y = before.y + four.y;
          four.z = before.z + four.z, four.w = before.w + four.w;
        }
        total = four;
      }
    }
  }
}

// Until all blocks of the tile have left their sums, and xa is there. Leaves the counter as it was
// found, at zero: each block counts when it comes and when it goes.
template <typename Lora>
__device__ __forceinline__ void WaitForSharers(const WideArgs& args, uint32_t tile,
                                               const Lora& lora) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t* const counter = args.counters + tile;
    const auto sharers = static_cast<uint32_t>(args.sharers);
    atomicInc(counter, 2 * sharers - 1);
    uint32_t now;
    do {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];\n" : "=r"(now) : "l"(counter) : "memory");
    } while (now < sharers);
    atomicInc(counter, 2 * sharers - 1);
  }
  if constexpr (Lora::kPresent) {
    if (threadIdx.x == 32) WaitForXa(lora);  // meanwhile
  }
  __syncthreads();
}

// The sums of one fragment of a thread, added in order.
template <typename V>
__device__ __forceinline__ float4 Total(const WideArgs& args, uint32_t tile, int place, int thread,
                                        const TileTotals<V>& totals) {
  if constexpr (!V::kSharesTiles) return totals[place][thread];
  const float4* from =
      args.partial_sums +
      (int64_t{tile} * kSums * (V::kOutTiles * V::kRowTiles) + place) * V::kThreads + thread;
  float4 sums[kSums];
#pragma unroll
  for (int s = 0; s < kSums; ++s)
    sums[s] = __ldcg(from + int64_t{s} * (V::kOutTiles * V::kRowTiles) * V::kThreads);
  float4 total = sums[0];
#pragma unroll
  for (int s = 1; s < kSums; ++s) {
    total.x += sums[s].x, total.y += sums[s].y;
    total.z += sums[s].z, total.w += sums[s].w;
  }
  return total;
}

// As many blocks a tile as the device and the scratch memory have room for.
inline int Sharers(int64_t tiles, int64_t outs, int row_tiles, const RowProductScratch& scratch) {
  const int64_t bytes =
      tiles * kSums * outs * row_tiles * kTileRows * static_cast<int64_t>(sizeof(float));
  if (scratch.counters == nullptr || bytes > scratch.partial_bytes || tiles > kRowTileCounters)
    return 1;
  int sharers = kSums;
  while (sharers > 1 && tiles * sharers > Multiprocessors()) sharers /= 2;
  return sharers;
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_SUMS_CUH_
