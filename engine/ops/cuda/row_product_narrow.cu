// The product of row_product.cu for up to 16 rows over 4-bit weights in whole blocks: decoding. The
// same sums in the same order.
//
// It streams weights, so what counts is how many bytes are on their way and that nothing else takes
// longer than they do. A block of 24 warps has a multiprocessor for itself: three teams of 8 warps,
// each on its own tile of 16 outputs, share one table of pairs. Every warp has a ring of three
// groups of columns in shared memory, 2 KB each, that asynchronous copies fill, two groups ahead,
// over the border of tiles, and the first ones before the kernel that computes x has ended.
//
// Bound by shared memory's path: per 4,096 weights a warp has 64 wavefronts of look-ups, 16 of
// codes in and 16 out, 20 of scales, a word a line, and 8 of x and more with more rows. Measured in
// tests/bench/results/decode_cuda.md.
#include <algorithm>

#include "engine/core/checked_math.h"
#include "engine/ops/cuda/chained_launch.cuh"
#include "engine/ops/cuda/row_product_block_scaled.cuh"
#include "engine/ops/cuda/row_product_stage.cuh"
#include "engine/ops/cuda/row_product_tile.cuh"

namespace lorad::cuda {
namespace {

constexpr int kTeams = 3;
constexpr int kTeamThreads = kRowProductThreads;
constexpr int kTeamWarps = kTeamThreads / 32;
static_assert(kTeamWarps == kSums, "a warp takes the columns of one sum");
constexpr int kThreads = kTeams * kTeamThreads;
constexpr int kWarps = kThreads / 32;
constexpr int kStages = 3;
constexpr int kPartialStride = kTileOuts + 4;  // no bank conflicts between rows

using TileStage = Stage<kTileOuts, /*kHasNestedScales=*/true>;

template <int kRowTiles>
struct Shared {
  BlockScaled::Tables tables;
  TileStage stages[kWarps][kStages];
  float partial[kTeams][kTeamWarps][kRowTiles * kTileRows][kPartialStride];
};

static_assert(sizeof(Shared<kNarrowRows / kTileRows>) <= kMostSharedBytes);

struct Tile {
  int entry;
  int64_t out;
};
__device__ __forceinline__ Tile Locate(const RowProductArgs& args, uint32_t index) {
  const int entry = EntryOf(args, index);
  return {entry, int64_t{index - args.entries[entry].first_tile} * kTileOuts};
}

// The groups of columns of one warp, tile after tile, as they are copied.
class Copies {
 public:
  __device__ Copies(const RowProductArgs& args, uint32_t tile, uint32_t tile_step, int begin)
      : args_(args), tile_(tile), tile_step_(tile_step), begin_(begin), column_(begin) {
    Find();
  }

  // Starts the copies of the next group, if there is one, and counts as one in any case.
  __device__ __forceinline__ void Start(TileStage& stage) {
    if (tile_ < args_.tiles && begin_ < columns()) {
      stage.StartCopies(args_.entries[entry_].term.weight, out_, column_);
      column_ += kSums * BlockScaled::kGroup;
      if (column_ >= columns()) {
        column_ = begin_;
        tile_ += tile_step_;
        Find();
      }
    }
    CommitCopies();
  }

 private:
  __device__ int columns() const { return static_cast<int>(args_.entries[0].term.weight.columns); }
  __device__ void Find() {
    if (tile_ >= args_.tiles) return;
    const Tile tile = Locate(args_, tile_);
    entry_ = tile.entry;
    out_ = tile.out;
  }

  const RowProductArgs& args_;
  uint32_t tile_;
  const uint32_t tile_step_;
  const int begin_;
  int column_;
  int entry_ = 0;
  int64_t out_ = 0;
};

__device__ __forceinline__ void SyncTeam(int team) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(team + 1), "n"(kTeamThreads) : "memory");
}

// Adds the warps' sums of 16 outputs and writes them.
template <int kRowTiles>
__device__ __forceinline__ void Finish(const RowProductArgs& args, const Tile& tile, int team,
                                       const float (&sums)[kRowTiles][4],
                                       Shared<kRowTiles>& shared) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int thread = threadIdx.x % kTeamThreads;
  const RowProductTerm& term = args.entries[tile.entry].term;
  auto& partial = shared.partial[team];
#pragma unroll
  for (int n = 0; n < kRowTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      partial[thread / 32][n * kTileRows + 2 * t + i % 2][g + i / 2 * 8] = sums[n][i];
  }
  SyncTeam(team);
  for (int i = thread; i < kTileOuts * kRowTiles * kTileRows; i += kTeamThreads) {
    const int o = i % kTileOuts, r = i / kTileOuts;
    if (r >= args.rows || tile.out + o >= term.weight.rows) continue;
    float sum = partial[0][r][o];
#pragma unroll
    for (int w = 1; w < kTeamWarps; ++w) sum += partial[w][r][o];
    StoreResult(term, r, tile.out + o, Completed(term, r, tile.out + o, sum));
  }
  SyncTeam(team);
}

template <int kRowTiles>
__global__ void __launch_bounds__(kThreads, 1)
    NarrowRowProductKernel(const __grid_constant__ RowProductArgs args) {
  extern __shared__ __align__(128) unsigned char dynamic_shared[];
  auto& shared = *reinterpret_cast<Shared<kRowTiles>*>(dynamic_shared);
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warp = threadIdx.x / 32;
  const int team = warp / kTeamWarps, begin = warp % kTeamWarps * BlockScaled::kGroup;
  const int columns = static_cast<int>(args.entries[0].term.weight.columns);
  const uint32_t first = team * gridDim.x + blockIdx.x, step = kTeams * gridDim.x;
  auto& stages = shared.stages[warp];
  LetNextKernelBegin();

  Copies copies(args, first, step, begin);
#pragma unroll
  for (int s = 0; s + 1 < kStages; ++s) copies.Start(stages[s]);
  FillTables(args.entries[0].term.weight, shared.tables);
  WaitForEarlierKernels();
  __syncthreads();

  const __nv_bfloat16* x[kRowTiles];  // row g of each fragment; the last one for those that are not
#pragma unroll
  for (int n = 0; n < kRowTiles; ++n) {
    const int64_t r = g + n * kTileRows;
    x[n] = args.x + (r < args.rows ? r : args.rows - 1) * args.x_stride;
  }
  int stage = 0;
  for (uint32_t index = first; index < args.tiles; index += step) {
    const Tile tile = Locate(args, index);
    const PackedWeight& weight = args.entries[tile.entry].term.weight;
    float sums[1][kRowTiles][4] = {};
    for (int group = begin; group < columns; group += kSums * BlockScaled::kGroup) {
      WaitForCopies<kStages - 2>();
      __syncwarp();  // this group is there for all lanes, and the stage before is done with
      copies.Start(stages[stage == 0 ? kStages - 1 : stage - 1]);
      const auto load_x = [&](int n, int i) {
        return *reinterpret_cast<const uint4*>(x[n] + group + BlockScaled::OfChunk(i, t));
      };
      MultiplyStage<1, kRowTiles>(stages[stage], weight, tile.out, group, g, t, load_x,
                                  shared.tables, sums);
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    Finish<kRowTiles>(args, tile, team, sums[0], shared);
  }
}

template <int kRowTiles>
cudaError_t Launch(const RowProductArgs& args, cudaStream_t stream) {
  static const cudaError_t has_room =
      cudaFuncSetAttribute(NarrowRowProductKernel<kRowTiles>,
                           cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared<kRowTiles>));
  if (has_room != cudaSuccess) return has_room;
  const unsigned blocks = std::min(args.tiles, static_cast<uint32_t>(Multiprocessors()));
  return LaunchChained(NarrowRowProductKernel<kRowTiles>, dim3(blocks), kThreads,
                       sizeof(Shared<kRowTiles>), args, stream);
}

}  // namespace

cudaError_t LaunchNarrowRowProduct(RowProductArgs& args, cudaStream_t stream) {
  if (!LayOutTiles(kTileOuts, kNarrowRows, args)) return cudaErrorInvalidValue;
  return args.rows <= kTileRows ? Launch<1>(args, stream) : Launch<2>(args, stream);
}

}  // namespace lorad::cuda
