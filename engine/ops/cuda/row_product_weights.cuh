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
template <int kBits_, int kLoads>
struct LaneCodes {
  static constexpr int kBits = kBits_;
  static constexpr int kChunks = kLoads * Columns<kBits>::kLoadChunks;
  static constexpr int kColumns = kLoads * 4 * Columns<kBits>::kLoad;  // of the warp
  uint4 codes[2][kLoads];
  float scales[2][kLoads];
  uint32_t scale_codes[2][kLoads];
};

// The same of regular weights (IsRegular), a group at a time: the four scales of a group's blocks
// are one word, and share their nested scale.
struct RegularLaneCodes {
  static constexpr int kBits = 4;
  static constexpr int kLoads = Columns<4>::kLoads;
  static constexpr int kChunks = kLoads * Columns<4>::kLoadChunks;
  static constexpr int kColumns = Columns<4>::kGroup;
  uint4 codes[2][kLoads];
  float scales[2][kLoads];
  uint32_t scale_words[2];
  float nested_scales[2];
};

// Codes are read once: they must not drive x out of the first-level cache.
__device__ __forceinline__ uint4 LoadOnce(const void* from) {
  uint4 words;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
               : "l"(from));
  return words;
}

// Sixteen outputs of any weight, from `out` on; `weight` must outlive it.
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
  __device__ __forceinline__ void DecodeScales(const DecodeTables<kBits>& tables, int /*t*/,
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

// Columns in whole groups, blocks of 64 and double quantisation, as nearly all 4-bit models have
// them: no bounds to check, and a few additions a group.
inline bool IsRegular(const PackedWeight& weight) {
  return weight.bits == 4 && weight.block == 64 && weight.scales_u8 != nullptr &&
         weight.columns % Columns<4>::kGroup == 0 &&
         reinterpret_cast<uintptr_t>(weight.scales_u8) % sizeof(uint32_t) == 0 &&
         weight.rows * (weight.columns / 64) <= UINT32_MAX;
}

// Sixteen outputs of a regular weight. Those beyond the last are read as the last.
class RegularWeightRows {
 public:
  __device__ __forceinline__ RegularWeightRows(const PackedWeight& weight, int /*block_shift*/,
                                               int64_t out, int g)
      : weight_(&weight) {
    const int64_t last = weight.rows - 1;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int64_t row = out + g + 8 * r < last ? out + g + 8 * r : last;
      codes_[r] = static_cast<const char*>(weight.codes) + row * (weight.columns / 2);
      first_block_[r] = static_cast<uint32_t>(row * (weight.columns / 64));
    }
  }

  __device__ __forceinline__ void Load(int column, int t, RegularLaneCodes& lane) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const char* codes = codes_[r] + (column / 2 + t * 16);
#pragma unroll
      for (int load = 0; load < RegularLaneCodes::kLoads; ++load)
        lane.codes[r][load] = LoadOnce(codes + load * 64);
      const uint32_t block = first_block_[r] + static_cast<uint32_t>(column) / 64;
      lane.scale_words[r] = __ldg(reinterpret_cast<const uint32_t*>(weight_->scales_u8 + block));
      lane.nested_scales[r] = __ldg(weight_->nested_scales + (block >> kNestedShift));
    }
  }

  __device__ __forceinline__ void DecodeScales(const DecodeTables<4>& tables, int t,
                                               RegularLaneCodes& lane) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int load = 0; load < RegularLaneCodes::kLoads; ++load) {
        const uint32_t code = lane.scale_words[r] >> (16 * load + t / 2 * 8) & 255;
        lane.scales[r][load] =
            NestedScale(tables.nested_code[code], lane.nested_scales[r], weight_->nested_offset);
      }
    }
  }

 private:
  const PackedWeight* weight_;
  const char* codes_[2];
  uint32_t first_block_[2];  // of the output in the flattened matrix
};

// Eight neighbouring 4-bit weights, the first in the high half of the lowest byte. A byte is cut
// out, made an offset into the table and joined with the lane's column in two instructions.
__device__ __forceinline__ uint4 DecodePairs(uint32_t codes, const DecodeTables<4>& tables,
                                             float scale) {
  constexpr uint32_t kEntryBytes = kPairLanes * sizeof(float2), kMask = 255 * kEntryBytes;
  static_assert(kEntryBytes == 128);
  const uint32_t column = threadIdx.x % kPairLanes * sizeof(float2);
  const uint32_t offsets[4] = {(codes << 7 & kMask) | column, (codes >> 1 & kMask) | column,
                               (codes >> 9 & kMask) | column, (codes >> 17 & kMask) | column};
  uint32_t words[4];
#pragma unroll
  for (int byte = 0; byte < 4; ++byte) {
    const float2 pair = *reinterpret_cast<const float2*>(
        reinterpret_cast<const char*>(tables.pairs) + offsets[byte]);
    words[byte] = RoundedPair(__fmul_rn(pair.x, scale), __fmul_rn(pair.y, scale));
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// Chunk i of output g + 8 r as bf16. REQUIRES: DecodeScales.
template <typename Lane>
__device__ __forceinline__ uint4 DecodeChunk(const Lane& lane, int r, int i,
                                             const DecodeTables<Lane::kBits>& tables) {
  constexpr int kLoadChunks = Columns<Lane::kBits>::kLoadChunks;
  const uint4& codes = lane.codes[r][i / kLoadChunks];
  const float scale = lane.scales[r][i / kLoadChunks];
  if constexpr (Lane::kBits == 16) {
    return codes;
  } else if constexpr (Lane::kBits == 4) {
    const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
    return DecodePairs(words[i % kLoadChunks], tables, scale);
  } else {
    const uint2 words = i % 2 == 0 ? make_uint2(codes.x, codes.y) : make_uint2(codes.z, codes.w);
    return DecodeEight(words, tables.book, scale);
  }
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_WEIGHTS_CUH_
