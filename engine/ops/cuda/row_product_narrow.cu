// The product of row_product.cu for up to 16 rows over tiled 4-bit weights: decoding. The same sums
// in the same order.
//
// It streams weights, so what counts is how many bytes are on their way and that nothing else takes
// longer than they do. A team of 8 warps is a block; it has strips of 16 outputs, of which warp s
// takes the groups s, s + 8, ... of 256 columns. A group of a strip is 2 KB in the order in which
// lanes want them (WeightView::tiled), and 64 bytes of scales: two bulk copies into the warp's ring
// in shared memory, over the border of strips, the first ones before the kernel that computes x has
// ended. Blocks are small so that those of the next kernel come in as these end, one by one.
//
// Bound by shared memory's path, the first-level cache's as well: per 4,096 weights a warp has 64
// wavefronts of look-ups, 16 of codes in and 16 out, 8 of x and 3 of scales, and more of x with
// more rows.
// Measured in tests/bench/results/decode_cuda.md.
#include <algorithm>

#include "engine/core/checked_math.h"
#include "engine/ops/cuda/bulk_copy.cuh"
#include "engine/ops/cuda/chained_launch.cuh"
#include "engine/ops/cuda/row_product_block_scaled.cuh"
#include "engine/ops/cuda/row_product_tile.cuh"

namespace lorad::cuda {
namespace {

constexpr int kTeamThreads = kRowProductThreads;
constexpr int kWarps = kTeamThreads / 32;
static_assert(kWarps == kSums, "a warp takes the columns of one sum");
constexpr int kPartialStride = kTileOuts + 1;
constexpr int kGroupBytes = BlockScaled::kBlocks * kTileBytes;
constexpr int kGroupScales = BlockScaled::kBlocks * kStripRows;  // bytes

#ifndef NT
#define NT 2
#define NS 2
#define UNR 2
#define TB 1
#endif
constexpr int kUnroll = UNR;
constexpr int kBlocks = NT;  // share a multiprocessor
constexpr int kTeams = TB;   // of a block, which share its tables
constexpr int kThreads = kTeams * kTeamThreads;
constexpr int kStages = NS;

struct Stage {
  uint4 codes[BlockScaled::kBlocks][32];  // of each lane, rows g and g + 8
  uint2 scales[kTileRows];                // of rows g and g + 8, four blocks each
};

template <int kRowTiles>
struct Shared {
  BlockScaled::Tables tables;
  Stage stages[kTeams * kWarps][kStages];
  CopyBarrier barriers[kTeams * kWarps][kStages];
  float partial[kTeams][kWarps][kRowTiles * kTileRows][kPartialStride];
};

// The strips of one team: every so many, and where products end in SwiGLU each strip of gate
// followed by that of up.
template <bool kSwiGlu>
class StripWalk {
 public:
  __device__ __forceinline__ StripWalk(const RowProductArgs& args, uint32_t strip)
      : strip_(strip), end_(kSwiGlu ? args.entries[1].first_tile : args.tiles) {}
  __device__ __forceinline__ bool done() const { return strip_ >= end_; }
  // Of the launch.
  __device__ __forceinline__ uint32_t strip() const {
    return kSwiGlu && up_ ? end_ + strip_ : strip_;
  }
  __device__ __forceinline__ bool is_up() const { return kSwiGlu && up_; }
  __device__ __forceinline__ void Next() {
    if (kSwiGlu) up_ = !up_;
    if (!kSwiGlu || !up_) strip_ += kTeams * gridDim.x;
  }

 private:
  uint32_t strip_;
  const uint32_t end_;
  bool up_ = false;
};

// The groups of one warp, strip after strip, in the order in which they are loaded.
template <bool kSwiGlu>
class GroupWalk {
 public:
  __device__ __forceinline__ GroupWalk(const RowProductArgs& args, uint32_t strip, int begin)
      : args_(args),
        begin_(begin),
        groups_(static_cast<int>(args.entries[0].term.weight.columns) / BlockScaled::kGroup),
        strips_(args, strip),
        group_(begin) {
    Find();
  }

  // False: there is no group any more.
  __device__ __forceinline__ bool valid() const { return codes_ != nullptr; }
  // One lane starts the copies of the group.
  __device__ __forceinline__ void Copy(Stage& stage, CopyBarrier& barrier) const {
    if (threadIdx.x % 32 != 0) return;
    barrier.Expect(kGroupBytes + kGroupScales);
    barrier.Copy(stage.codes, codes_, kGroupBytes);
    barrier.Copy(stage.scales, scales_, kGroupScales);
  }
  __device__ __forceinline__ void Next() {
    group_ += kSums;
    if (group_ < groups_) {
      codes_ += kSums * kGroupBytes;
      scales_ += kSums * kGroupScales;
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
    codes_ = static_cast<const char*>(weight.codes) + first * kGroupBytes;
    scales_ = weight.scales_u8 + first * kGroupScales;
  }

  const RowProductArgs& args_;
  const int begin_, groups_;
  StripWalk<kSwiGlu> strips_;
  int group_;
  const char* codes_;
  const uint8_t* scales_;
};

__device__ __forceinline__ void SyncTeam(int team) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(team + 1), "n"(kTeamThreads) : "memory");
}

// Adds the warps' sums of 16 outputs and writes them, an output and row a thread; of gate it is
// kept in `gate` until that of up is there.
template <int kRowTiles, bool kSwiGlu>
__device__ __forceinline__ void Finish(
    const RowProductArgs& args, const StripWalk<kSwiGlu>& strips, int team,
    const float (&sums)[kRowTiles][4],
    float (&partial)[kWarps][kRowTiles * kTileRows][kPartialStride], float& gate) {
  static_assert(kTileOuts * kRowTiles * kTileRows <= kTeamThreads);
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int thread = threadIdx.x % kTeamThreads;
#pragma unroll
  for (int n = 0; n < kRowTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      partial[thread / 32][n * kTileRows + 2 * t + i % 2][g + i / 2 * 8] = sums[n][i];
  }
  SyncTeam(team);
  const RowProductEntry& entry = args.entries[EntryOf(args, strips.strip())];
  const int o = thread % kTileOuts, r = thread / kTileOuts;
  if (r < args.rows && r < kRowTiles * kTileRows) {
    const int64_t out = int64_t{strips.strip() - entry.first_tile} * kTileOuts + o;
    float sum = partial[0][r][o];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) sum += partial[w][r][o];
    sum = Completed(entry.term, r, out, sum);
    if constexpr (!kSwiGlu) {
      StoreResult(entry.term, r, out, sum);
    } else if (!strips.is_up()) {
      gate = sum;
    } else {
      StoreSwiGlu(args.swiglu, r, out, gate, sum);
    }
  }
  SyncTeam(team);  // the sums have been read
}

template <int kRowTiles, bool kSwiGlu>
__global__ void __launch_bounds__(kThreads, kBlocks)
    NarrowRowProductKernel(const __grid_constant__ RowProductArgs args) {
  extern __shared__ __align__(128) unsigned char dynamic_shared[];
  auto& shared = *reinterpret_cast<Shared<kRowTiles>*>(dynamic_shared);
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int team = threadIdx.x / kTeamThreads, warp = threadIdx.x / 32 % kWarps;
  const uint32_t first_strip = team * gridDim.x + blockIdx.x;
  const int groups = static_cast<int>(args.entries[0].term.weight.columns) / BlockScaled::kGroup;
  LetNextKernelBegin();

  Stage(&stages)[kStages] = shared.stages[threadIdx.x / 32];
  CopyBarrier(&barriers)[kStages] = shared.barriers[threadIdx.x / 32];
  if (lane == 0) {
#pragma unroll
    for (int s = 0; s < kStages; ++s) barriers[s].Init();
  }
  __syncwarp();
  GroupWalk<kSwiGlu> walk(args, first_strip, warp);
#pragma unroll
  for (int s = 0; s < kStages; ++s) {
    if (!walk.valid()) break;
    walk.Copy(stages[s], barriers[s]);
    walk.Next();
  }
  FillTables(args.entries[0].term.weight, shared.tables);
  WaitForEarlierKernels();
  __syncthreads();

  const PairTable table(shared.tables);
  int64_t x[kRowTiles];  // where row g of each fragment begins; the last one for those that are not
#pragma unroll
  for (int n = 0; n < kRowTiles; ++n) {
    const int64_t r = g + n * kTileRows;
    x[n] = (r < args.rows ? r : args.rows - 1) * args.x_stride + t * (2 * kChunk);
    asm volatile("" : "+l"(x[n]));  // computed here, not again for every group
  }
  int stage = 0, parity = 0;
  float gate = 0;
  for (StripWalk<kSwiGlu> strips(args, first_strip); !strips.done(); strips.Next()) {
    const uint32_t strip = strips.strip();
    const RowProductEntry& entry = args.entries[EntryOf(args, strip)];
    const uint32_t blocks_per_row = static_cast<uint32_t>(groups) * BlockScaled::kBlocks;
    const uint32_t row_block = ((strip - entry.first_tile) * kStripRows + g) * blocks_per_row;
    const float* const nested = entry.term.weight.nested_scales;
    const float nested_offset = entry.term.weight.nested_offset;
    float sums[1][kRowTiles][4] = {};
    for (int group = warp; group < groups; group += kSums) {
      const uint32_t first = row_block + group * BlockScaled::kBlocks;
      const float nested_scales[2] = {
          __ldg(nested + (first >> kNestedShift)),
          __ldg(nested + ((first + 8 * blocks_per_row) >> kNestedShift))};
      const auto load_x = [&](int n, int i) {
        return *reinterpret_cast<const uint4*>(args.x + x[n] + group * BlockScaled::kGroup +
                                               BlockScaled::OfChunk(i, 0));
      };
      barriers[stage].Wait(parity);
      const Stage& now = stages[stage];
      const uint2 scale_codes = now.scales[g];
      const auto scale = [&](int, int r, int b) {
        return ScaleOf(r == 0 ? scale_codes.x : scale_codes.y, b, nested_scales[r], nested_offset,
                       shared.tables);
      };
#pragma unroll kUnroll
      for (int b = 0; b < BlockScaled::kBlocks; ++b) {
        const uint4 block = now.codes[b][lane];
        const auto codes = [&](int, int r, int) {
          return r == 0 ? make_uint2(block.x, block.y) : make_uint2(block.z, block.w);
        };
        MultiplyBlock<1, kRowTiles>(b, codes, scale, load_x, table, sums);
      }
      __syncwarp();  // all lanes have read the stage
      if (walk.valid()) {
        walk.Copy(stages[stage], barriers[stage]);
        walk.Next();
      }
      if (++stage == kStages) stage = 0, parity ^= 1;
    }
    Finish<kRowTiles, kSwiGlu>(args, strips, team, sums[0], shared.partial[team], gate);
  }
}

template <int kRowTiles, bool kSwiGlu>
cudaError_t Launch(const RowProductArgs& args, cudaStream_t stream) {
  static const cudaError_t has_room =
      cudaFuncSetAttribute(NarrowRowProductKernel<kRowTiles, kSwiGlu>,
                           cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared<kRowTiles>));
  if (has_room != cudaSuccess) return has_room;
  const int64_t strips = kSwiGlu ? args.entries[1].first_tile : args.tiles;
  const int64_t resident = int64_t{kBlocks} * Multiprocessors();
  return LaunchChained(
      NarrowRowProductKernel<kRowTiles, kSwiGlu>,
      dim3(static_cast<unsigned>(std::min(resident, CeilDiv(strips, int64_t{kTeams})))), kThreads,
      sizeof(Shared<kRowTiles>), args, stream);
}

template <int kRowTiles>
cudaError_t Launch(const RowProductArgs& args, cudaStream_t stream) {
  return args.swiglu.out == nullptr ? Launch<kRowTiles, false>(args, stream)
                                    : Launch<kRowTiles, true>(args, stream);
}

}  // namespace

cudaError_t LaunchNarrowRowProduct(RowProductArgs& args, cudaStream_t stream) {
  if (!LayOutTiles(kTileOuts, kNarrowRows, args)) return cudaErrorInvalidValue;
  return args.rows <= kTileRows ? Launch<1>(args, stream)
                                : Launch<kNarrowRows / kTileRows>(args, stream);
}

}  // namespace lorad::cuda
