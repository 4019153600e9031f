// The product of row_product.cu for more than 16 rows over tiled 4-bit weights (WeightView::tiled)
// on the tensor cores of compute capability 9.0a: the same sums in the same order, to the bit.
//
// A block of four warpgroups has a multiprocessor for itself and takes 256 outputs and up to 64 rows,
// a warp 16 outputs: a strip. A lane's 16 bytes of a tile are its parts of four products' weights
// (64 columns); they come straight from memory, some tiles ahead, and become bf16 by look-ups of
// pairs. What a warpgroup looks up, its product with 64 columns of x and the multiply-adds of the
// blocks' scales take turns on different units, and the four warpgroups cover each other.
//
// x lies in shared memory in the order of columns that the weights' fragments have: lane position t
// has columns [16 t, 16 t + 16) of a block, and of each 8 the first four are its k = 2t, 2t + 1,
// 2t + 8, 2t + 9 of one product, the last four those of the next. So 8 rows x 8 k of a product, a
// core matrix, take 2 columns of each position: a thread loads 8 columns of each of the four
// positions and stores the first, second, ... pairs of all four together. A group of 256 columns is
// on its way while the one before is multiplied, and a warpgroup that is ahead does not wait for the
// others until it needs what they place.
//
// Bound by shared memory's path and the tensor cores alike: 64 columns of 64 outputs and 64 rows are
// 128 cycles of products, and 64 of look-ups, 64 of x in and 16 of x stored. Measured in
// tests/bench/results/decode_cuda.md.
#include "engine/ops/cuda/chained_launch.cuh"
#include "engine/ops/cuda/row_product_block_scaled.cuh"
#include "engine/ops/cuda/row_product_sums.cuh"
#include "engine/ops/cuda/row_product_tile.cuh"
#include "engine/ops/cuda/wgmma.cuh"

namespace lorad::cuda {
namespace {

#ifndef WIDE_PIPE
#define WIDE_PIPE 0
#endif
constexpr int kOuts = 256;  // of a tile
constexpr int kWarps = kOuts / kTileOuts, kThreads = 32 * kWarps;
constexpr int kBlock = BlockScaled::kBlock, kBlocks = BlockScaled::kBlocks;
constexpr int kGroup = BlockScaled::kGroup;
constexpr int kProducts = kBlock / 16;      // of a block
constexpr int kCores = 2 * kProducts;       // core matrices of a block, for 8 rows
constexpr int kTileBytes = kTileOuts * kBlock / 2;
constexpr int kStages = 3;  // groups of x

template <int kRowTiles_, bool kShared>
struct Variant {
  static constexpr int kRowTiles = kRowTiles_, kRows = kTileRows * kRowTiles;
  static constexpr bool kSharesTiles = kShared;
  static constexpr int kOutTiles = 1, kWarpOuts = kTileOuts, kThreads = cuda::kThreads;
  using Sums = float[kOutTiles][kRowTiles][4];
};

// What a byte means, once for each lane, so that no two lanes ever meet in a bank: as a pair of
// codes, and as the code of a scale. 256 bytes an entry: a byte is put in its place in an offset by
// one instruction.
struct Tables {
  uint32_t pairs_and_scales[256][2][32];
};
constexpr uint32_t kScaleOffset = 32 * sizeof(uint32_t);

template <typename V>
struct Shared {
  static constexpr int kCoreStride = V::kRows * 16, kBlockBytes = kCores * kCoreStride;
  Tables tables;
  alignas(128) unsigned char x[kStages][kBlocks][kBlockBytes];
  TileTotals<V> totals;
  ArrivalBarrier placed[kStages];  // x is there
  ArrivalBarrier used[kStages];    // and is done with
};
static_assert(sizeof(Shared<Variant<kMaxRows / kTileRows, false>>) <= kMostSharedBytes);

__device__ __forceinline__ void FillTables(const PackedWeight& weight, Tables& tables) {
  static_assert(kThreads == 2 * 256);
  const int i = threadIdx.x % 256, kind = threadIdx.x / 256;
  const uint32_t word =
      kind == 0
          ? RoundedPair(__ldg(weight.code_book + (i >> 4)), __ldg(weight.code_book + (i & 15)))
          : __float_as_uint(__ldg(weight.nested_code + i));
  uint4* entry = reinterpret_cast<uint4*>(tables.pairs_and_scales[i][kind]);
#pragma unroll
  for (int j = 0; j < 8; ++j)  // neighbouring threads in different banks
    entry[(j + i) % 8] = make_uint4(word, word, word, word);
}

// What the tables have for byte number `byte`, a constant, of `bytes`.
template <uint32_t kOffset = 0>
__device__ __forceinline__ uint32_t LookUp(uint32_t bytes, int byte, uint32_t lane_offset,
                                           const Tables& tables) {
  static_assert(sizeof(tables.pairs_and_scales[0]) == 256);
  const uint32_t offset = __byte_perm(bytes, lane_offset, 0x5504 | byte << 4);
  return *reinterpret_cast<const uint32_t*>(reinterpret_cast<const char*>(&tables) + kOffset +
                                            offset);
}
// absmax of block b of a group, to a rounding.
__device__ __forceinline__ float ScaleOf(uint32_t codes, int b, float nested_scale,
                                         float nested_offset, uint32_t lane_offset,
                                         const Tables& tables) {
  return __fmaf_rn(__uint_as_float(LookUp<kScaleOffset>(codes, b, lane_offset, tables)),
                   nested_scale, nested_offset);
}

// Half of a tile's weights of a lane: of each of two products an A fragment.
using HalfFragments = uint32_t[kProducts / 2][4];
// `low` and `high`: eight codes of output g and of g + 8.
__device__ __forceinline__ void Decode(uint32_t low, uint32_t high, uint32_t lane_offset,
                                       const Tables& tables, HalfFragments& a) {
#pragma unroll
  for (int byte = 0; byte < 4; ++byte) {
    a[byte / 2][byte % 2 * 2] = LookUp(low, byte, lane_offset, tables);
    a[byte / 2][byte % 2 * 2 + 1] = LookUp(high, byte, lane_offset, tables);
  }
}

// Where a lane's weights of a strip lie; one beyond the last is the last.
class Strip {
 public:
  __device__ __forceinline__ Strip(const PackedWeight& weight, int64_t out) {
    const int lane = threadIdx.x % 32, g = lane / 4;
    const int64_t last = weight.rows - kTileOuts, first = out < last ? out : last;
    const int64_t blocks = weight.columns / kBlock;
    codes_ = static_cast<const char*>(weight.codes) + first * (weight.columns / 2) + lane * 16;
    scales_ = weight.scales_u8 + first * blocks + g * 8;
    first_block_ = static_cast<uint32_t>((first + g) * blocks);
  }
  // The codes of the group that begins at `column`: of tile b, kTileBytes b further on.
  __device__ __forceinline__ const char* Codes(uint32_t column) const {
    return codes_ + uint64_t{column} * (kTileOuts / 2);
  }
  // Starts the way of a group into the second-level cache: 16 lanes a line of codes each, others
  // the line of its scales.
  __device__ __forceinline__ void Prefetch(uint32_t column) const {
    const uint32_t lane = threadIdx.x % 32;
    const char* line = lane < 16 ? Codes(column) + lane * (128 - 16)
                                 : reinterpret_cast<const char*>(scales_) +
                                       column / kBlock * kTileOuts;
    if (lane <= 16) asm volatile("prefetch.global.L2 [%0];\n" ::"l"(line));
  }
  // The codes of a group's scales, of outputs g and g + 8, a byte a block.
  __device__ __forceinline__ uint2 ScaleCodes(uint32_t column) const {
    return __ldg(reinterpret_cast<const uint2*>(scales_ + column / kBlock * kTileOuts));
  }
  // Neighbouring outputs and groups share them, so that they are near.
  __device__ __forceinline__ float NestedScale(const PackedWeight& weight, uint32_t column,
                                               int r) const {
    const uint32_t block = first_block_ + column / kBlock +
                           r * 8 * static_cast<uint32_t>(weight.columns / kBlock);
    return __ldg(weight.nested_scales + (block >> kNestedShift));
  }

 private:
  const char* codes_;
  const uint8_t* scales_;
  uint32_t first_block_;
};

// A warp's part of a group of x: 8 rows of one block of columns, or several times that (kParts). A
// lane loads a chunk of each of two rows, (lane / 8) and 4 on, so that loads are of whole lines. It
// stores their words one by one; lanes of the second halves the other row first, so that the warp's
// stores fill 8 rows x 16 bytes and do not meet in a bank.
template <typename V>
class XPart {
 public:
  static constexpr int kParts = V::kRows * kBlocks / (kWarps * 8);
  __device__ __forceinline__ XPart(const RowProductArgs& args, int64_t first_row) {
    constexpr int kBlockWarps = kWarps / kBlocks;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int block = warp / kBlockWarps, fragment = warp % kBlockWarps * kParts;
    const int row = lane / 8, t = lane / 2 % 4, half = lane % 2;
    from_ = args.x + first_row * args.x_stride + block * kBlock + lane % 8 * kChunk;
    row_ = fragment * kTileRows + row;
    const int64_t last = args.rows - 1 - first_row;
    last_ = static_cast<int>(last < V::kRows ? last : V::kRows);
    to_ = block * Shared<V>::kBlockBytes + half * (kCores / 2) * Shared<V>::kCoreStride +
          fragment * kCoreBytes + (row + 4 * half) * 16 + t * 4;
    swap_ = half != 0;
  }
  __device__ __forceinline__ void Load(const RowProductArgs& args, int column, int part) {
    const __nv_bfloat16* from = from_ + column;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = row_ + part * kTileRows + r * 4;
      rows_[r] = *reinterpret_cast<const uint4*>(from + (row < last_ ? row : last_) * args.x_stride);
    }
  }
  __device__ __forceinline__ void Store(unsigned char* x, int part) const {
    const uint4 first = swap_ ? rows_[1] : rows_[0], second = swap_ ? rows_[0] : rows_[1];
    unsigned char* to = x + to_ + part * kCoreBytes;
    unsigned char* to_second = x + (to_ ^ 4 * 16) + part * kCoreBytes;
    const uint32_t words[2][4] = {{first.x, first.y, first.z, first.w},
                                  {second.x, second.y, second.z, second.w}};
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      *reinterpret_cast<uint32_t*>(to + w * Shared<V>::kCoreStride) = words[0][w];
      *reinterpret_cast<uint32_t*>(to_second + w * Shared<V>::kCoreStride) = words[1][w];
    }
  }

 private:
  const __nv_bfloat16* from_;
  int row_, last_, to_;
  bool swap_;
  uint4 rows_[2];
};

template <typename V>
__global__ void __launch_bounds__(kThreads, 1)
    TiledRowProductKernel(const __grid_constant__ WideArgs args) {
#if LORAD_HAS_WGMMA
  extern __shared__ __align__(1024) unsigned char tiled_shared[];
  Shared<V>& shared = *reinterpret_cast<Shared<V>*>(tiled_shared);
  const int columns = static_cast<int>(args.product.entries[0].term.weight.columns);
  const uint32_t lane = threadIdx.x % 32;
  uint32_t lane_offset;
  asm volatile("shl.b32 %0, %1, 2;\n" : "=r"(lane_offset) : "r"(lane));
  LetNextKernelBegin();

  const uint32_t index = blockIdx.x / args.sharers;
  const int part = static_cast<int>(blockIdx.x) % args.sharers, my_sums = kSums / args.sharers;
  const int first_sum = part * my_sums, end_sum = first_sum + my_sums;
  const RowProductTile tile = LocateTile<kOuts, V::kRows>(args.product, index);
  const PackedWeight& weight = args.product.entries[tile.entry].term.weight;
  const Strip strip(weight, tile.out + threadIdx.x / 32 * kTileOuts);
  GroupWalk walk(columns, kGroup, first_sum, end_sum);
  const bool has_columns = !walk.done();
  int sum = first_sum;

  uint4 codes[kBlocks];  // of a group, or of its end and the beginning of the next
  uint2 scale_codes = {};
  if (has_columns) {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b)
      codes[b] = LoadOnce16(strip.Codes(walk.column()) + b * kTileBytes);
    scale_codes = strip.ScaleCodes(walk.column());
  }
  FillTables(args.product.entries[0].term.weight, shared.tables);
  if (threadIdx.x == 0) {
#pragma unroll
    for (int s = 0; s < kStages; ++s) shared.placed[s].Init(kWarps), shared.used[s].Init(kWarps);
  }
  WaitForEarlierKernels();
  __syncthreads();

  typename V::Sums sums = {};
  if (has_columns) {
    constexpr int kParts = XPart<V>::kParts;
    XPart<V> x(args.product, tile.row);
    const auto place = [&](int stage, int part) {
      x.Store(&shared.x[stage][0][0], part);
      if (part + 1 < kParts) return;
      FenceStoresForProducts();
      __syncwarp();
      if (lane == 0) shared.placed[stage].Arrive();
    };
    // The first group of x and all but the last part of the second are placed now, that part with
    // the first products; from then on x is two groups ahead of the products, codes and scales one.
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
      x.Load(args.product, walk.column(), p);
      place(0, p);
    }
    uint32_t column = walk.column();
    walk.Next();
    bool has_next = !walk.done();
    uint32_t next = has_next ? walk.column() : column;  // or the last again
    int next_sum = walk.sum();
    if (has_next) {
      strip.Prefetch(next);
#pragma unroll
      for (int p = 0; p < kParts; ++p) {
        x.Load(args.product, next, p);
        if (p + 1 < kParts) place(1, p);
      }
      walk.Next();
    }
    HalfFragments a[2];
    if (WIDE_PIPE == 2) Decode(codes[0].x, codes[0].z, lane_offset, shared.tables, a[0]);
    float block[V::kRowTiles][4] = {};
    uint32_t stage = 0, round = 0;  // of the stages
    while (true) {
      const uint32_t stage1 = stage == kStages - 1 ? 0 : stage + 1;
      const uint32_t stage2 = stage == 0 ? kStages - 1 : stage - 1;
      const bool has_next2 = has_next && !walk.done();
      if (has_next2) strip.Prefetch(walk.column());
      const float nested_scales[2] = {strip.NestedScale(weight, column, 0),
                                      strip.NestedScale(weight, column, 1)};
      shared.placed[stage].Wait(round);
      const uint64_t x_of_group =
          MatrixDescriptor(static_cast<uint32_t>(__cvta_generic_to_shared(shared.x[stage])),
                           Shared<V>::kCoreStride);
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        const uint64_t x_of_block = x_of_group + b * (Shared<V>::kBlockBytes / 16);
        constexpr int kStep = 2 * Shared<V>::kCoreStride / 16;
        if (WIDE_PIPE < 2) Decode(codes[b].x, codes[b].z, lane_offset, shared.tables, a[0]);
        if (WIDE_PIPE == 0) Decode(codes[b].y, codes[b].w, lane_offset, shared.tables, a[1]);
        FenceProductRegisters();
        StartProduct<false>(block, a[0][0], x_of_block);
        StartProduct<true>(block, a[0][1], x_of_block + kStep);
        if (WIDE_PIPE > 0) {
          CommitProducts();
          Decode(codes[b].y, codes[b].w, lane_offset, shared.tables, a[1]);
          FenceProductRegisters();
        }
        StartProduct<true>(block, a[1][0], x_of_block + 2 * kStep);
        StartProduct<true>(block, a[1][1], x_of_block + 3 * kStep);
        CommitProducts();

        // Loads of two blocks together, so that none is waited for because of a younger one.
        if (b % 2 == 1) {
          codes[b - 1] = LoadOnce16(strip.Codes(next) + (b - 1) * kTileBytes);
          codes[b] = LoadOnce16(strip.Codes(next) + b * kTileBytes);
        }
        if (b == 1) {
          if (has_next) {
            const uint32_t round1 = stage1 == 0 ? round + 1 : round;
            if (kParts == 1 && round1 > 0) shared.used[stage1].Wait(round1 - 1);
            place(stage1, kParts - 1);
          }
          if (has_next2) x.Load(args.product, walk.column(), 0);
        }
        if (kParts > 1 && b == 3 && has_next2) {
          // Its last use was one group ago, in this round unless stage 2 comes before.
          if (stage2 > stage ? round > 0 : true)
            shared.used[stage2].Wait(stage2 > stage ? round - 1 : round);
          place(stage2, 0);
          x.Load(args.product, walk.column(), 1);
        }
        const float scale[2] = {ScaleOf(scale_codes.x, b, nested_scales[0], weight.nested_offset,
                                        lane_offset, shared.tables),
                                ScaleOf(scale_codes.y, b, nested_scales[1], weight.nested_offset,
                                        lane_offset, shared.tables)};
        if (b == 3) scale_codes = strip.ScaleCodes(next);
        if (WIDE_PIPE == 2) {
          asm volatile("wgmma.wait_group.sync.aligned 1;\n" ::: "memory");
          const uint4& following = codes[(b + 1) % kBlocks];
          Decode(following.x, following.z, lane_offset, shared.tables, a[0]);
        }
        WaitForProducts(block);
#pragma unroll
        for (int n = 0; n < V::kRowTiles; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i)
            sums[0][n][i] = __fmaf_rn(scale[i / 2], block[n][i], sums[0][n][i]);
        }
      }
      if (lane == 0) shared.used[stage].Arrive();
      if (!has_next) break;
      column = next;
      if (next_sum != sum) {
        EndSum<V>(args, index, sum, sum == first_sum, sums, shared.totals);
        sum = next_sum;
      }
      if (stage1 == 0) ++round;
      stage = stage1;
      has_next = has_next2;
      if (has_next2) {
        next = walk.column(), next_sum = walk.sum();
        walk.Next();
      }
    }
  }
  EndSum<V>(args, index, sum, sum == first_sum, sums, shared.totals);
  if constexpr (V::kSharesTiles) {
    for (++sum; sum < end_sum; ++sum)  // sums without columns
      EndSum<V>(args, index, sum, false, sums, shared.totals);
    WaitForSharers(args, index);
  }
  Finish<V>(args, index, tile, part, shared.totals);
#else
  __trap();
#endif
}

template <typename V>
cudaError_t Launch(const WideArgs& args, cudaStream_t stream) {
  static const cudaError_t has_room = cudaFuncSetAttribute(
      TiledRowProductKernel<V>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared<V>));
  if (has_room != cudaSuccess) return has_room;
  return LaunchChained(TiledRowProductKernel<V>,
                       dim3(args.product.tiles * static_cast<unsigned>(args.sharers)), kThreads,
                       sizeof(Shared<V>), args, stream);
}

template <int kRowTiles>
cudaError_t LaunchRows(RowProductArgs& product, const RowProductScratch& scratch,
                       cudaStream_t stream) {
  if (!LayOutTiles(kOuts, kTileRows * kRowTiles, product)) return cudaErrorInvalidValue;
  const WideArgs args = {product, Sharers(product.tiles, kOuts, kRowTiles, scratch),
                         static_cast<float4*>(scratch.partial_sums), scratch.counters};
  return args.sharers > 1 ? Launch<Variant<kRowTiles, true>>(args, stream)
                          : Launch<Variant<kRowTiles, false>>(args, stream);
}

}  // namespace

cudaError_t LaunchWideTiledRowProduct(RowProductArgs& args, const RowProductScratch& scratch,
                                      cudaStream_t stream) {
  constexpr int kMost = kMaxRows / kTileRows;
  return args.rows <= kMaxRows / 2 ? LaunchRows<kMost / 2>(args, scratch, stream)
                                   : LaunchRows<kMost>(args, scratch, stream);
}

}  // namespace lorad::cuda
