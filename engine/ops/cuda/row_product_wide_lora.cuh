// What becomes of a tile of row_product_wide_tiled.cu where rows have adapters. Private to it.
#ifndef LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_WIDE_LORA_CUH_
#define LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_WIDE_LORA_CUH_

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "engine/ops/cuda/row_product_expand.cuh"
#include "engine/ops/cuda/row_product_lora.cuh"
#include "engine/ops/cuda/row_product_sums.cuh"
#include "engine/ops/cuda/row_product_tile.cuh"

namespace lorad::cuda {

// Adds what adapters add and writes the tile, or this block's share of its rows. A warp has 16
// outputs, with SwiGLU the same ones of gate and up, and goes through fragments of 8 rows; the B of
// the next one's adapters and its residuals are on their way while those of one are added.
template <typename V, typename Lora>
class WideLoraFinish {
 public:
  static constexpr int kTerms = V::kSwiGlu ? 2 : 1;
  using Xa = uint2[kTerms][V::kRows][4];  // the first ranks of all rows, in shared memory

  __device__ __forceinline__ WideLoraFinish(const WideArgs& args, const Lora& lora, uint32_t tile,
                                            int part)
      : args_(args), lora_(lora), index_(tile) {
    const RowProductTile at = LocateTile<V::kEntryOuts, V::kRows>(args.product, tile);
    const int warp = threadIdx.x / 32;
    term_ = at.entry;
    out_ = at.out + warp % V::kEntryWarps * kTileOuts;
    exists_ = out_ < args.product.entries[term_].term.weight.rows;
    // With SwiGLU each pair of outputs has two warps, which share out the rows.
    first_ = part + warp / V::kEntryWarps * args.sharers;
    step_ = kTerms * args.sharers;
  }
  // What does not need xa.
  __device__ __forceinline__ void Begin() {
    if (exists_) Take(first_);
  }
  // When all sums and xa are there; `xa` is free. A block that shares its tile has few rows of xa,
  // which come together with the sums.
  __device__ __forceinline__ void Finish(const TileTotals<V>& totals, Xa& xa) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    if constexpr (!V::kSharesTiles) {
      for (int i = threadIdx.x; i < kTerms * V::kRows * 4; i += V::kThreads) {
        const int c = i / (V::kRows * 4), row = i / 4 % V::kRows;
        xa[c][row][i % 4] = LoadXa(lora_, lora_.entry_of_row[term_ + c][row], row, 0, i % 4);
      }
      __syncthreads();
    }
    if (!exists_) return;
#pragma unroll 1
    for (int n = first_; n < V::kRowTiles; n += step_) {
      const int first_row = n * kTileRows;
      int adapters[kTerms];
      HeldB<V::kHeldB> held[kTerms];
      float residuals[4];
#pragma unroll
      for (int c = 0; c < kTerms; ++c) adapters[c] = adapters_[c], held[c] = held_[c];
      if constexpr (!V::kSwiGlu) {
#pragma unroll
        for (int i = 0; i < 4; ++i) residuals[i] = residuals_[i];
      }
      if (n + step_ < V::kRowTiles) Take(n + step_);
      uint2 own_xa[kTerms];  // of this lane's row
#pragma unroll
      for (int c = 0; c < kTerms; ++c) {
        own_xa[c] = V::kSharesTiles ? LoadXa(lora_, adapters[c], first_row + g, 0, t)
                                    : xa[c][first_row + g][t];
      }
      float values[kTerms][4];
#pragma unroll
      for (int c = 0; c < kTerms; ++c) {
        const RowProductTerm& term = args_.product.entries[term_ + c].term;
        const int thread =
            V::kSwiGlu ? threadIdx.x % (V::kThreads / 2) + c * (V::kThreads / 2) : threadIdx.x;
        const float4 total = Total<V>(args_, index_, n, thread, totals);
        values[c][0] = total.x, values[c][1] = total.y;
        values[c][2] = total.z, values[c][3] = total.w;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = first_row + 2 * t + i % 2;
          if (row >= args_.product.rows) continue;
          const int64_t out = out_ + g + i / 2 * 8;
          const float residual = V::kSwiGlu ? ResidualOf(term, row, out) : residuals[i];
          values[c][i] = Completed(term, out, values[c][i], residual);
        }
        AddLora(lora_, adapters[c], own_xa[c], first_row, out_, held[c], values[c]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = first_row + 2 * t + i % 2;
        const int64_t out = out_ + g + i / 2 * 8;
        if (row >= args_.product.rows) continue;
        if constexpr (V::kSwiGlu) {
          StoreSwiGlu(args_.product.swiglu, row, out, values[0][i], values[1][i]);
        } else {
          StoreResult(args_.product.entries[term_].term, row, out, values[0][i]);
        }
      }
    }
  }

 private:
  __device__ __forceinline__ void Take(int n) {
#pragma unroll
    for (int c = 0; c < kTerms; ++c) {
      adapters_[c] = AdapterOfRow(lora_, term_ + c, n * kTileRows);
      held_[c].TakeFirst(lora_, adapters_[c], out_);
    }
    if constexpr (V::kSwiGlu) return;
    const RowProductTerm& term = args_.product.entries[term_].term;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = n * kTileRows + lane % 4 * 2 + i % 2;
      residuals_[i] =
          row < args_.product.rows ? ResidualOf(term, row, out_ + lane / 4 + i / 2 * 8) : 0;
    }
  }

  const WideArgs& args_;
  const Lora& lora_;
  const uint32_t index_;
  int term_;  // the first
  int64_t out_;
  bool exists_;
  int first_, step_;
  int adapters_[kTerms];  // of this lane's row among those that come next
  HeldB<V::kHeldB> held_[kTerms];
  float residuals_[4];  // gate and up, as a rule, have none: theirs are not taken before
};

// How many blocks shrink: where the product leaves multiprocessors free and these are done before
// it is, those, otherwise as many as there is work for.
struct WideShrinking {
  uint32_t all, in_passing, free;

  WideShrinking(uint32_t product_blocks, uint32_t teams)
      : all(static_cast<uint32_t>(Multiprocessors())),
        in_passing(2 * teams),
        free(all > product_blocks ? all - product_blocks : 0) {}
  bool InPassing(uint32_t items) const { return items <= in_passing * free; }
  bool Halves(uint32_t items) const { return !InPassing(items) && 2 * items <= all; }
  uint32_t Blocks(uint32_t items) const { return std::min(items, InPassing(items) ? free : all); }
};

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_WIDE_LORA_CUH_
