// A warp's ring of keys and values on their way into shared memory. Private to decode_attention.cu,
// which explains it.
#ifndef LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_COPIES_CUH_
#define LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_COPIES_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/ops/cuda/attention_mma.cuh"
#include "engine/ops/cuda/decode_attention.cuh"

namespace lorad::cuda {

inline constexpr int kPartKeys = 32;  // of a copy: half a warp's keys of a split
inline constexpr int kUnitParts = 4;  // its keys in two parts, its values in two

// 16 bytes `chunk` of row `key` of a part in shared memory. Chunks lie so that eight lanes whose 16
// bytes are read at once find them in different banks: four of a key and four of the next one, and
// two of each of four keys that are 2 apart.
template <int kDims>
__device__ __forceinline__ int PartOffset(int key, int chunk) {
  return (key * (kDims / 8) + (chunk ^ ((key & 1) << 2) ^ (key & 6))) * 16;
}

// The parts of one warp over a range of units, kStages - 1 of them on their way while one is in
// use. The row's own key and value, and what lies beyond them, come as zeros. Units in which the
// warp has no key have no parts.
template <int kDims, int kStages>
class PartCopies {
 public:
  static constexpr int kPartBytes = kPartKeys * kDims * static_cast<int>(sizeof(__nv_bfloat16));
  static constexpr int kAhead = kStages - 1;
  static_assert(kAhead <= kUnitParts);

  // `stages`: [kStages] parts in shared memory, the warp's own.
  __device__ PartCopies(const DecodeArgs& args, const UnitRange& range, int kv_head, int warp,
                        uint32_t stages)
      : args_(args),
        lane_offset_((threadIdx.x % 32 / kChunks * args.kv_heads + kv_head) * args.dims +
                     threadIdx.x % kChunks * 8),
        warp_(warp),
        stages_(stages),
        unit_(range.first),
        left_(range.end - range.begin) {
    FindUnit();
    Start<0>();
    Start<1>();
    if constexpr (kAhead > 2) Start<2>();
    if constexpr (kAhead > 3) Start<3>();
  }

  // Waits for part kPart of the warp's next unit, in this order, and starts another in the place of
  // the one before it.
  template <int kPart>
  __device__ __forceinline__ uint32_t Next() {
    WaitForCopies<kStages - 2>();
    __syncwarp();  // this part is there for all lanes, and the one before is done with
    Start<(kPart + kAhead) % kUnitParts>();
    const uint32_t part = stages_ + read_ * kPartBytes;
    read_ = read_ + 1 == kStages ? 0 : read_ + 1;
    return part;
  }

 private:
  static constexpr int kChunks = kDims / 8;
  static constexpr int kStepKeys = 32 / kChunks;

  // Starts the copy of the next part, if there is one, and counts as one in any case.
  template <int kPart>
  __device__ __forceinline__ void Start() {
    if (left_ > 0) {
      constexpr int kHalf = kPart % 2;
      const PagedAttentionParams& p = args_.p.attention;
      const int keys = unit_.position - FirstKey() - kHalf * kPartKeys;
      const BFloat16* const cache = kPart < 2 ? p.k_cache + entry_[kHalf] * p.k_page_stride
                                              : p.v_cache + entry_[kHalf] * p.v_page_stride;
      Copy(reinterpret_cast<const __nv_bfloat16*>(cache) + place_[kHalf], keys,
           stages_ + fill_ * kPartBytes);
      if constexpr (kPart + 1 == kUnitParts) {
        --left_;
        unit_.Advance(args_);
        FindUnit();
      }
    }
    CommitCopies();
    fill_ = fill_ + 1 == kStages ? 0 : fill_ + 1;
  }

  __device__ __forceinline__ int FirstKey() const {
    return unit_.split * kSplitKeys + warp_ * kWarpKeys;
  }

  // The next unit in which the warp has keys, and where its parts lie: each in one page.
  __device__ __forceinline__ void FindUnit() {
    while (left_ > 0 && FirstKey() > unit_.position) {
      --left_;
      unit_.Advance(args_);
    }
    if (left_ <= 0) return;
    const PagedAttentionParams& p = args_.p.attention;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const unsigned key = FirstKey() + half * kPartKeys, page = key / args_.page_tokens;
      entry_[half] = 0;
      place_[half] = (key - page * args_.page_tokens) * args_.kv_heads * args_.dims + lane_offset_;
      if (static_cast<int>(key) < unit_.position)
        entry_[half] = __ldg(p.page_table + unit_.row * p.page_table_stride + page);
    }
  }

  // The first `keys` of a part; the lane's first 16 bytes are at `from`.
  __device__ __forceinline__ void Copy(const __nv_bfloat16* from, int keys, uint32_t to) const {
    const int first = threadIdx.x % 32 / kChunks, chunk = threadIdx.x % kChunks;
    const int step = kStepKeys * args_.kv_heads * args_.dims;
    if (keys >= kPartKeys && args_.dims == kDims) {
#pragma unroll
      for (int key = 0; key < kPartKeys; key += kStepKeys, from += step)
        CopyAsync16(to + PartOffset<kDims>(key + first, chunk), from, true);
      return;
    }
#pragma unroll 1
    for (int key = 0; key < kPartKeys; key += kStepKeys, from += step) {
      const bool read = key + first < keys && chunk * 8 < args_.dims;
      const void* const anywhere = args_.p.attention.k_cache;
      CopyAsync16(to + PartOffset<kDims>(key + first, chunk), read ? from : anywhere, read);
    }
  }

  const DecodeArgs& args_;
  const int lane_offset_;  // of the lane's 16 bytes of the first keys, in elements
  const int warp_;
  const uint32_t stages_;
  SplitUnit unit_;
  int left_;  // units, this one included
  int fill_ = 0, read_ = 0;
  int32_t entry_[2] = {};  // of the page table, for each half of the keys
  int place_[2] = {};      // in that page, of the lane, in elements
};

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_COPIES_CUH_
