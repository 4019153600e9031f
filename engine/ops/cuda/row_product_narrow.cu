// The product of row_product.cu for up to 16 rows over tiled 4-bit weights: decoding. The same sums
// in the same order.
//
// It streams weights, so what counts is how many bytes are on their way and that nothing else takes
// longer than they do. A team of 8 warps is a block; it has strips of 16 outputs, of which warp s
// takes the groups s, s + 8, ... of 256 columns. A group of a strip is 2 KB in the order in which
// lanes want them (WeightView::tiled): four loads of 16 bytes a lane, straight to registers, each
// issued as soon as the registers of the block before it are free, over the border of strips, the
// first ones before the kernel that computes x has ended. Blocks are small so that those of the
// next kernel come in as these end, one by one.
//
// Bound by shared memory's path, the first-level cache's as well: per 4,096 weights a warp has 64
// wavefronts of look-ups, 16 of codes, 8 of x and 2 of scales, and more of x with more rows.
// Measured in tests/bench/results/decode_cuda.md.
#include <algorithm>

#include "engine/core/checked_math.h"
#include "engine/ops/cuda/chained_launch.cuh"
#include "engine/ops/cuda/row_product_block_scaled.cuh"
#include "engine/ops/cuda/row_product_tile.cuh"

namespace lorad::cuda {
namespace {

constexpr int kThreads = kRowProductThreads;
constexpr int kWarps = kThreads / 32;
static_assert(kWarps == kSums, "a warp takes the columns of one sum");
constexpr int kPartialStride = kTileOuts + 4;  // no bank conflicts between rows
constexpr int kGroupBytes = BlockScaled::kBlocks * kTileBytes;
constexpr int kGroupScales = BlockScaled::kBlocks * kStripRows;  // bytes

// Teams that share a multiprocessor.
constexpr int Teams(int row_tiles) { return row_tiles == 1 ? 4 : 3; }

template <int kRowTiles>
struct Shared {
  BlockScaled::Tables tables;
  float partial[2][kWarps][kRowTiles * kTileRows][kPartialStride];  // of every other strip
};

// The groups of one warp, strip after strip, in the order in which they are loaded.
class GroupWalk {
 public:
  __device__ __forceinline__ GroupWalk(const RowProductArgs& args, int begin)
      : args_(args),
        begin_(begin),
        groups_(static_cast<int>(args.entries[0].term.weight.columns) / BlockScaled::kGroup),
        strip_(blockIdx.x),
        group_(begin) {
    Find();
  }

  // False: there is no group any more.
  __device__ __forceinline__ bool valid() const { return codes_ != nullptr; }
  __device__ __forceinline__ const uint4* codes() const { return codes_; }
  __device__ __forceinline__ const uint2* scales() const { return scales_; }
  // Of row g + 8 r of the strip.
  __device__ __forceinline__ const float* nested_scale(int r) const {
    return nested_ + ((first_block_ + r * 8 * blocks_per_row()) >> kNestedShift);
  }
  __device__ __forceinline__ void Next() {
    group_ += kSums;
    if (group_ < groups_) {
      codes_ += kSums * kGroupBytes / sizeof(uint4);
      scales_ += kSums * kGroupScales / sizeof(uint2);
      first_block_ += kSums * BlockScaled::kBlocks;
      return;
    }
    group_ = begin_;
    strip_ += gridDim.x;
    Find();
  }

 private:
  __device__ __forceinline__ uint32_t blocks_per_row() const {
    return static_cast<uint32_t>(groups_) * BlockScaled::kBlocks;
  }
  __device__ __forceinline__ void Find() {
    codes_ = nullptr;
    if (strip_ >= args_.tiles || group_ >= groups_) return;
    const int lane = threadIdx.x % 32;
    const int entry = EntryOf(args_, strip_);
    const PackedWeight& weight = args_.entries[entry].term.weight;
    const uint32_t strip = strip_ - args_.entries[entry].first_tile;
    const int64_t first = int64_t{strip} * groups_ + group_;
    codes_ = reinterpret_cast<const uint4*>(static_cast<const char*>(weight.codes) +
                                            first * kGroupBytes) +
             lane;
    scales_ = reinterpret_cast<const uint2*>(weight.scales_u8 + first * kGroupScales) + lane / 4;
    nested_ = weight.nested_scales;
    first_block_ =
        (strip * kStripRows + lane / 4) * blocks_per_row() + group_ * BlockScaled::kBlocks;
  }

  const RowProductArgs& args_;
  const int begin_, groups_;
  uint32_t strip_;
  int group_;
  const uint4* codes_;
  const uint2* scales_;
  const float* nested_;
  uint32_t first_block_;  // of row g of the strip, in this group
};

// What a lane holds of a group; a block's codes make room for those of the group after it.
struct Held {
  uint4 codes[BlockScaled::kBlocks];  // rows g and g + 8
  uint2 scales;
  float nested_scales[2];

  __device__ __forceinline__ void LoadScales(const GroupWalk& walk) {
    scales = __ldg(walk.scales());
#pragma unroll
    for (int r = 0; r < 2; ++r) nested_scales[r] = __ldg(walk.nested_scale(r));
  }
  __device__ __forceinline__ void LoadBlock(const GroupWalk& walk, int b) {
    codes[b] = LoadOnce16(walk.codes() + b * (kTileBytes / sizeof(uint4)));
  }
};

// Adds the warps' sums of 16 outputs and writes them.
template <int kRowTiles>
__device__ __forceinline__ void Finish(
    const RowProductArgs& args, uint32_t strip, const float (&sums)[kRowTiles][4],
    float (&partial)[kWarps][kRowTiles * kTileRows][kPartialStride]) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int n = 0; n < kRowTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      partial[threadIdx.x / 32][n * kTileRows + 2 * t + i % 2][g + i / 2 * 8] = sums[n][i];
  }
  __syncthreads();
  const int entry = EntryOf(args, strip);
  const RowProductTerm& term = args.entries[entry].term;
  const int64_t out = int64_t{strip - args.entries[entry].first_tile} * kTileOuts;
  for (int i = threadIdx.x; i < kTileOuts * kRowTiles * kTileRows; i += kThreads) {
    const int o = i % kTileOuts, r = i / kTileOuts;
    if (r >= args.rows) break;
    float sum = partial[0][r][o];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) sum += partial[w][r][o];
    StoreResult(term, r, out + o, Completed(term, r, out + o, sum));
  }
}

template <int kRowTiles>
__global__ void __launch_bounds__(kThreads, Teams(kRowTiles))
    NarrowRowProductKernel(const __grid_constant__ RowProductArgs args) {
  extern __shared__ __align__(128) unsigned char dynamic_shared[];
  auto& shared = *reinterpret_cast<Shared<kRowTiles>*>(dynamic_shared);
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warp = threadIdx.x / 32;
  const int groups =
      static_cast<int>(args.entries[0].term.weight.columns) / BlockScaled::kGroup;
  LetNextKernelBegin();

  GroupWalk walk(args, warp);
  Held held = {};
  if (walk.valid()) {
    held.LoadScales(walk);
#pragma unroll
    for (int b = 0; b < BlockScaled::kBlocks; ++b) held.LoadBlock(walk, b);
    walk.Next();
  }
  FillTables(args.entries[0].term.weight, shared.tables);
  WaitForEarlierKernels();
  __syncthreads();

  const __nv_bfloat16* x[kRowTiles];  // row g of each fragment; the last one for those that are not
#pragma unroll
  for (int n = 0; n < kRowTiles; ++n) {
    const int64_t r = g + n * kTileRows;
    x[n] = args.x + (r < args.rows ? r : args.rows - 1) * args.x_stride + t * (2 * kChunk);
  }
  int parity = 0;
  for (uint32_t strip = blockIdx.x; strip < args.tiles; strip += gridDim.x) {
    const float nested_offset = args.entries[EntryOf(args, strip)].term.weight.nested_offset;
    float sums[1][kRowTiles][4] = {};
    for (int group = warp; group < groups; group += kSums) {
      const uint2 scale_codes = held.scales;
      const float nested_scales[2] = {held.nested_scales[0], held.nested_scales[1]};
      const bool more = walk.valid();
      if (more) held.LoadScales(walk);
      const auto scale = [&](int, int r, int b) {
        return ScaleOf(r == 0 ? scale_codes.x : scale_codes.y, b, nested_scales[r], nested_offset,
                       shared.tables);
      };
      const auto load_x = [&](int n, int i) {
        return *reinterpret_cast<const uint4*>(x[n] + group * BlockScaled::kGroup +
                                               BlockScaled::OfChunk(i, 0));
      };
#pragma unroll
      for (int b = 0; b < BlockScaled::kBlocks; ++b) {
        const uint4 block = held.codes[b];
        if (more) held.LoadBlock(walk, b);
        const auto codes = [&](int, int r, int) {
          return r == 0 ? make_uint2(block.x, block.y) : make_uint2(block.z, block.w);
        };
        MultiplyBlock<1, kRowTiles>(b, codes, scale, load_x, shared.tables, sums);
      }
      if (more) walk.Next();
    }
    Finish<kRowTiles>(args, strip, sums[0], shared.partial[parity]);
    parity ^= 1;
  }
}

template <int kRowTiles>
cudaError_t Launch(const RowProductArgs& args, cudaStream_t stream) {
  static const cudaError_t has_room = cudaFuncSetAttribute(
      NarrowRowProductKernel<kRowTiles>, cudaFuncAttributeMaxDynamicSharedMemorySize,
      sizeof(Shared<kRowTiles>));
  if (has_room != cudaSuccess) return has_room;
  const int64_t resident = int64_t{Teams(kRowTiles)} * Multiprocessors();
  return LaunchChained(NarrowRowProductKernel<kRowTiles>,
                       dim3(static_cast<unsigned>(std::min<int64_t>(args.tiles, resident))),
                       kThreads, sizeof(Shared<kRowTiles>), args, stream);
}

}  // namespace

cudaError_t LaunchNarrowRowProduct(RowProductArgs& args, cudaStream_t stream) {
  if (!LayOutTiles(kTileOuts, kNarrowRows, args)) return cudaErrorInvalidValue;
  return args.rows <= kTileRows ? Launch<1>(args, stream)
                                : Launch<kNarrowRows / kTileRows>(args, stream);
}

}  // namespace lorad::cuda
