// 4-bit weights in whole blocks, as nearly all 4-bit models have them: blocks of 64, double
// quantisation, columns in multiples of 256. A product is taken with bf16(code), and a block's sum
// is multiplied by its absmax in fp32: one look-up for two weights and no arithmetic. bf16(code) *
// absmax and the definition's bf16(code * absmax) are each within 2^-9 of code * absmax,
// relatively. Pair tables: Guo et al., "FLUTE", 2024. Private to row_product*.cu, which explain the
// order of columns.
#ifndef LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_BLOCK_SCALED_CUH_
#define LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_BLOCK_SCALED_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/ops/cuda/row_product_tile.cuh"
#include "engine/ops/cuda/weight_decode.cuh"

namespace lorad::cuda {

struct BlockScaled {
  static constexpr int kBits = 4;
  static constexpr int kBlock = 64;
  static constexpr int kBlocks = 4;  // of a group
  static constexpr int kGroup = kBlocks * kBlock;
  static constexpr int kChunks = kGroup / (4 * kChunk);
  // Where chunk i of lane position t begins: a block is 16 columns of each position.
  static __device__ __forceinline__ int OfChunk(int i, int t) {
    return i / 2 * kBlock + t * (2 * kChunk) + i % 2 * kChunk;
  }

  // Both values of a byte, once for each lane, so that no two lanes ever meet in a bank.
  struct Tables {
    uint32_t pairs[256][32];
    float nested_code[256];
  };
  // What a lane loads of a group.
  struct Lane {
    uint2 codes[2][kBlocks];
    uint32_t scale_codes[2];  // of the blocks, a byte each
    float nested_scales[2];
  };
  // Of the group of `row` that begins at `column`.
  static __device__ __forceinline__ int64_t FirstBlock(const PackedWeight& weight, int64_t row,
                                                       int column) {
    return row * (weight.columns / kBlock) + column / kBlock;
  }
};

inline bool IsBlockScaled(const PackedWeight& weight) {
  return weight.bits == 4 && weight.block == BlockScaled::kBlock && weight.scales_u8 != nullptr &&
         weight.columns % BlockScaled::kGroup == 0 &&
         weight.rows * (weight.columns / BlockScaled::kBlock) <= UINT32_MAX;
}

// By the first 256 threads of a block; others see them after a barrier.
__device__ __forceinline__ void FillTables(const PackedWeight& weight,
                                           BlockScaled::Tables& tables) {
  const int i = threadIdx.x;
  if (i >= 256) return;
  const uint32_t pair =
      RoundedPair(__ldg(weight.code_book + (i >> 4)), __ldg(weight.code_book + (i & 15)));
  uint4* entry = reinterpret_cast<uint4*>(tables.pairs[i]);
#pragma unroll
  for (int j = 0; j < 8; ++j)  // neighbouring threads in different banks
    entry[(j + i) % 8] = make_uint4(pair, pair, pair, pair);
  tables.nested_code[i] = __ldg(weight.nested_code + i);
}

// Sixteen outputs of a weight that need not be aligned, from `out` on; those beyond the last are
// read as the last.
class BlockScaledRows {
 public:
  __device__ __forceinline__ BlockScaledRows(const PackedWeight& weight, int /*block_shift*/,
                                             int64_t out, int g)
      : weight_(&weight) {
    const int64_t last = weight.rows - 1;
#pragma unroll
    for (int r = 0; r < 2; ++r) row_[r] = out + g + 8 * r < last ? out + g + 8 * r : last;
  }

  // One group. Its blocks share a nested scale.
  __device__ __forceinline__ void Load(int column, int t, BlockScaled::Lane& lane) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const char* codes = static_cast<const char*>(weight_->codes);
#pragma unroll
      for (int b = 0; b < BlockScaled::kBlocks; ++b) {
        const int c = column + b * BlockScaled::kBlock + t * 2 * kChunk;
        const char* from = codes + (weight_->tiled ? TiledCodes(weight_->columns, row_[r], c)
                                                   : row_[r] * (weight_->columns / 2) + c / 2);
        lane.codes[r][b] = make_uint2(LoadBytes(from), LoadBytes(from + 4));
      }
      const int64_t block = BlockScaled::FirstBlock(*weight_, row_[r], column);
      const int64_t place =
          weight_->tiled ? TiledScale(weight_->columns, row_[r], column / BlockScaled::kBlock)
                         : block;
      lane.scale_codes[r] = LoadBytes(reinterpret_cast<const char*>(weight_->scales_u8 + place));
      lane.nested_scales[r] = __ldg(weight_->nested_scales + (block >> kNestedShift));
    }
  }

 private:
  static __device__ __forceinline__ uint32_t LoadBytes(const char* from) {
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) word |= uint32_t{static_cast<uint8_t>(__ldg(from + i))} << 8 * i;
    return word;
  }

  const PackedWeight* weight_;
  int64_t row_[2];
};

// absmax of block b, to a rounding, from the codes of a group's blocks.
__device__ __forceinline__ float ScaleOf(uint32_t codes, int b, float nested_scale,
                                         float nested_offset, const BlockScaled::Tables& tables) {
  const uint32_t offset = (codes >> 8 * b & 255) * sizeof(float);
  const float code =
      *reinterpret_cast<const float*>(reinterpret_cast<const char*>(tables.nested_code) + offset);
  return __fmaf_rn(code, nested_scale, nested_offset);
}

// The table of pairs as one lane looks into it. A look-up is three instructions that keep three
// pipes busy: a byte is cut out, multiplied and added to the lane's column, and loaded.
class PairTable {
 public:
  __device__ __forceinline__ explicit PairTable(const BlockScaled::Tables& tables)
      : column_(static_cast<uint32_t>(__cvta_generic_to_shared(tables.pairs)) +
                threadIdx.x % 32 * static_cast<uint32_t>(sizeof(uint32_t))) {
    // Not a constant to the compiler, which would shift and add in two instructions.
    asm volatile("mov.u32 %0, %1;\n" : "=r"(row_bytes_) : "n"(sizeof(tables.pairs[0])));
  }
  // Eight neighbouring codes as bf16, the first in the high half of the lowest byte.
  __device__ __forceinline__ uint4 LookUp(uint32_t codes) const {
    return make_uint4(At<0>(codes), At<1>(codes), At<2>(codes), At<3>(codes));
  }

 private:
  // Not volatile: codes come from memory that is read after the tables' barrier.
  template <int kByte>
  __device__ __forceinline__ uint32_t At(uint32_t codes) const {
    uint32_t address, pair;
    asm("mad.lo.u32 %0, %1, %2, %3;\n"
        : "=r"(address)
        : "r"(__byte_perm(codes, 0, 0x4440 | kByte)), "r"(row_bytes_), "r"(column_));
    asm("ld.shared.u32 %0, [%1];\n" : "=r"(pair) : "r"(address));
    return pair;
  }

  uint32_t column_, row_bytes_;
};

// sums += products of block b of a group. codes(o, r, b) gives the lane's 16 columns of output
// 16 o + g + 8 r, scale(o, r, b) that block's absmax, load_x(n, i) chunk i of row fragment n.
template <int kOutTiles, int kRowTiles, typename Codes, typename Scale, typename LoadX>
__device__ __forceinline__ void MultiplyBlock(int b, const Codes& codes, const Scale& scale,
                                              const LoadX& load_x, const PairTable& table,
                                              float (&sums)[kOutTiles][kRowTiles][4]) {
  constexpr int kTogether =
      kRowTiles < 4 ? kRowTiles : 4;  // chains that do not wait for each other
  WeightFragments weights[kOutTiles][2];
  float scales[kOutTiles][2];
#pragma unroll
  for (int o = 0; o < kOutTiles; ++o) {
    const uint2 low = codes(o, 0, b), high = codes(o, 1, b);
    weights[o][0] = Fragments(table.LookUp(low.x), table.LookUp(high.x));
    weights[o][1] = Fragments(table.LookUp(low.y), table.LookUp(high.y));
    scales[o][0] = scale(o, 0, b);
    scales[o][1] = scale(o, 1, b);
  }
#pragma unroll
  for (int first = 0; first < kRowTiles; first += kTogether) {
    float block[kOutTiles][kTogether][4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint4 x[kTogether];
#pragma unroll
      for (int n = 0; n < kTogether; ++n) x[n] = load_x(first + n, 2 * b + half);
#pragma unroll
      for (int n = 0; n < kTogether; ++n) {
#pragma unroll
        for (int o = 0; o < kOutTiles; ++o)
          MultiplyAdd(block[o][n], weights[o][half].first, x[n].x, x[n].y);
      }
#pragma unroll
      for (int n = 0; n < kTogether; ++n) {
#pragma unroll
        for (int o = 0; o < kOutTiles; ++o)
          MultiplyAdd(block[o][n], weights[o][half].second, x[n].z, x[n].w);
      }
    }
#pragma unroll
    for (int n = 0; n < kTogether; ++n) {
#pragma unroll
      for (int o = 0; o < kOutTiles; ++o) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float& sum = sums[o][first + n][i];
          sum = __fmaf_rn(scales[o][i / 2], block[o][n][i], sum);
        }
      }
    }
  }
}

// sums += products of one group.
template <int kOutTiles, int kRowTiles, typename Codes, typename Scale, typename LoadX>
__device__ __forceinline__ void MultiplyBlocks(const Codes& codes, const Scale& scale,
                                               const LoadX& load_x, const PairTable& table,
                                               float (&sums)[kOutTiles][kRowTiles][4]) {
#pragma unroll
  for (int b = 0; b < BlockScaled::kBlocks; ++b)
    MultiplyBlock<kOutTiles, kRowTiles>(b, codes, scale, load_x, table, sums);
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_BLOCK_SCALED_CUH_
