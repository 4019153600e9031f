// The weights of row_product.cu: how a warp reads a step of them, and how it decodes them into
// fragments of the tensor cores' product. Private to row_product.cu, which explains the order of
// columns.
#ifndef LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_WEIGHTS_CUH_
#define LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_WEIGHTS_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/ops/cuda/row_product.h"
#include "engine/ops/cuda/weight_decode.cuh"

namespace lorad::cuda {

inline constexpr int kRowProductThreads = 256;
inline constexpr int kChunk = 8;  // columns of a lane in two products

// The columns that a warp takes before the next warp's, by the width of a code, and a lane's part
// of them: 16 bytes of codes at a time.
template <int kBits>
struct Columns {
  static constexpr int kGroup = kBits == 4 ? 256 : 128;  // of a warp
  static constexpr int kLoad = 128 / kBits;              // of a lane, 16 bytes
  static constexpr int kLoads = kGroup / (4 * kLoad);    // of a lane in a group, for each output
  static constexpr int kLoadChunks = kLoad / kChunk;
  // Where chunk i of lane position t begins.
  static __device__ __forceinline__ int OfChunk(int i, int t) {
    return i / kLoadChunks * (4 * kLoad) + t * kLoad + i % kLoadChunks * kChunk;
  }
};

struct RowProductEntry {
  RowProductTerm term;
  uint32_t first_tile = 0;  // of the launch
  int32_t block_shift = 0;  // log2(elements of a quantisation block)
};

// Look-up tables in shared memory. For 4-bit codes an entry holds both values of a byte, once for
// each of 16 lanes, whose 8-byte reads then never meet in a bank: half the look-ups.
inline constexpr int kPairLanes = 16;
template <int kBits>
struct DecodeTables {
  float2 pairs[256][kPairLanes];
  float nested_code[256];
};
template <>
struct DecodeTables<8> {
  float book[256];
  float nested_code[256];
};
template <>
struct DecodeTables<16> {};

// By all threads of a block of kRowProductThreads; others see them after a barrier.
template <int kBits>
__device__ __forceinline__ void FillTables(const PackedWeight& weight,
                                           DecodeTables<kBits>& tables) {
  static_assert(kRowProductThreads == 256, "a thread fills an entry of each table");
  const int i = threadIdx.x;
  if constexpr (kBits == 4) {
    const float first = __ldg(weight.code_book + (i >> 4));
    const float second = __ldg(weight.code_book + (i & 15));
    const float4 two = make_float4(first, second, first, second);
    float4* entry = reinterpret_cast<float4*>(tables.pairs[i]);
#pragma unroll
    for (int lane = 0; lane < kPairLanes / 2; ++lane) {
      entry[(lane + i) % (kPairLanes / 2)] = two;  // neighbouring threads in different banks
    }
  } else if constexpr (kBits == 8) {
    tables.book[i] = __ldg(weight.code_book + i);
  }
  if constexpr (kBits != 16) {
    if (weight.scales_u8 != nullptr) tables.nested_code[i] = __ldg(weight.nested_code + i);
  }
}

// What a lane loads at a time: codes of outputs g and g + 8, and their scales, not yet decoded.
template <int kBits, int kLoads>
struct LaneCodes {
  static constexpr int kChunks = kLoads * Columns<kBits>::kLoadChunks;
  static constexpr int kColumns = kLoads * 4 * Columns<kBits>::kLoad;  // of the warp
  uint4 codes[2][kLoads];
  float scales[2][kLoads];
  uint32_t scale_codes[2][kLoads];
};

// Codes are read once: they must not drive x out of the first-level cache.
__device__ __forceinline__ uint4 LoadOnce(const void* from) {
  uint4 words;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
               : "l"(from));
  return words;
}

// Sixteen outputs of a weight, from `out` on; `weight` must outlive it.
class WeightRows {
 public:
  __device__ __forceinline__ WeightRows(const PackedWeight& weight, int block_shift, int64_t out,
                                        int g)
      : weight_(&weight), block_shift_(block_shift) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int64_t row = out + g + 8 * r;
      begin_[r] = row < weight.rows ? row * weight.columns : -1;
    }
  }

  // The loads of lane position t from `column` on; zeros beyond the matrix.
  template <int kBits, int kLoads>
  __device__ __forceinline__ void Load(int column, int t, LaneCodes<kBits, kLoads>& lane) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int load = 0; load < kLoads; ++load) {
        const int c = column + (load * 4 + t) * Columns<kBits>::kLoad;
        lane.codes[r][load] = make_uint4(0, 0, 0, 0);
        lane.scales[r][load] = 0;
        lane.scale_codes[r][load] = 0;
        if (begin_[r] < 0 || c >= weight_->columns) continue;
        const int64_t i = begin_[r] + c;
        lane.codes[r][load] = LoadOnce(static_cast<const char*>(weight_->codes) + i * kBits / 8);
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

  // Scales of `lane` as they multiply the codes.
  template <int kBits, int kLoads>
  __device__ __forceinline__ void DecodeScales(const DecodeTables<kBits>& tables,
                                               LaneCodes<kBits, kLoads>& lane) const {
    if constexpr (kBits != 16) {
      if (weight_->scales_u8 == nullptr) return;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int load = 0; load < kLoads; ++load) {
          lane.scales[r][load] = NestedScale(tables.nested_code[lane.scale_codes[r][load]],
                                             lane.scales[r][load], weight_->nested_offset);
        }
      }
    }
  }

  // Eight columns of output g + 8 r as bf16, one element after the other: any weight.
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

// Eight neighbouring 4-bit weights, the first in the high half of the lowest byte.
__device__ __forceinline__ uint4 DecodePairs(uint32_t codes, const float2* lane_pairs,
                                             float scale) {
  uint32_t words[4];
#pragma unroll
  for (int byte = 0; byte < 4; ++byte) {
    const float2 pair = lane_pairs[((codes >> (8 * byte)) & 255) * kPairLanes];
    words[byte] = RoundedPair(__fmul_rn(pair.x, scale), __fmul_rn(pair.y, scale));
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// Chunk i of output g + 8 r as bf16. REQUIRES: DecodeScales.
template <int kBits, int kLoads>
__device__ __forceinline__ uint4 DecodeChunk(const LaneCodes<kBits, kLoads>& lane, int r, int i,
                                             const DecodeTables<kBits>& tables) {
  constexpr int kLoadChunks = Columns<kBits>::kLoadChunks;
  const uint4& codes = lane.codes[r][i / kLoadChunks];
  const float scale = lane.scales[r][i / kLoadChunks];
  if constexpr (kBits == 16) {
    return codes;
  } else if constexpr (kBits == 4) {
    const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
    return DecodePairs(words[i % kLoadChunks], &tables.pairs[0][threadIdx.x % kPairLanes], scale);
  } else {
    const uint2 words = i % 2 == 0 ? make_uint2(codes.x, codes.y) : make_uint2(codes.z, codes.w);
    return DecodeEight(words, tables.book, scale);
  }
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_WEIGHTS_CUH_
