// Which strips a block of row_product_narrow.cu has, and which groups of columns a warp. Private to
// it.
#ifndef LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_NARROW_STRIPS_CUH_
#define LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_NARROW_STRIPS_CUH_

#include <cstdint>

#include "engine/ops/cuda/row_product_block_scaled.cuh"
#include "engine/ops/cuda/row_product_lora.cuh"
#include "engine/ops/cuda/row_product_tile.cuh"

namespace lorad::cuda {

inline constexpr int kStripGroupBytes = BlockScaled::kBlocks * kTileBytes;
inline constexpr int kStripGroupScales = BlockScaled::kBlocks * kStripRows;  // bytes

// Pairs of gate and up after the last that every block has one of: two blocks have one each, and
// that of gate leaves its results to the other. The latter has the higher number, so that it never
// keeps out whom it waits for.
struct SharedPairs {
  uint32_t first = UINT32_MAX;
  float* gates = nullptr;     // [pairs][kItems][32]
  uint32_t* ready = nullptr;  // [pairs], 0 before and after a launch
};

template <typename Lora_>
struct NarrowArgs {
  using Lora = Lora_;
  RowProductArgs product;
  Lora lora;
  SharedPairs shared_pairs;
};
// The strips of one block: every so many, and where products end in SwiGLU each strip of gate
// followed by that of up, except in SharedPairs.
template <bool kSwiGlu, typename Lora>
class StripWalk {
 public:
  __device__ __forceinline__ explicit StripWalk(const NarrowArgs<Lora>& args)
      : args_(args),
        strip_(ProductBlock(args.lora)),
        end_(kSwiGlu ? args.product.entries[1].first_tile : args.product.tiles) {
    if (kSwiGlu) Share();
  }
  __device__ __forceinline__ bool done() const { return strip_ >= end_; }
  // Of the launch.
  __device__ __forceinline__ uint32_t strip() const {
    return kSwiGlu && up_ ? end_ + strip_ : strip_;
  }
  __device__ __forceinline__ bool is_up() const { return kSwiGlu && up_; }
  __device__ __forceinline__ bool is_shared() const { return kSwiGlu && shared_; }
  // REQUIRES: is_shared().
  __device__ __forceinline__ uint32_t shared_pair() const {
    return strip_ - args_.shared_pairs.first;
  }
  __device__ __forceinline__ void Next() {
    if (is_shared()) {
      strip_ = end_;
      return;
    }
    if (kSwiGlu) up_ = !up_;
    if (kSwiGlu && up_) return;
    strip_ += ProductBlocks(args_.lora);
    if (kSwiGlu) Share();
  }

 private:
  __device__ __forceinline__ void Share() {
    const uint32_t first = args_.shared_pairs.first;
    if (strip_ < first) return;
    const uint32_t block = ProductBlock(args_.lora);
    shared_ = true;
    strip_ = first + block / 2;
    up_ = block % 2 != 0;
  }

  const NarrowArgs<Lora>& args_;
  uint32_t strip_;
  const uint32_t end_;
  bool up_ = false, shared_ = false;
};

// The groups of one warp, strip after strip, in the order in which they are loaded.
template <bool kSwiGlu, typename Lora>
class StripGroups {
 public:
  __device__ __forceinline__ StripGroups(const NarrowArgs<Lora>& args, int begin)
      : args_(args.product),
        begin_(begin),
        groups_(static_cast<int>(args_.entries[0].term.weight.columns) / BlockScaled::kGroup),
        strips_(args),
        group_(begin) {
    Find();
  }

  // False: there is no group any more.
  __device__ __forceinline__ bool valid() const { return codes_ != nullptr; }
  // The lane's of block b: rows g and g + 8.
  __device__ __forceinline__ uint4 Codes(int b) const {
    return LoadOnce16(codes_ + b * kTileBytes);
  }
  // Of rows g and g + 8, four blocks each.
  __device__ __forceinline__ uint2 ScaleCodes() const {
    return __ldg(reinterpret_cast<const uint2*>(scales_));
  }
  __device__ __forceinline__ void Next() {
    group_ += kSums;
    if (group_ < groups_) {
      codes_ += kSums * kStripGroupBytes;
      scales_ += kSums * kStripGroupScales;
      return;
    }
    group_ = begin_;
    strips_.Next();
    Find();
  }

 private:
  __device__ __forceinline__ void Find() {
    codes_ = nullptr;
    if (strips_.done() || group_ >= groups_) return;
    const RowProductEntry& entry = args_.entries[EntryOf(args_, strips_.strip())];
    const PackedWeight& weight = entry.term.weight;
    const int64_t first = int64_t{strips_.strip() - entry.first_tile} * groups_ + group_;
    const int lane = threadIdx.x % 32;
    codes_ =
        static_cast<const char*>(weight.codes) + first * kStripGroupBytes + lane * sizeof(uint4);
    scales_ = weight.scales_u8 + first * kStripGroupScales + lane / 4 * sizeof(uint2);
  }

  const RowProductArgs& args_;
  const int begin_, groups_;
  StripWalk<kSwiGlu, Lora> strips_;
  int group_;
  const char* codes_;
  const uint8_t* scales_;
};

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_NARROW_STRIPS_CUH_
