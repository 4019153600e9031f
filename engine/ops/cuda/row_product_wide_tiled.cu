// The product of row_product.cu for more than 8 rows over tiled 4-bit weights (WeightView::tiled),
// on the tensor cores of compute capability 9.0a: the same sums in the same order, to the bit.
//
// A block of four warpgroups has a multiprocessor for itself and takes 256 outputs and up to 64
// rows, a warp 16 outputs: a strip. A lane's 16 bytes of a tile are its parts of four products'
// weights (64 columns); they come straight from memory, a group ahead, and become bf16 by look-ups
// of pairs. What a warpgroup looks up, its products with 64 columns of x and the multiply-adds with
// the blocks' scales take turns on different units; the four warpgroups cover each other.
//
// x lies in shared memory in the order of columns that the weights' fragments have: lane position t
// has columns [16 t, 16 t + 16) of a block, and of each 8 the first four are its k = 2t, 2t + 1,
// 2t + 8, 2t + 9 of one product, the last four those of the next. So 8 rows x 8 k of a product, a
// core matrix, take 2 columns of each position. A warpgroup that is ahead does not wait for the
// others until it needs what they place, or the place where they still read.
//
// Per 64 columns of 64 outputs and 64 rows shared memory's path has 64 wavefronts of look-ups, 64
// of x for the products, 32 of x on its way, 16 of codes, 8 of scales and with one block a tile 30
// of totals; the tensor cores have 128 cycles. Bound by neither: a warp's instructions take their
// turns at 71 % of that path. Placing x costs a fifth of the time. Measured in
// tests/bench/results/decode_cuda.md.
#include "engine/ops/cuda/chained_launch.cuh"
#include "engine/ops/cuda/row_product_expand.cuh"
#include "engine/ops/cuda/row_product_lora.cuh"
#include "engine/ops/cuda/row_product_shrink.cuh"
#include "engine/ops/cuda/row_product_sums.cuh"
#include "engine/ops/cuda/row_product_tile.cuh"
#include "engine/ops/cuda/row_product_wide_finish.cuh"
#include "engine/ops/cuda/row_product_wide_lora.cuh"
#include "engine/ops/cuda/row_product_wide_weights.cuh"
#include "engine/ops/cuda/row_product_wide_x.cuh"
#include "engine/ops/cuda/wgmma.cuh"

namespace lorad::cuda {
namespace {

constexpr int kOuts = 256;  // of a tile
constexpr int kMostTiles = kMaxRows / kTileRows;

// With kSwiGlu a tile has half as many outputs of gate (entry 0) and the same ones of up (entry 1).
template <int kRowTiles_, bool kShared, bool kSwiGlu_>
struct Variant {
  static constexpr int kRowTiles = kRowTiles_, kRows = kTileRows * kRowTiles;
  static constexpr bool kSharesTiles = kShared;  // several blocks a tile
  static constexpr bool kSwiGlu = kSwiGlu_;
  static constexpr int kOutTiles = 1, kWarpOuts = kTileOuts;
  static constexpr int kWarps = kOuts / kWarpOuts, kThreads = 32 * kWarps;
  static constexpr int kEntryOuts = kSwiGlu ? kOuts / 2 : kOuts;
  static constexpr int kEntryWarps = kEntryOuts / kWarpOuts;
  static_assert(kThreads == 512, "of FillTables");
  static constexpr int kHeldB = kSwiGlu ? 2 : 4;  // adapters whose B is loaded at once, of a term
  using Sums = float[kOutTiles][kRowTiles][4];
};

template <typename Lora_>
struct TiledArgs {
  using Lora = Lora_;
  WideArgs wide;
  Lora lora;
};
constexpr int kShrinkTeams = 2;  // of a block

template <typename V>
struct Shared {
  WideTables tables;
  XStages<V> x;
  TileTotals<V> totals;
};
static_assert(sizeof(Shared<Variant<kMostTiles, false, false>>) <= kMostSharedBytes);

// The groups of columns of a block's sums: one at hand, the next, and the one after it.
class Lookahead {
 public:
  // REQUIRES: there is one.
  __device__ __forceinline__ explicit Lookahead(const GroupWalk& first)
      : walk_(first), column_(first.column()), sum_(first.sum()) {
    walk_.Next();
    has_next_ = !walk_.done();
    next_ = has_next_ ? walk_.column() : column_;
    next_sum_ = walk_.sum();
    if (has_next_) walk_.Next();
  }
  __device__ __forceinline__ uint32_t column() const { return column_; }
  __device__ __forceinline__ int sum() const { return sum_; }
  __device__ __forceinline__ bool has_next() const { return has_next_; }
  __device__ __forceinline__ uint32_t next() const { return next_; }  // or this one again
  __device__ __forceinline__ bool ends_sum() const { return has_next_ && next_sum_ != sum_; }
  __device__ __forceinline__ bool has_after() const { return has_next_ && !walk_.done(); }
  __device__ __forceinline__ uint32_t after() const { return walk_.column(); }
  // REQUIRES: has_next().
  __device__ __forceinline__ void Next() {
    column_ = next_, sum_ = next_sum_;
    has_next_ = has_after();
    if (!has_next_) return;
    next_ = walk_.column(), next_sum_ = walk_.sum();
    walk_.Next();
  }

 private:
  GroupWalk walk_;  // at the group after the next
  uint32_t column_, next_;
  int sum_, next_sum_;
  bool has_next_;
};

// The products of one block of columns; `x` describes it.
template <typename V>
__device__ __forceinline__ void StartBlock(const uint4& codes, uint64_t x, const LaneTables& tables,
                                           uint32_t (&a)[2][2][4],
                                           float (&block)[V::kRowTiles][4]) {
  static_assert(kProducts == 4);
  constexpr int kStep = 2 * XGroup<V::kRows>::kCoreStride / 16;
  tables.Decode(codes.x, codes.z, a[0]);
  tables.Decode(codes.y, codes.w, a[1]);
  FenceProductRegisters();
  StartProduct<false>(block, a[0][0], x);
  StartProduct<true>(block, a[0][1], x + kStep);
  StartProduct<true>(block, a[1][0], x + 2 * kStep);
  StartProduct<true>(block, a[1][1], x + 3 * kStep);
  CommitProducts();
}

// Writes silu(gate) up of the tile, or this block's share of its rows. The first half of the
// threads has left the totals of gate, the other half those of up in the same places.
template <typename V>
__device__ __forceinline__ void FinishSwiGlu(const WideArgs& args, uint32_t index,
                                             const RowProductTile& tile, int part,
                                             const TileTotals<V>& totals) {
  constexpr int kPairs = V::kThreads / 2;
  const int pair = threadIdx.x % kPairs, half = threadIdx.x / kPairs;
  const int g = pair % 32 / 4, t = pair % 4;
  const RowProductTerm &gate = args.product.entries[0].term, &up = args.product.entries[1].term;
  const int64_t out = tile.out + pair / 32 * V::kWarpOuts + g;
  if constexpr (!V::kSharesTiles) __syncthreads();
  for (int n = part + half * args.sharers; n < V::kRowTiles; n += 2 * args.sharers) {
    const float4 g4 = Total<V>(args, index, n, pair, totals);
    const float4 u4 = Total<V>(args, index, n, pair + kPairs, totals);
    const float gates[4] = {g4.x, g4.y, g4.z, g4.w}, ups[4] = {u4.x, u4.y, u4.z, u4.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t row = tile.row + n * kTileRows + 2 * t + i % 2, my_out = out + i / 2 * 8;
      if (row >= args.product.rows || my_out >= gate.weight.rows) continue;
      StoreSwiGlu(args.product.swiglu, row, my_out, Completed(gate, row, my_out, gates[i]),
                  Completed(up, row, my_out, ups[i]));
    }
  }
}

template <typename V, typename Lora>
__device__ __forceinline__ void MultiplyTile(const TiledArgs<Lora>& all) {
  extern __shared__ __align__(1024) unsigned char tiled_shared[];
  Shared<V>& shared = *reinterpret_cast<Shared<V>*>(tiled_shared);
  const WideArgs& args = all.wide;
  const int columns = static_cast<int>(args.product.entries[0].term.weight.columns);
  LetNextKernelBegin();
  if constexpr (Lora::kPresent) {
    static_assert(V::kThreads == kShrinkTeams * kShrinkThreads);
    if (blockIdx.x < all.lora.shrink_blocks) {
      Shrink<kShrinkTeams>(args.product, all.lora, reinterpret_cast<ShrinkShared*>(tiled_shared));
      return;
    }
  }

  const uint32_t index = ProductBlock(all.lora) / args.sharers;
  const int part = static_cast<int>(ProductBlock(all.lora) % args.sharers);
  const int my_sums = kSums / args.sharers;
  const int first_sum = part * my_sums, end_sum = first_sum + my_sums;
  const RowProductTile tile = LocateTile<V::kEntryOuts, V::kRows>(args.product, index);
  const int warp = threadIdx.x / 32, entry = V::kSwiGlu ? warp / V::kEntryWarps : tile.entry;
  const PackedWeight& weight = args.product.entries[entry].term.weight;
  const Strip strip(weight, tile.out + warp % V::kEntryWarps * V::kWarpOuts);
  const GroupWalk first(columns, BlockScaled::kGroup, first_sum, end_sum);
  const bool has_columns = !first.done();
  uint4 codes[kGroupBlocks];  // of the group at hand or, where they are used, of the next
  uint2 scale_codes = {};
  if (has_columns) {
#pragma unroll
    for (int b = 0; b < kGroupBlocks; ++b) codes[b] = strip.Codes(first.column(), b);
    scale_codes = strip.ScaleCodes(first.column());
  }
  // Not long before it is wanted: the weights go through the second-level cache as well.
  const auto fetch_b = [&] {
    if constexpr (Lora::kPresent) {
      const int row = static_cast<int>(threadIdx.x) % V::kRows, c = threadIdx.x / V::kRows;
      if (c >= (V::kSwiGlu ? 2 : 1) || row / kTileRows % args.sharers != part) return;
      const int64_t left = args.product.entries[tile.entry].term.weight.rows - tile.out;
      FetchB(all.lora, tile.entry + c, tile.out,
             static_cast<int>(min(int64_t{V::kEntryOuts}, left)), row, args.sharers > 1);
    }
  };
  if constexpr (V::kSharesTiles) fetch_b();
  FillTables(args.product.entries[0].term.weight, shared.tables);
  if (threadIdx.x == 0) shared.x.Init();
  WaitForEarlierKernels();
  __syncthreads();

  typename V::Sums sums = {};
  int sum = first_sum;
  if (has_columns) {
    const LaneTables tables(shared.tables);
    XRing<V> x(args.product, tile.row, shared.x);
    Lookahead groups(first);
    x.Begin(groups.column());
    if (groups.has_next()) {
      strip.Prefetch(groups.next());
      x.BeginSecond(groups.next());
    }
    uint32_t a[2][2][4];
    float block[V::kRowTiles][4] = {};
    while (true) {
      const bool has_after = groups.has_after();
      if (has_after) strip.Prefetch(groups.after());
      const float nested_scales[2] = {strip.NestedScale(groups.column(), 0),
                                      strip.NestedScale(groups.column(), 1)};
      const uint64_t x_of_group = x.Wait();
#pragma unroll
      for (int b = 0; b < kGroupBlocks; ++b) {
        StartBlock<V>(codes[b], x_of_group + b * (XGroup<V::kRows>::kBlockBytes / 16), tables, a,
                      block);
        // Loads of two blocks together, so that none is waited for because of a younger one.
        if (b % 2 == 1) {
          codes[b - 1] = strip.Codes(groups.next(), b - 1);
          codes[b] = strip.Codes(groups.next(), b);
        }
        x.Continue(b, groups.has_next(), has_after, groups.after());
        const float scale[2] = {
            tables.ScaleOf(scale_codes.x, b, nested_scales[0], weight.nested_offset),
            tables.ScaleOf(scale_codes.y, b, nested_scales[1], weight.nested_offset)};
        if (b + 1 == kGroupBlocks) scale_codes = strip.ScaleCodes(groups.next());
        WaitForProducts(block);
#pragma unroll
        for (int n = 0; n < V::kRowTiles; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i)
            sums[0][n][i] = __fmaf_rn(scale[i / 2], block[n][i], sums[0][n][i]);
        }
      }
      x.Release();
      if (!groups.has_next()) break;
      const bool ends_sum = groups.ends_sum();
      groups.Next();
      if (ends_sum) {
        EndSum<V>(args, index, sum, sum == first_sum, sums, shared.totals);
        sum = groups.sum();
        if (!V::kSharesTiles && sum == kSums - 1) fetch_b();
      }
      x.Next();
    }
  }
  EndSum<V>(args, index, sum, sum == first_sum, sums, shared.totals);
  if constexpr (V::kSharesTiles) {
    for (++sum; sum < end_sum; ++sum)  // sums without columns
      EndSum<V>(args, index, sum, false, sums, shared.totals);
  }
  if constexpr (Lora::kPresent) {
    // Found again, not kept: the products want all registers.
    uint32_t block = ProductBlock(all.lora);
    asm volatile("" : "+r"(block));
    using Finish = WideLoraFinish<V, Lora>;
    Finish finish(args, all.lora, block / args.sharers, static_cast<int>(block % args.sharers));
    finish.Begin();
    if constexpr (V::kSharesTiles) {
      WaitForSharers(args, index, all.lora);
    } else {
      if (threadIdx.x == 0) WaitForXa(all.lora);
      __syncthreads();
    }
    finish.Finish(shared.totals, *reinterpret_cast<typename Finish::Xa*>(&shared.x));
    if (threadIdx.x == 0) CountXa(all.lora);
    return;
  }
  const auto wait = [&] {
    if constexpr (V::kSharesTiles) WaitForSharers(args, index, all.lora);
  };
  if constexpr (V::kSwiGlu) {
    wait();
    FinishSwiGlu<V>(args, index, tile, part, shared.totals);
  } else {
    Finish<V>(args, index, tile, part, shared.totals, wait);
  }
}

template <typename V, typename Lora>
__global__ void __launch_bounds__(V::kThreads, 1)
    TiledRowProductKernel(const __grid_constant__ TiledArgs<Lora> args) {
  if (LORAD_HAS_WGMMA) {
    MultiplyTile<V>(args);
  } else {
    __trap();
  }
}

template <typename V, typename Lora>
cudaError_t Launch(const TiledArgs<Lora>& args, unsigned blocks, cudaStream_t stream) {
  const auto kernel = TiledRowProductKernel<V, Lora>;
  constexpr size_t kShrinkBytes = Lora::kPresent ? sizeof(ShrinkShared[kShrinkTeams]) : 0;
  constexpr size_t kSharedBytes = std::max(sizeof(Shared<V>), kShrinkBytes);
  static const cudaError_t has_room =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (has_room != cudaSuccess) return has_room;
  return LaunchChained(kernel, dim3(blocks), V::kThreads, kSharedBytes, args, stream);
}

template <int kRowTiles, bool kSwiGlu>
cudaError_t LaunchRows(RowProductArgs& product, const RowProductScratch& scratch,
                       cudaStream_t stream) {
  using Whole = Variant<kRowTiles, false, kSwiGlu>;
  if (!LayOutTiles(Whole::kEntryOuts, Whole::kRows, product)) return cudaErrorInvalidValue;
  if (kSwiGlu) product.tiles = product.entries[1].first_tile;
  const WideArgs wide = {product, Sharers(product.tiles, kOuts, kRowTiles, scratch),
                         static_cast<float4*>(scratch.partial_sums), scratch.counters};
  const uint32_t product_blocks = product.tiles * static_cast<uint32_t>(wide.sharers);
  const WideShrinking shrinking(product_blocks, kShrinkTeams);
  const auto halves = [&](uint32_t items) { return shrinking.Halves(items); };
  return WithLoras(product, scratch, halves, [&]<typename Lora>(const Lora& lora) {
    TiledArgs<Lora> args = {wide, lora};
    uint32_t blocks = product_blocks;
    if constexpr (Lora::kPresent) blocks += args.lora.shrink_blocks = shrinking.Blocks(lora.items);
    return wide.sharers > 1 ? Launch<Variant<kRowTiles, true, kSwiGlu>>(args, blocks, stream)
                            : Launch<Whole>(args, blocks, stream);
  });
}

template <int kRowTiles>
cudaError_t LaunchRows(RowProductArgs& product, const RowProductScratch& scratch,
                       cudaStream_t stream) {
  return product.swiglu.out == nullptr ? LaunchRows<kRowTiles, false>(product, scratch, stream)
                                       : LaunchRows<kRowTiles, true>(product, scratch, stream);
}

}  // namespace

cudaError_t LaunchWideTiledRowProduct(RowProductArgs& args, const RowProductScratch& scratch,
                                      cudaStream_t stream) {
  return args.rows <= kMaxRows / 2 ? LaunchRows<kMostTiles / 2>(args, scratch, stream)
                                   : LaunchRows<kMostTiles>(args, scratch, stream);
}

}  // namespace lorad::cuda
