// The product of row_product.cu for 17 to 64 rows over weights that are not tiled: the same sums in
// the same order, to the bit, by another division of work.
//
// There, a block has few outputs and its warps share out the columns, so every block reads all of
// x: with 64 rows x is the larger part of what it moves. Here a block of 8 warps takes 256 outputs,
// 32 a warp, and all warps go through the same columns together: a group of columns of all rows
// (32 KB) comes into shared memory while the one before is multiplied, and the codes of 4-bit
// weights in whole blocks likewise; other codes go to registers, a group ahead.
//
// The 8 sums of a result (see kSums) are computed one after the other and added up in shared
// memory, each thread its own elements. Where there are few tiles, several blocks share one, each
// with some of the sums; they leave them in scratch memory, wait for each other, and each adds up
// some of the rows. A launch has then no more blocks than the device has multiprocessors, so all of
// them get their turn and the wait ends, whatever else runs that does not wait itself.
//
// Bound, with 64 rows, by shared memory's path: per 2,048 weights of a warp 32 wavefronts of
// look-ups, 8 of codes and 64 of x, so 20 weights a clock; the tensor cores' mma.sync would take
// 22. (16 warps of 16 outputs hide more latency and read x twice as often: no faster.) Measured in
// tests/bench/results/decode_cuda.md.
#include <type_traits>

#include "engine/core/checked_math.h"
#include "engine/ops/cuda/chained_launch.cuh"
#include "engine/ops/cuda/row_product_block_scaled.cuh"
#include "engine/ops/cuda/row_product_exact.cuh"
#include "engine/ops/cuda/row_product_stage.cuh"
#include "engine/ops/cuda/row_product_sums.cuh"
#include "engine/ops/cuda/row_product_tile.cuh"
#include "engine/ops/cuda/row_product_wide_finish.cuh"

namespace lorad::cuda {
namespace {

constexpr int kOuts = 256;  // of a tile

template <typename Form_, typename Weights_, int kRowTiles_, bool kShared>
struct Variant {
  using Form = Form_;
  using Weights = Weights_;
  static constexpr int kRowTiles = kRowTiles_, kRows = kTileRows * kRowTiles;
  static constexpr bool kSharesTiles = kShared;  // several blocks a tile
  static constexpr bool kBlockScaled = std::is_same_v<Form, BlockScaled>;
  static constexpr int kOutTiles = 2, kWarpOuts = kOutTiles * kTileOuts;  // of a warp
  static constexpr int kWarps = kOuts / kWarpOuts, kThreads = 32 * kWarps;
  using Sums = float[kOutTiles][kRowTiles][4];
};

template <typename V>
struct Shared {
  typename V::Form::Tables tables;
  uint4 x[2][V::kRowTiles * V::Form::kChunks * 32];  // see PlaceOfX
  std::conditional_t<V::kBlockScaled, Stage<V::kWarpOuts>, char> codes[V::kWarps][2];
  TileTotals<V> totals;
};
static_assert(sizeof(Shared<Variant<BlockScaled, BlockScaledRows, kMaxRows / kTileRows, false>>) <=
              kMostSharedBytes);

using Tile = RowProductTile;

// Where the chunk i of lane (g, t) of row fragment n lies. 64 columns of a row, a cache line, fill
// 128 bytes, so that a line is written at once; the halves of neighbouring rows are exchanged, so
// that 8 lanes read 128 bytes without meeting in a bank.
template <typename V>
__device__ __forceinline__ int PlaceOfX(int n, int i, int g, int t) {
  return ((n * (V::Form::kChunks / 2) + i / 2) * kTileRows + g) * 8 + (i % 2 ^ g % 2) * 4 + t;
}

// Starts the copies of one group of columns of x. A warp reads 256 bytes of each of two rows.
template <typename V>
__device__ __forceinline__ void CopyX(const RowProductArgs& args, int64_t row, int column,
                                      int columns, Shared<V>& shared, int stage) {
  constexpr int kQuarters = V::Form::kChunks / 4, kRowsARound = 2 * V::kWarps / kQuarters;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4;
  const int first_row = warp / kQuarters * 2 + lane / 4 % 2;
  const int i = warp % kQuarters * 4 + lane / 8;
  const int c = column + V::Form::OfChunk(i, t);
  const __nv_bfloat16* from = args.x + (row + first_row) * args.x_stride + c;
#pragma unroll
  for (int r = first_row, round = 0; round < V::kRows / kRowsARound; ++round, r += kRowsARound) {
    const bool read = row + r < args.rows && c < columns;
    uint4* to = &shared.x[stage][PlaceOfX<V>(r / kTileRows, i, r % kTileRows, t)];
    CopyAsync16(static_cast<uint32_t>(__cvta_generic_to_shared(to)), read ? from : args.x, read);
    from += kRowsARound * args.x_stride;
  }
  CommitCopies();
}

// The weights of one warp's outputs: a group of columns on its way and one at hand.
template <typename V>
class WarpWeights {
 public:
  __device__ __forceinline__ WarpWeights(const RowProductArgs& args, const Tile& tile, int g, int t,
                                         Shared<V>& shared)
      : weight_(args.entries[tile.entry].term.weight),
        block_shift_(args.entries[tile.entry].block_shift),
        out_(tile.out + threadIdx.x / 32 * V::kWarpOuts),
        g_(g),
        t_(t),
        shared_(shared) {}

  // Starts reading a group. Asynchronous copies are not committed.
  __device__ __forceinline__ void Start(int column, int stage) {
    if constexpr (V::kBlockScaled) {
      shared_.codes[threadIdx.x / 32][stage].StartCopies(weight_, out_, column);
    } else {
      lower().Load(column, t_, next_[0]);
      upper().Load(column, t_, next_[1]);
    }
  }
  // The group that was started last becomes the one at hand. Asynchronous copies have arrived.
  __device__ __forceinline__ void Take() {
    if constexpr (!V::kBlockScaled) {
#pragma unroll
      for (int o = 0; o < V::kOutTiles; ++o) lanes_[o] = next_[o];
    }
  }
  template <typename LoadX>
  __device__ __forceinline__ void Multiply(int column, int stage, const LoadX& load_x,
                                           typename V::Sums& sums) {
    if constexpr (V::kBlockScaled) {
      MultiplyStage<V::kOutTiles, V::kRowTiles>(shared_.codes[threadIdx.x / 32][stage], weight_,
                                                out_, column, g_, t_, load_x, shared_.tables, sums);
    } else {
      lower().DecodeScales(shared_.tables, lanes_[0]);
      upper().DecodeScales(shared_.tables, lanes_[1]);
      MultiplyGroup<V::Form::kBits, V::kOutTiles, V::kRowTiles>(lanes_, shared_.tables, load_x,
                                                                sums);
    }
  }

 private:
  __device__ __forceinline__ typename V::Weights lower() const {
    return {weight_, block_shift_, out_, g_};
  }
  __device__ __forceinline__ typename V::Weights upper() const {
    return {weight_, block_shift_, out_ + kTileOuts, g_};
  }

  const PackedWeight& weight_;
  const int block_shift_;
  const int64_t out_;
  const int g_, t_;
  Shared<V>& shared_;
  typename V::Form::Lane lanes_[V::kOutTiles],
      next_[V::kOutTiles];  // of weights not in whole blocks
};

template <typename V>
__global__ void __launch_bounds__(V::kThreads, 1)
    WideRowProductKernel(const __grid_constant__ WideArgs args) {
  extern __shared__ __align__(128) unsigned char dynamic_shared[];
  Shared<V>& shared = *reinterpret_cast<Shared<V>*>(dynamic_shared);
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int columns = static_cast<int>(args.product.entries[0].term.weight.columns);
  LetNextKernelBegin();

  const uint32_t index = blockIdx.x / args.sharers;
  const int part = static_cast<int>(blockIdx.x) % args.sharers, my_sums = kSums / args.sharers;
  const int first_sum = part * my_sums, end_sum = first_sum + my_sums;
  const Tile tile = LocateTile<kOuts, V::kRows>(args.product, index);
  WarpWeights<V> weights(args.product, tile, g, t, shared);
  GroupWalk walk(columns, V::Form::kGroup, first_sum, end_sum);
  if (!walk.done()) weights.Start(walk.column(), 0);
  const PackedWeight& weight = args.product.entries[tile.entry].term.weight;
  if constexpr (V::kBlockScaled) {
    FillTables(weight, shared.tables);
  } else {
    FillTables(weight, static_cast<typename V::Form*>(nullptr), shared.tables);
  }
  WaitForEarlierKernels();

  typename V::Sums sums = {};
  int stage = 0, sum = first_sum;
  if (!walk.done()) CopyX<V>(args.product, tile.row, walk.column(), columns, shared, stage);
  while (!walk.done()) {
    if (walk.sum() != sum) {
      EndSum<V>(args, index, sum, sum == first_sum, sums, shared.totals);
      sum = walk.sum();
    }
    const int column = walk.column();
    walk.Next();
    WaitForCopies<0>();
    __syncthreads();  // this group is there, and the other stage's is done with
    weights.Take();
    if (!walk.done()) {
      weights.Start(walk.column(), stage ^ 1);
      CopyX<V>(args.product, tile.row, walk.column(), columns, shared, stage ^ 1);
    }
    const auto load_x = [&](int n, int i) { return shared.x[stage][PlaceOfX<V>(n, i, g, t)]; };
    weights.Multiply(column, stage, load_x, sums);
    stage ^= 1;
  }
  EndSum<V>(args, index, sum, sum == first_sum, sums, shared.totals);
  if constexpr (V::kSharesTiles) {
    for (++sum; sum < end_sum; ++sum)  // sums without columns
      EndSum<V>(args, index, sum, false, sums, shared.totals);
  }
  Finish<V>(args, index, tile, part, shared.totals, [&] {
    if constexpr (V::kSharesTiles) WaitForSharers(args, index, NoRowLora());
  });
}

template <typename V>
cudaError_t Launch(const WideArgs& args, cudaStream_t stream) {
  static const cudaError_t has_room = cudaFuncSetAttribute(
      WideRowProductKernel<V>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared<V>));
  if (has_room != cudaSuccess) return has_room;
  return LaunchChained(WideRowProductKernel<V>,
                       dim3(args.product.tiles * static_cast<unsigned>(args.sharers)), V::kThreads,
                       sizeof(Shared<V>), args, stream);
}

template <typename Form, typename Weights, int kRowTiles>
cudaError_t LaunchRows(RowProductArgs& product, const RowProductScratch& scratch,
                       cudaStream_t stream) {
  if (!LayOutTiles(kOuts, kTileRows * kRowTiles, product)) return cudaErrorInvalidValue;
  const WideArgs args = {product, Sharers(product.tiles, kOuts, kRowTiles, scratch),
                         static_cast<float4*>(scratch.partial_sums), scratch.counters};
  return args.sharers > 1 ? Launch<Variant<Form, Weights, kRowTiles, true>>(args, stream)
                          : Launch<Variant<Form, Weights, kRowTiles, false>>(args, stream);
}

template <typename Form, typename Weights>
cudaError_t LaunchForm(RowProductArgs& args, const RowProductScratch& scratch,
                       cudaStream_t stream) {
  constexpr int kMost = kMaxRows / kTileRows;
  return args.rows <= kMaxRows / 2 ? LaunchRows<Form, Weights, kMost / 2>(args, scratch, stream)
                                   : LaunchRows<Form, Weights, kMost>(args, scratch, stream);
}

}  // namespace

cudaError_t LaunchWideRowProduct(RowProductArgs& args, const RowProductScratch& scratch,
                                 cudaStream_t stream) {
  if (args.block_scaled) return LaunchForm<BlockScaled, BlockScaledRows>(args, scratch, stream);
  switch (args.entries[0].term.weight.bits) {
    case 4:
      return LaunchForm<Exact<4>, ExactRows<4>>(args, scratch, stream);
    case 8:
      return LaunchForm<Exact<8>, ExactRows<8>>(args, scratch, stream);
    default:
      return LaunchForm<Exact<16>, ExactRows<16>>(args, scratch, stream);
  }
}

}  // namespace lorad::cuda
