// The product of row_product.cu for up to 8 rows over tiled 4-bit weights: decoding. The same sums
// in the same order.
//
// It streams weights, so what counts is how many bytes are on their way and that nothing else takes
// longer than they do. A block of 8 warps has strips of 16 outputs, of which warp s takes the
// groups s, s + 8, ... of 256 columns. The warps do not wait for each other: they leave their sums,
// and in turn one of them adds them up. A group of a strip is 2 KB in the order in which lanes want
// them (WeightView::tiled), and 64 bytes of scales. A lane has a group of them in registers; what
// it has looked up of one makes room for the next, over the border of strips, and the first is on
// its way before the kernel that computes x has ended. Blocks are small so that those of the next
// kernel come in as these end, one by one.
//
// Per 4,096 weights shared memory's path, the first-level cache's as well, has 64 wavefronts of
// look-ups, 16 of codes, 8 of x and 3 of scales, and more of x with more rows. Bound by none of
// them, but by what a warp waits for. Measured in tests/bench/results/decode_cuda.md.
#include <algorithm>

#include "engine/ops/cuda/chained_launch.cuh"
#include "engine/ops/cuda/row_product_block_multiply.cuh"
#include "engine/ops/cuda/row_product_block_scaled.cuh"
#include "engine/ops/cuda/row_product_expand.cuh"
#include "engine/ops/cuda/row_product_lora.cuh"
#include "engine/ops/cuda/row_product_narrow_finish.cuh"
#include "engine/ops/cuda/row_product_narrow_strips.cuh"
#include "engine/ops/cuda/row_product_shrink.cuh"
#include "engine/ops/cuda/row_product_tile.cuh"
#include "engine/ops/cuda/shared_barrier.cuh"

namespace lorad::cuda {
namespace {

constexpr int kThreads = kRowProductThreads;
constexpr int kWarps = kThreads / 32;
static_assert(kWarps == kSums, "a warp takes the columns of one sum");

constexpr int kBlocksPerProcessor = 2;  // three would spill registers, and were slower
constexpr int kBuffers = 2;             // for sums of strips

static_assert(kThreads == kShrinkThreads);

struct Shared {
  BlockScaled::Tables tables;
  float nested_code[256][kTileRows];  // for each g, so that no two rows meet in a bank
  SharedBarrier full[kBuffers], empty[kBuffers];
  StripSums partial[kBuffers];
  bool has_xa;
};

template <bool kSwiGlu, typename Lora>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    NarrowRowProductKernel(const __grid_constant__ NarrowArgs<Lora> all) {
  extern __shared__ __align__(128) unsigned char dynamic_shared[];
  auto& shared = *reinterpret_cast<Shared*>(dynamic_shared);
  const RowProductArgs& args = all.product;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int warp = threadIdx.x / 32;
  const int groups = static_cast<int>(args.entries[0].term.weight.columns) / BlockScaled::kGroup;
  LetNextKernelBegin();
  if constexpr (Lora::kPresent) {
    if (blockIdx.x < all.lora.shrink_blocks) {
      Shrink<1>(args, all.lora, reinterpret_cast<ShrinkShared*>(dynamic_shared));
      return;
    }
    if (threadIdx.x == 0) shared.has_xa = false;
  }

  StripGroups<kSwiGlu, Lora> walk(all, warp);  // at the group after that in registers
  uint4 codes[BlockScaled::kBlocks] = {};
  uint2 scale_codes = {};
  if (walk.valid()) {
#pragma unroll
    for (int b = 0; b < BlockScaled::kBlocks; ++b) codes[b] = walk.Codes(b);
    scale_codes = walk.ScaleCodes();
    walk.Next();
  }
  if (threadIdx.x < kBuffers) {
    shared.full[threadIdx.x].Init(kWarps);
    shared.empty[threadIdx.x].Init(1);
  }
  if constexpr (Lora::kPresent) {
    if (threadIdx.x < kTileRows) {
      for (StripWalk<kSwiGlu, Lora> strips(all); !strips.done(); strips.Next()) {
        const int entry = EntryOf(args, strips.strip());
        FetchB(all.lora, entry,
               int64_t{strips.strip() - args.entries[entry].first_tile} * kTileOuts, kTileOuts,
               threadIdx.x, /*apart=*/false);
      }
    }
  }
  FillTables(args.entries[0].term.weight, shared.tables);
  for (int i = 0; i < kTileRows; ++i)
    shared.nested_code[threadIdx.x][(i + threadIdx.x) % kTileRows] =
        __ldg(args.entries[0].term.weight.nested_code + threadIdx.x);
  WaitForEarlierKernels();
  __syncthreads();

  const PairTable table(shared.tables);
  // Where row g begins. Lanes of rows that are not there load nothing: a load of 16 bytes takes a
  // wavefront for each quarter of a warp that takes part.
  const bool has_row = g < args.rows;
  int64_t x = g * args.x_stride + t * (2 * kChunk);
  asm volatile("" : "+l"(x));  // computed here, not again for every group
  StripFinisher<kSwiGlu, Lora> finisher;
  int finishing = 0, buffer = 0;  // the warp that finishes, and where it finds the sums
  uint32_t round = 0;             // how often all buffers have been used
  for (StripWalk<kSwiGlu, Lora> strips(all); !strips.done(); strips.Next()) {
    const uint32_t strip = strips.strip();
    const RowProductEntry& entry = args.entries[EntryOf(args, strip)];
    const uint32_t blocks_per_row = static_cast<uint32_t>(groups) * BlockScaled::kBlocks;
    const uint32_t row_block = ((strip - entry.first_tile) * kStripRows + g) * blocks_per_row;
    const float* const nested = entry.term.weight.nested_scales;
    const float nested_offset = entry.term.weight.nested_offset;
    float sums[1][1][4] = {};
    for (int group = warp; group < groups; group += kSums) {
      const uint32_t first = row_block + group * BlockScaled::kBlocks;
      const float nested_scales[2] = {
          __ldg(nested + (first >> kNestedShift)),
          __ldg(nested + ((first + 8 * blocks_per_row) >> kNestedShift))};
      size_t from = __cvta_generic_to_global(args.x + (x + group * BlockScaled::kGroup));
      asm volatile("" : "+l"(from));  // once, not for every load
      const auto load_x = [&](int, int i) {
        constexpr int64_t kElementBytes = sizeof(__nv_bfloat16);
        if (!has_row) return make_uint4(0, 0, 0, 0);
        return *static_cast<const uint4*>(
            __cvta_global_to_generic(from + BlockScaled::OfChunk(i, 0) * kElementBytes));
      };
      const bool has_next = walk.valid();
      const uint2 scales = scale_codes;
      if (has_next) scale_codes = walk.ScaleCodes();
      const auto scale = [&](int, int r, int b) {
        const uint32_t code = (r == 0 ? scales.x : scales.y) >> 8 * b & 255;
        return __fmaf_rn(shared.nested_code[code][g], nested_scales[r], nested_offset);
      };
#pragma unroll
      for (int b = 0; b < BlockScaled::kBlocks; ++b) {
        const uint4 block = codes[b];
        if (has_next) codes[b] = walk.Codes(b);
        const auto codes_of_row = [&](int, int r, int) {
          return r == 0 ? make_uint2(block.x, block.y) : make_uint2(block.z, block.w);
        };
        MultiplyBlock<1, 1>(b, codes_of_row, scale, load_x, table, sums);
      }
      if (has_next) walk.Next();
    }
    if (round > 0) shared.empty[buffer].Wait((round - 1) & 1);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      shared.partial[buffer][warp][2 * t + i % 2][g + i / 2 * 8] = sums[0][0][i];
    __syncwarp();
    if (lane == 0) shared.full[buffer].Arrive();
    if (warp == finishing) {
      finisher.Finish(all, strips, shared.partial[buffer], shared.full[buffer], round & 1,
                      shared.empty[buffer], shared.has_xa);
    }
    if (!kSwiGlu || strips.is_up()) finishing = (finishing + 1) % kWarps;
    if (++buffer == kBuffers) buffer = 0, ++round;
  }
  if constexpr (Lora::kPresent) {
    __syncthreads();  // nobody waits for xa any more
    if (threadIdx.x == 0) CountXa(all.lora);
  }
}

template <bool kSwiGlu, typename Lora>
cudaError_t Launch(const NarrowArgs<Lora>& args, unsigned blocks, cudaStream_t stream) {
  const auto kernel = NarrowRowProductKernel<kSwiGlu, Lora>;
  constexpr size_t kShrinkBytes = Lora::kPresent ? sizeof(ShrinkShared) : 0;
  constexpr size_t kSharedBytes = std::max(sizeof(Shared), kShrinkBytes);
  static_assert(kBlocksPerProcessor * kSharedBytes <= kMostSharedBytes);
  static const cudaError_t has_room =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (has_room != cudaSuccess) return has_room;
  return LaunchChained(kernel, dim3(blocks), kThreads, kSharedBytes, args, stream);
}

// Those that blocks of a launch share, if the scratch memory has room.
SharedPairs SharePairs(uint32_t pairs, uint32_t blocks, const RowProductScratch& scratch) {
  constexpr int64_t kBytes = StripFinisher<true, NoRowLora>::kItems * 32 * sizeof(float);
  const uint32_t shared = pairs % blocks;
  if (2 * shared > blocks || shared > kRowTileCounters || scratch.counters == nullptr ||
      shared * kBytes > scratch.partial_bytes)
    return {};
  return {pairs - shared, static_cast<float*>(scratch.partial_sums), scratch.counters};
}

}  // namespace

cudaError_t LaunchNarrowRowProduct(RowProductArgs& product, const RowProductScratch& scratch,
                                   cudaStream_t stream) {
  if (!LayOutTiles(kTileOuts, kNarrowRows, product)) return cudaErrorInvalidValue;
  const bool swiglu = product.swiglu.out != nullptr;
  const uint32_t strips = swiglu ? product.entries[1].first_tile : product.tiles;
  const auto resident = static_cast<uint32_t>(kBlocksPerProcessor * Multiprocessors());
  const auto halves = [&](uint32_t items) { return 2 * items <= resident / 8; };
  return WithLoras(product, scratch, halves, [&]<typename Lora>(const Lora& lora) {
    NarrowArgs<Lora> args = {product, lora, {}};
    const uint32_t wanted = swiglu && 2 * strips <= resident ? 2 * strips : strips;
    uint32_t blocks = std::min(wanted, resident);
    if constexpr (Lora::kPresent) {
      // In passing where there are places; where all are taken the product gives some away.
      const uint32_t shrink = std::min(lora.items, std::max(resident - blocks, resident / 8));
      if (blocks == resident) blocks -= shrink;
      args.lora.shrink_blocks = shrink;
    }
    if (swiglu) args.shared_pairs = SharePairs(strips, blocks, scratch);
    if constexpr (Lora::kPresent) blocks += args.lora.shrink_blocks;
    return swiglu ? Launch<true>(args, blocks, stream) : Launch<false>(args, blocks, stream);
  });
}

}  // namespace lorad::cuda
