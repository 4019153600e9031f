// y[t, o] (+)= sum over c of x[t, c] W[o, c] + bias[o] over packed weights, for a few rows.
//
//   x [rows, in] bf16    W [out, in] of 4-bit or 8-bit codes, or bf16    y [rows, out] bf16
//
// A block of 8 warps takes tiles of 16 outputs, or 32, and up to 8, 16, 32 or 64 rows; warp w the
// columns [256 s, 256 s + 256) for s = w, w + 8, ... (128 where codes are wider). Each weight is
// decoded once into a fragment of the tensor cores' product (16 outputs x 16 columns times 16
// columns x 8 rows, fp32 sums) and used for all rows. The order of columns within a fragment is
// free as long as x follows it: lane (g, t) = (lane / 4, lane % 4) loads 16 bytes of codes of
// outputs g and g + 8, and of each 8 neighbouring columns in them the first four are its k = 2t,
// 2t+1, 2t+8, 2t+9 of one product and the last four those of the next; of x it loads the same 8
// columns of row g. So nothing passes through shared memory but the look-up tables, and at the end
// of a tile the 8 warps' sums, added in order.
//
// Each sum thus has an order that depends on the number of columns and on the width of a code
// alone. A row's column in the fragment does not enter: the tensor cores compute each element of a
// product alike. Rows that are not there are zeros.
//
// As many blocks as the device holds walk over the tiles; while one is multiplied the first codes
// of the next are on their way, the very first before the kernel that computes x has ended. Tiles
// that share weights and differ in rows are neighbours, so that weights come from memory once.
//
// Bound by memory for few rows (0.52 bytes a weight for nf4 with double quantisation), closely
// followed by shared memory: a look-up of 8 bytes for two weights, 32 weights a clock. With 64 rows
// x takes as much of the first-level cache's path as the look-ups; 32 outputs a tile halve that.
// Measured in tests/bench/results/decode_cuda.md. Formats: Dettmers et al., "QLoRA", 2023. Pair
// tables: Guo et al., "FLUTE", 2024. Row invariance by one fixed reduction: He et al., "Defeating
// nondeterminism in LLM inference", 2025.
#include <algorithm>
#include <bit>

#include "engine/core/checked_math.h"
#include "engine/ops/cuda/attention_mma.cuh"
#include "engine/ops/cuda/chained_launch.cuh"
#include "engine/ops/cuda/row_product.h"
#include "engine/ops/cuda/row_product_weights.cuh"

namespace lorad::cuda {
namespace {

constexpr int kThreads = kRowProductThreads;
constexpr int kWarps = kThreads / 32;
constexpr int kTileOuts = 16;
constexpr int kTileRows = 8;
constexpr int kMaxRowTiles = 8;
constexpr int kPartialStride = kTileOuts + 4;  // no bank conflicts between rows
constexpr int kFastColumns = 32;               // columns come in multiples of it
constexpr int kBlocksPerProcessor = 2;
constexpr int64_t kMaxColumns = 1 << 24;

struct Args {
  RowProductEntry entries[kMaxRowProductTerms];
  int count = 0;
  bool accumulate = false;
  const __nv_bfloat16* x = nullptr;
  int64_t x_stride = 0;
  int64_t rows = 0;
  uint32_t passes = 0;  // over the rows
  uint32_t tiles = 0;
};

// What a kernel is made for. With prefetch codes are loaded while earlier ones are multiplied;
// larger tiles have no registers for it, and enough to do for the other warps to load meanwhile.
template <int kBits_, bool kFast_, int kRowTiles_, int kOutTiles_>
struct Variant {
  static constexpr int kBits = kBits_, kRowTiles = kRowTiles_, kOutTiles = kOutTiles_;
  static constexpr bool kFast = kFast_;
  static constexpr int kRows = kTileRows * kRowTiles, kOuts = kTileOuts * kOutTiles;
  static constexpr bool kPrefetch = kFast && kBits == 4 && kRowTiles * kOutTiles <= 4;
  static constexpr int kLoads =
      kPrefetch ? Columns<kBits>::kLoads : std::max(1, Columns<kBits>::kLoads / 2 / kOutTiles);
  using Lane = LaneCodes<kBits, kLoads>;
};

template <typename V>
struct Shared {
  DecodeTables<V::kBits> tables;
  float partial[kWarps][V::kRows][kPartialStride];  // sums of 16 outputs
};

// Where a tile lies.
struct Tile {
  int entry;
  int64_t out, row;
};
template <typename V>
__device__ __forceinline__ Tile Locate(const Args& args, uint32_t index) {
  int entry = 0;
  while (entry + 1 < args.count && index >= args.entries[entry + 1].first_tile) ++entry;
  const uint32_t place = index - args.entries[entry].first_tile;
  return {entry, int64_t{place / args.passes} * V::kOuts, int64_t{place % args.passes} * V::kRows};
}

// Eight columns of a row of x, zeros beyond it.
template <bool kFast>
__device__ __forceinline__ uint4 LoadX(const __nv_bfloat16* row, int column, int columns) {
  uint4 values = make_uint4(0, 0, 0, 0);
  if constexpr (kFast) {
    if (column < columns) values = *reinterpret_cast<const uint4*>(row + column);
  } else {
    uint32_t words[4];
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const int c = column + 2 * w;
      words[w] = c < columns ? __bfloat16_as_ushort(row[c]) : 0;
      if (c + 1 < columns) words[w] |= uint32_t{__bfloat16_as_ushort(row[c + 1])} << 16;
    }
    values = make_uint4(words[0], words[1], words[2], words[3]);
  }
  return values;
}

// The rows of x of one lane: row g of each fragment.
struct LaneRows {
  const __nv_bfloat16* first;
  int64_t stride;  // from one fragment's row to the next one's
  int count;       // fragments in which the lane has a row
};
template <typename V>
__device__ __forceinline__ LaneRows RowsOf(const Args& args, int64_t row, int g) {
  const int64_t left = args.rows - row - g;
  return {args.x + (row + g) * args.x_stride, kTileRows * args.x_stride,
          static_cast<int>(left >= V::kRows ? V::kRowTiles : (left + kTileRows - 1) / kTileRows)};
}

template <typename V>
using Sums = float[V::kOutTiles][V::kRowTiles][4];

// The outputs of one tile, 16 and 16.
template <typename V>
struct TileWeights {
  __device__ __forceinline__ TileWeights(const Args& args, const Tile& tile, int g)
      : rows(args.entries[tile.entry].term.weight, args.entries[tile.entry].block_shift, tile.out,
             g),
        upper(args.entries[tile.entry].term.weight, args.entries[tile.entry].block_shift,
              tile.out + kTileOuts, g) {}
  __device__ __forceinline__ const WeightRows& operator[](int i) const {
    return i == 0 ? rows : upper;
  }
  __device__ __forceinline__ void Load(int column, int t,
                                       typename V::Lane (&lanes)[V::kOutTiles]) const {
#pragma unroll
    for (int i = 0; i < V::kOutTiles; ++i) (*this)[i].template Load<V::kBits>(column, t, lanes[i]);
  }
  WeightRows rows, upper;  // upper is not used, and not computed, with one tile of outputs
};

// Adds the products of the columns that `lanes` hold.
template <typename V>
__device__ __forceinline__ void Multiply(const TileWeights<V>& weights,
                                         typename V::Lane (&lanes)[V::kOutTiles],
                                         const DecodeTables<V::kBits>& tables, const LaneRows& x,
                                         int64_t column, int64_t columns, int t, Sums<V>& sums) {
  if constexpr (V::kFast) {
#pragma unroll
    for (int o = 0; o < V::kOutTiles; ++o)
      weights[o].template DecodeScales<V::kBits>(tables, lanes[o]);
  }
#pragma unroll
  for (int i = 0; i < V::Lane::kChunks; ++i) {
    const int chunk = column + Columns<V::kBits>::OfChunk(i, t);
    uint32_t first[V::kOutTiles][4], second[V::kOutTiles][4];
#pragma unroll
    for (int o = 0; o < V::kOutTiles; ++o) {
      uint4 w[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        if constexpr (V::kFast) {
          w[r] = DecodeChunk<V::kBits>(lanes[o], r, i, tables);
        } else {
          w[r] = weights[o].DecodeElements(r, chunk);
        }
      }
      first[o][0] = w[0].x, first[o][1] = w[1].x, first[o][2] = w[0].y, first[o][3] = w[1].y;
      second[o][0] = w[0].z, second[o][1] = w[1].z, second[o][2] = w[0].w, second[o][3] = w[1].w;
    }
#pragma unroll
    for (int n = 0; n < V::kRowTiles; ++n) {
      uint4 values = make_uint4(0, 0, 0, 0);
      if (n < x.count) values = LoadX<V::kFast>(x.first + n * x.stride, chunk, columns);
#pragma unroll
      for (int o = 0; o < V::kOutTiles; ++o) {
        MultiplyAdd(sums[o][n], first[o], values.x, values.y);
        MultiplyAdd(sums[o][n], second[o], values.z, values.w);
      }
    }
  }
}

// Adds the warps' sums of 16 outputs and writes them. Waits for the block before and after.
template <typename V>
__device__ __forceinline__ void Finish(const Args& args, const RowProductTerm& term, int64_t out,
                                       int64_t row, const float (&sums)[V::kRowTiles][4],
                                       Shared<V>& shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int n = 0; n < V::kRowTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      shared.partial[warp][n * kTileRows + 2 * t + i % 2][g + i / 2 * 8] = sums[n][i];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kTileOuts * V::kRows; i += kThreads) {
    const int o = i % kTileOuts, r = i / kTileOuts;
    if (row + r >= args.rows || out + o >= term.weight.rows) continue;
    float sum = shared.partial[0][r][o];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) sum += shared.partial[w][r][o];
    if (term.bias != nullptr) sum += __ldg(term.bias + out + o);
    __nv_bfloat16* y = reinterpret_cast<__nv_bfloat16*>(term.y) + (row + r) * term.y_stride;
    if (args.accumulate) sum += __bfloat162float(y[out + o]);
    y[out + o] = __float2bfloat16_rn(sum);
  }
  __syncthreads();
}

template <typename V>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    RowProductKernel(const __grid_constant__ Args args) {
  extern __shared__ __align__(16) unsigned char dynamic_shared[];
  Shared<V>& shared = *reinterpret_cast<Shared<V>*>(dynamic_shared);
  constexpr int kGroup = Columns<V::kBits>::kGroup, kStride = kWarps * kGroup;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int begin = threadIdx.x / 32 * kGroup;
  const int columns = static_cast<int>(args.entries[0].term.weight.columns);
  LetNextKernelBegin();

  typename V::Lane lanes[V::kOutTiles] = {}, next[V::kOutTiles] = {};
  if constexpr (V::kPrefetch) {
    TileWeights<V>(args, Locate<V>(args, blockIdx.x), g).Load(begin, t, next);
  }
  const float* book = nullptr;  // that the tables hold
  WaitForEarlierKernels();
  for (uint32_t index = blockIdx.x; index < args.tiles; index += gridDim.x) {
    const Tile tile = Locate<V>(args, index);
    const TileWeights<V> weights(args, tile, g);
    const RowProductTerm& term = args.entries[tile.entry].term;
    if (V::kFast && V::kBits != 16 && book != term.weight.code_book) {
      book = term.weight.code_book;
      FillTables<V::kBits>(term.weight, shared.tables);
      __syncthreads();
    }
    const LaneRows x = RowsOf<V>(args, tile.row, g);
    Sums<V> sums = {};
    for (int group = begin; group < columns; group += kStride) {
      if constexpr (V::kPrefetch) {
#pragma unroll
        for (int o = 0; o < V::kOutTiles; ++o) lanes[o] = next[o];
        if (group + kStride < columns) {
          weights.Load(group + kStride, t, next);
        } else if (index + gridDim.x < args.tiles) {
          TileWeights<V>(args, Locate<V>(args, index + gridDim.x), g).Load(begin, t, next);
        }
        Multiply<V>(weights, lanes, shared.tables, x, group, columns, t, sums);
      } else {
#pragma unroll 1
        for (int column = group; column < group + kGroup; column += V::Lane::kColumns) {
          if constexpr (V::kFast) weights.Load(column, t, lanes);
          Multiply<V>(weights, lanes, shared.tables, x, column, columns, t, sums);
        }
      }
    }
#pragma unroll
    for (int o = 0; o < V::kOutTiles; ++o)
      Finish<V>(args, term, tile.out + o * kTileOuts, tile.row, sums[o], shared);
  }
}

// Multiprocessors of the current device; all devices of a process are taken to be alike.
int Multiprocessors() {
  static const int count = [] {
    int device = 0, processors = 1;
    if (cudaGetDevice(&device) != cudaSuccess) return 1;
    cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    return processors;
  }();
  return count;
}

template <typename V>
cudaError_t Launch(Args& args, cudaStream_t stream) {
  static const cudaError_t has_room = cudaFuncSetAttribute(
      RowProductKernel<V>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared<V>));
  if (has_room != cudaSuccess) return has_room;
  args.passes = static_cast<uint32_t>(CeilDiv(args.rows, V::kRows));
  int64_t tiles = 0;
  for (int i = 0; i < args.count; ++i) {
    args.entries[i].first_tile = static_cast<uint32_t>(tiles);
    tiles += CeilDiv(args.entries[i].term.weight.rows, V::kOuts) * args.passes;
  }
  if (tiles > INT32_MAX) return cudaErrorInvalidValue;
  args.tiles = static_cast<uint32_t>(tiles);
  const int64_t resident = int64_t{kBlocksPerProcessor} * Multiprocessors();
  return LaunchChained(RowProductKernel<V>, dim3(static_cast<unsigned>(std::min(tiles, resident))),
                       kThreads, sizeof(Shared<V>), args, stream);
}

// Tiles of 32 outputs where there are enough of them for every block.
template <int kBits, int kRowTiles>
cudaError_t LaunchWide(Args& args, cudaStream_t stream) {
  int64_t tiles = 0;
  for (int i = 0; i < args.count; ++i) tiles += args.entries[i].term.weight.rows / (2 * kTileOuts);
  return tiles >= int64_t{2 * kBlocksPerProcessor} * Multiprocessors()
             ? Launch<Variant<kBits, true, kRowTiles, 2>>(args, stream)
             : Launch<Variant<kBits, true, kRowTiles, 1>>(args, stream);
}

template <int kBits>
cudaError_t LaunchBits(bool fast, Args& args, cudaStream_t stream) {
  if (!fast) return Launch<Variant<kBits, false, 1, 1>>(args, stream);
  if (args.rows <= kTileRows) return Launch<Variant<kBits, true, 1, 1>>(args, stream);
  if (args.rows <= 2 * kTileRows) return Launch<Variant<kBits, true, 2, 1>>(args, stream);
  if (args.rows <= 4 * kTileRows) return LaunchWide<kBits, 4>(args, stream);
  return LaunchWide<kBits, kMaxRowTiles>(args, stream);
}

bool IsFast(const PackedWeight& weight, const BFloat16* x, int64_t x_stride) {
  const auto aligned = [](const void* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
  };
  return weight.columns % kFastColumns == 0 && x_stride % kChunk == 0 && aligned(x) &&
         aligned(weight.codes);
}

cudaError_t LaunchTogether(const BFloat16* x, int64_t x_stride, int64_t rows,
                           const RowProductTerm* terms, int count, bool accumulate,
                           cudaStream_t stream) {
  Args args;
  for (int i = 0; i < count; ++i) {
    const PackedWeight& weight = terms[i].weight;
    if (weight.rows == 0) continue;
    RowProductEntry& entry = args.entries[args.count++];
    entry.term = terms[i];
    if (weight.bits != 16)
      entry.block_shift = std::countr_zero(static_cast<uint32_t>(weight.block));
  }
  if (args.count == 0) return cudaSuccess;
  args.accumulate = accumulate;
  args.x = reinterpret_cast<const __nv_bfloat16*>(x);
  args.x_stride = x_stride;
  args.rows = rows;
  const bool fast = IsFast(terms[0].weight, x, x_stride);
  switch (terms[0].weight.bits) {
    case 4:
      return LaunchBits<4>(fast, args, stream);
    case 8:
      return LaunchBits<8>(fast, args, stream);
    default:
      return LaunchBits<16>(fast, args, stream);
  }
}

}  // namespace

cudaError_t LaunchRowProduct(const BFloat16* x, int64_t x_stride, int64_t rows,
                             const RowProductTerm* terms, int count, bool accumulate,
                             cudaStream_t stream) {
  if (count < 0 || count > kMaxRowProductTerms) return cudaErrorInvalidValue;
  if (rows == 0 || count == 0) return cudaSuccess;
  bool together = true;
  for (int i = 0; i < count; ++i) {
    const PackedWeight &weight = terms[i].weight, &head = terms[0].weight;
    if (weight.columns != head.columns || weight.columns > kMaxColumns)
      return cudaErrorInvalidValue;
    together &=
        weight.bits == head.bits && IsFast(weight, x, x_stride) == IsFast(head, x, x_stride);
  }
  if (together) return LaunchTogether(x, x_stride, rows, terms, count, accumulate, stream);
  for (int i = 0; i < count; ++i) {
    const cudaError_t error = LaunchTogether(x, x_stride, rows, terms + i, 1, accumulate, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace lorad::cuda
