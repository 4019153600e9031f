// Weights of any format and shape as the definition has them, bf16(code * absmax). Private to
// row_product*.cu, which explain the order of columns.
#ifndef LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_EXACT_CUH_
#define LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_EXACT_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/ops/cuda/row_product_tile.cuh"
#include "engine/ops/cuda/weight_decode.cuh"

namespace lorad::cuda {

template <int kBits_>
struct Exact {
  static constexpr int kBits = kBits_;
  static constexpr int kGroup = 128;
  static constexpr int kLoad = 128 / kBits;            // columns of a lane, 16 bytes
  static constexpr int kLoads = kGroup / (4 * kLoad);  // of a lane in a group, for each output
  static constexpr int kLoadChunks = kLoad / kChunk;
  static constexpr int kChunks = kGroup / (4 * kChunk);
  static __device__ __forceinline__ int OfChunk(int i, int t) {
    return i / kLoadChunks * (4 * kLoad) + t * kLoad + i % kLoadChunks * kChunk;
  }

  struct Tables {
    // 4 bits: entry e of lane l at e * kBookLanes + l.
    float book[kBits == 4 ? 16 * kBookLanes : kBits == 8 ? 256 : 1];
    float nested_code[256];
  };
  struct Lane {
    uint4 codes[2][kLoads];
    float scales[2][kLoads];
    uint32_t scale_codes[2][kLoads];
  };
};

template <int kBits>
__device__ __forceinline__ void FillTables(const PackedWeight& weight, Exact<kBits>*,
                                           typename Exact<kBits>::Tables& tables) {
  if constexpr (kBits == 16) return;
  constexpr int kEntries = sizeof(tables.book) / sizeof(float);
  for (int i = threadIdx.x; i < kEntries; i += kRowProductThreads)
    tables.book[i] = __ldg(weight.code_book + (kBits == 4 ? i / kBookLanes : i));
  if (weight.scales_u8 != nullptr)
    tables.nested_code[threadIdx.x] = __ldg(weight.nested_code + threadIdx.x);
}

// Sixteen outputs of any weight, from `out` on, zeros beyond the matrix; `weight` must outlive it.
template <int kBits>
class ExactRows {
 public:
  using Form = Exact<kBits>;
  __device__ __forceinline__ ExactRows(const PackedWeight& weight, int block_shift, int64_t out,
                                       int g)
      : weight_(&weight), block_shift_(block_shift) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int64_t row = out + g + 8 * r;
      begin_[r] = row < weight.rows ? row * weight.columns : -1;
    }
  }

  __device__ __forceinline__ void Load(int column, int t, typename Form::Lane& lane) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int load = 0; load < Form::kLoads; ++load) {
        const int c = column + (load * 4 + t) * Form::kLoad;
        lane.codes[r][load] = make_uint4(0, 0, 0, 0);
        lane.scales[r][load] = 0;
        lane.scale_codes[r][load] = 0;
        if (begin_[r] < 0 || c >= weight_->columns) continue;
        const int64_t i = begin_[r] + c;
        lane.codes[r][load] = LoadOnce16(static_cast<const char*>(weight_->codes) + i * kBits / 8);
        if constexpr (kBits != 16) {
          const int64_t block = i >> block_shift_;
          if (weight_->scales_u8 != nullptr) {
            lane.scale_codes[r][load] = __ldg(weight_->scales_u8 + block);
            lane.scales[r][load] = __ldg(weight_->nested_scales + (block >> kNestedShift));
          } else {
            lane.scales[r][load] = __ldg(weight_->scales + block);
          }
        }
      }
    }
  }

  __device__ __forceinline__ void DecodeScales(const typename Form::Tables& tables,
                                               typename Form::Lane& lane) const {
    if constexpr (kBits != 16) {
      if (weight_->scales_u8 == nullptr) return;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int load = 0; load < Form::kLoads; ++load) {
          lane.scales[r][load] = NestedScale(tables.nested_code[lane.scale_codes[r][load]],
                                             lane.scales[r][load], weight_->nested_offset);
        }
      }
    }
  }

  // Eight columns of output g + 8 r, one element after the other.
  __device__ __forceinline__ uint4 DecodeElements(int r, int column) const {
    uint32_t words[4] = {};
#pragma unroll 1
    for (int e = 0; e < kChunk; ++e) {
      const int c = column + e;
      if (begin_[r] < 0 || c >= weight_->columns) break;
      const uint32_t bits = ElementBits(*weight_, begin_[r] + c) << (16 * (e % 2));
#pragma unroll
      for (int w = 0; w < 4; ++w) {  // no indexing of registers
        if (w == e / 2) words[w] |= bits;
      }
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
  }

 private:
  const PackedWeight* weight_;
  int block_shift_;
  int64_t begin_[2];  // of the output's row in the flattened matrix; -1: no such output
};

// Chunk i of output g + 8 r. REQUIRES: DecodeScales.
template <int kBits>
__device__ __forceinline__ uint4 DecodeChunk(const typename Exact<kBits>::Lane& lane, int r, int i,
                                             const typename Exact<kBits>::Tables& tables) {
  constexpr int kLoadChunks = Exact<kBits>::kLoadChunks;
  const uint4& codes = lane.codes[r][i / kLoadChunks];
  const float scale = lane.scales[r][i / kLoadChunks];
  if constexpr (kBits == 16) {
    return codes;
  } else if constexpr (kBits == 4) {
    const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
    return DecodeEight(words[i % kLoadChunks], tables.book + threadIdx.x % kBookLanes, scale);
  } else {
    const uint2 words = i % 2 == 0 ? make_uint2(codes.x, codes.y) : make_uint2(codes.z, codes.w);
    return DecodeEight(words, tables.book, scale);
  }
}

// sums += products of the columns that `lanes` hold. load_x(n, i) gives chunk i of row fragment n.
template <int kBits, int kOutTiles, int kRowTiles, typename LoadX>
__device__ __forceinline__ void MultiplyGroup(const typename Exact<kBits>::Lane (&lanes)[kOutTiles],
                                              const typename Exact<kBits>::Tables& tables,
                                              const LoadX& load_x,
                                              float (&sums)[kOutTiles][kRowTiles][4]) {
#pragma unroll
  for (int i = 0; i < Exact<kBits>::kChunks; ++i) {
    WeightFragments weights[kOutTiles];
#pragma unroll
    for (int o = 0; o < kOutTiles; ++o) {
      weights[o] = Fragments(DecodeChunk<kBits>(lanes[o], 0, i, tables),
                             DecodeChunk<kBits>(lanes[o], 1, i, tables));
    }
#pragma unroll
    for (int n = 0; n < kRowTiles; ++n) {
      const uint4 x = load_x(n, i);
#pragma unroll
      for (int o = 0; o < kOutTiles; ++o) {
        MultiplyAdd(sums[o][n], weights[o].first, x.x, x.y);
        MultiplyAdd(sums[o][n], weights[o].second, x.z, x.w);
      }
    }
  }
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_EXACT_CUH_
