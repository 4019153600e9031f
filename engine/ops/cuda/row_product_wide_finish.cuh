// What becomes of a tile of row_product_wide*.cu when its sums are there, without adapters. Private
// to them; variants V as in row_product_sums.cuh.
#ifndef LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_WIDE_FINISH_CUH_
#define LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_WIDE_FINISH_CUH_

#include <cstdint>

#include "engine/ops/cuda/row_product_sums.cuh"
#include "engine/ops/cuda/row_product_tile.cuh"

namespace lorad::cuda {

// A thread's elements of a fragment, and their residuals, on their way before the sums are there.
template <typename V>
class FinishedFragment {
 public:
  // Of the fragment of 8 rows number n.
  __device__ __forceinline__ FinishedFragment(const WideArgs& args, const RowProductTile& tile,
                                              int n)
      : args_(args),
        term_(args.product.entries[tile.entry].term),
        row_(tile.row + n * kTileRows + threadIdx.x % 4 * 2),
        out_(tile.out + threadIdx.x / 32 * V::kWarpOuts + threadIdx.x % 32 / 4) {
    if (term_.residual == nullptr) return;
#pragma unroll
    for (int o = 0; o < V::kOutTiles; ++o) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (Exists(o, i)) residuals_[o][i] = ResidualOf(term_, Row(i), Out(o, i));
      }
    }
  }
  __device__ __forceinline__ void Store(int o, const float4& total) const {
    const float values[4] = {total.x, total.y, total.z, total.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (!Exists(o, i)) continue;
      StoreResult(term_, Row(i), Out(o, i),
                  Completed(term_, Out(o, i), values[i], residuals_[o][i]));
    }
  }

 private:
  __device__ __forceinline__ int64_t Row(int i) const { return row_ + i % 2; }
  __device__ __forceinline__ int64_t Out(int o, int i) const {
    return out_ + o * kTileOuts + i / 2 * 8;
  }
  __device__ __forceinline__ bool Exists(int o, int i) const {
    return Row(i) < args_.product.rows && Out(o, i) < term_.weight.rows;
  }

  const WideArgs& args_;
  const RowProductTerm& term_;
  const int64_t row_, out_;
  float residuals_[V::kOutTiles][4] = {};
};

// Writes the tile, or this block's share of its rows, when wait() has seen to it that the sums are
// there.
template <typename V, typename Wait>
__device__ __forceinline__ void Finish(const WideArgs& args, uint32_t index,
                                       const RowProductTile& tile, int part,
                                       const TileTotals<V>& totals, const Wait& wait) {
  const auto store = [&](int n, const FinishedFragment<V>& fragment) {
#pragma unroll
    for (int o = 0; o < V::kOutTiles; ++o) {
      fragment.Store(
          o, Total<V>(args, index, o * V::kRowTiles + n, static_cast<int>(threadIdx.x), totals));
    }
  };
  const FinishedFragment<V> first(args, tile, part);
  wait();
  store(part, first);
  for (int n = part + args.sharers; n < V::kRowTiles; n += args.sharers)
    store(n, FinishedFragment<V>(args, tile, n));
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_WIDE_FINISH_CUH_
