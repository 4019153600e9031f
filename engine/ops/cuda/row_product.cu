// y[t, o] = residual[t, o] + sum over c of x[t, c] W[o, c] + bias[o] over packed weights, for a few
// rows.
//
//   x [rows, in] bf16    W [out, in] of 4-bit or 8-bit codes, or bf16    y [rows, out] bf16
//
// This file has the kernel for any weight and any alignment; row_product_narrow.cu has that for
// decoding over tiled weights, row_product_wide_tiled.cu and row_product_wide.cu have those for
// more rows, over tiled weights and others, which do the same sums in the same order.
//
// A block of 8 warps takes tiles of 16 outputs and 8 or 16 rows; warp s the groups s, s + 8, ... of
// 128 columns, 256 where 4-bit weights come in whole blocks. Each weight is decoded once into a
// fragment of the tensor cores' product (16 outputs x 16 columns times 16 columns x 8 rows, fp32
// sums) and used for all rows. The order of columns within a fragment is free as long as x follows
// it: lane (g, t) = (lane / 4, lane % 4) has of outputs g and g + 8 some neighbouring columns, and
// of each 8 of them the first four are its k = 2t, 2t+1, 2t+8, 2t+9 of one product and the last
// four those of the next; of x it loads the same 8 columns of row g. So nothing passes through
// shared memory but the look-up tables, and at the end of a tile the 8 warps' sums, added in order.
//
// Each sum thus has an order that depends on the columns, the width of a code and the blocks alone.
// A row's column in the fragment does not enter: the tensor cores compute each element of a product
// alike.
//
// As many blocks as the device holds walk over the tiles; while one is multiplied the first codes
// of the next are on their way, the very first before the kernel that computes x has ended. Tiles
// that share weights and differ in rows are neighbours, so that weights come from memory once.
//
// Bound by memory with 16-bit weights, else by the look-ups, one a weight. Measured in
// tests/bench/results/decode_cuda.md. Formats: Dettmers et al., "QLoRA", 2023. Row invariance by
// one fixed reduction: He et al., "Defeating nondeterminism in LLM inference", 2025.
#include <algorithm>
#include <bit>

#include "engine/core/checked_math.h"
#include "engine/ops/cuda/chained_launch.cuh"
#include "engine/ops/cuda/row_product.h"
#include "engine/ops/cuda/row_product_block_multiply.cuh"
#include "engine/ops/cuda/row_product_block_scaled.cuh"
#include "engine/ops/cuda/row_product_exact.cuh"
#include "engine/ops/cuda/row_product_tile.cuh"

namespace lorad::cuda {
namespace {

constexpr int kThreads = kRowProductThreads;
constexpr int kWarps = kThreads / 32;
static_assert(kWarps == kSums, "a warp takes the columns of one sum");
constexpr int kPartialStride = kTileOuts + 4;  // no bank conflicts between rows
constexpr int kFastColumns = 32;               // columns come in multiples of it
constexpr int kBlocksPerProcessor = 2;
constexpr int64_t kMaxColumns = 1 << 24;

// What a kernel is made for: weights in whole blocks, which come here where they are few rows of
// what is not tiled, something is not aligned or the device lacks something, or any. 4-bit codes
// are loaded while earlier ones are multiplied; wider ones have loads enough in flight without it.
template <int kBits, int kRowTiles_, bool kAligned_>
struct ExactVariant {
  using Form = Exact<kBits>;
  using Weights = ExactRows<kBits>;
  static constexpr int kRowTiles = kRowTiles_;
  static constexpr bool kBlockScaled = false, kAligned = kAligned_;
  static constexpr bool kPrefetch = kAligned && kBits == 4;
};
struct BlockScaledVariant {
  using Form = BlockScaled;
  using Weights = BlockScaledRows;
  static constexpr int kRowTiles = 1;
  static constexpr bool kBlockScaled = true, kAligned = false, kPrefetch = false;
};

template <typename V>
struct Shared {
  typename V::Form::Tables tables;
  float partial[kWarps][V::kRowTiles * kTileRows][kPartialStride];  // sums of 16 outputs
};

using Tile = RowProductTile;
template <typename V>
__device__ __forceinline__ Tile Locate(const RowProductArgs& args, uint32_t index) {
  return LocateTile<kTileOuts, V::kRowTiles * kTileRows>(args, index);
}
template <typename V>
__device__ __forceinline__ typename V::Weights WeightsOf(const RowProductArgs& args,
                                                         const Tile& tile, int g) {
  const RowProductEntry& entry = args.entries[tile.entry];
  return {entry.term.weight, entry.block_shift, tile.out, g};
}

// Eight columns of a row of x, zeros beyond it.
template <bool kAligned>
__device__ __forceinline__ uint4 LoadX(const __nv_bfloat16* row, int column, int columns) {
  if constexpr (kAligned) {
    return column < columns ? *reinterpret_cast<const uint4*>(row + column)
                            : make_uint4(0, 0, 0, 0);
  } else {
    uint32_t words[4];
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const int c = column + 2 * w;
      words[w] = c < columns ? __bfloat16_as_ushort(row[c]) : 0;
      if (c + 1 < columns) words[w] |= uint32_t{__bfloat16_as_ushort(row[c + 1])} << 16;
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
  }
}

// The rows of x of one lane: row g of each fragment. One that is not there is zeros, and no load.
template <typename V>
struct LaneRows {
  __device__ __forceinline__ LaneRows(const RowProductArgs& args, int64_t row, int g) {
#pragma unroll
    for (int n = 0; n < V::kRowTiles; ++n) {
      const int64_t r = row + g + n * kTileRows;
      rows[n] = r < args.rows ? args.x + r * args.x_stride : nullptr;
    }
  }
  // REQUIRES: column < columns, where weights are in whole blocks.
  __device__ __forceinline__ uint4 Load(int n, int column, int columns) const {
    if (rows[n] == nullptr) return make_uint4(0, 0, 0, 0);
    return LoadX<V::kAligned>(rows[n], column, V::kBlockScaled ? INT32_MAX : columns);
  }
  const __nv_bfloat16* rows[V::kRowTiles];
};

// Through one group of an unaligned weight of any form, element by element.
template <typename V>
__device__ __forceinline__ void MultiplyElements(const typename V::Weights& weights,
                                                 const LaneRows<V>& x, int group, int columns,
                                                 int t, float (&sums)[1][1][4]) {
  for (int i = 0; i < V::Form::kChunks; ++i) {
    const int chunk = group + V::Form::OfChunk(i, t);
    const WeightFragments w =
        Fragments(weights.DecodeElements(0, chunk), weights.DecodeElements(1, chunk));
    const uint4 values = x.Load(0, chunk, columns);
    MultiplyAdd(sums[0][0], w.first, values.x, values.y);
    MultiplyAdd(sums[0][0], w.second, values.z, values.w);
  }
}

template <typename V>
__device__ __forceinline__ void FillTablesOf(const PackedWeight& weight, Shared<V>& shared) {
  if constexpr (V::kBlockScaled) {
    FillTables(weight, shared.tables);
  } else {
    FillTables(weight, static_cast<typename V::Form*>(nullptr), shared.tables);
  }
}

// Adds the warps' sums of 16 outputs and writes them. Waits for the block before and after.
template <typename V>
__device__ __forceinline__ void Finish(const RowProductArgs& args, const Tile& tile,
                                       const float (&sums)[V::kRowTiles][4], Shared<V>& shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const RowProductTerm& term = args.entries[tile.entry].term;
#pragma unroll
  for (int n = 0; n < V::kRowTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      shared.partial[warp][n * kTileRows + 2 * t + i % 2][g + i / 2 * 8] = sums[n][i];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kTileOuts * (V::kRowTiles * kTileRows); i += kThreads) {
    const int o = i % kTileOuts, r = i / kTileOuts;
    if (tile.row + r >= args.rows || tile.out + o >= term.weight.rows) continue;
    float sum = shared.partial[0][r][o];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) sum += shared.partial[w][r][o];
    StoreResult(term, tile.row + r, tile.out + o, Completed(term, tile.row + r, tile.out + o, sum));
  }
  __syncthreads();
}

template <typename V>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    RowProductKernel(const __grid_constant__ RowProductArgs args) {
  extern __shared__ __align__(128) unsigned char dynamic_shared[];
  Shared<V>& shared = *reinterpret_cast<Shared<V>*>(dynamic_shared);
  constexpr int kGroup = V::Form::kGroup, kStride = kSums * kGroup;
  constexpr bool kElements = !V::kAligned && !V::kBlockScaled;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int begin = threadIdx.x / 32 * kGroup;
  const int columns = static_cast<int>(args.entries[0].term.weight.columns);
  LetNextKernelBegin();

  typename V::Form::Lane lanes[1] = {}, next = {};
  if constexpr (V::kPrefetch) {
    if (begin < columns) WeightsOf<V>(args, Locate<V>(args, blockIdx.x), g).Load(begin, t, next);
  }
  if constexpr (!kElements && V::Form::kBits != 16)
    FillTablesOf<V>(args.entries[0].term.weight, shared);
  WaitForEarlierKernels();
  __syncthreads();
  for (uint32_t index = blockIdx.x; index < args.tiles; index += gridDim.x) {
    const Tile tile = Locate<V>(args, index);
    const typename V::Weights weights = WeightsOf<V>(args, tile, g);
    const PackedWeight& weight = args.entries[tile.entry].term.weight;
    const LaneRows<V> x(args, tile.row, g);
    float sums[1][V::kRowTiles][4] = {};
#pragma unroll 2
    for (int group = begin; group < columns; group += kStride) {
      if constexpr (kElements) {
        MultiplyElements<V>(weights, x, group, columns, t, sums);
      } else {
        if constexpr (V::kPrefetch) {
          lanes[0] = next;
          if (group + kStride < columns) {
            weights.Load(group + kStride, t, next);
          } else if (index + gridDim.x < args.tiles) {
            WeightsOf<V>(args, Locate<V>(args, index + gridDim.x), g).Load(begin, t, next);
          }
        } else {
          weights.Load(group, t, lanes[0]);
        }
        if constexpr (!V::kBlockScaled) weights.DecodeScales(shared.tables, lanes[0]);
        const auto load_x = [&](int n, int i) {
          return x.Load(n, group + V::Form::OfChunk(i, t), columns);
        };
        if constexpr (V::kBlockScaled) {
          const auto codes = [&](int, int r, int b) { return lanes[0].codes[r][b]; };
          const auto scale = [&](int, int r, int b) {
            return ScaleOf(lanes[0].scale_codes[r], b, lanes[0].nested_scales[r],
                           weight.nested_offset, shared.tables);
          };
          MultiplyBlocks<1, 1>(codes, scale, load_x, PairTable(shared.tables), sums);
        } else {
          MultiplyGroup<V::Form::kBits, 1, V::kRowTiles>(lanes, shared.tables, load_x, sums);
        }
      }
    }
    Finish<V>(args, tile, sums[0], shared);
  }
}

// Dense weights come through the first-level cache, whose size then bounds how many bytes are on
// their way: with the 28 KB that other kernels of a step leave of it 2.8 TB/s instead of 4.
template <typename V>
constexpr int kCarveout = V::Form::kBits == 16
                              ? CeilDiv(100 * kBlocksPerProcessor *
                                            static_cast<int64_t>(sizeof(Shared<V>)),
                                        kMostSharedBytes)
                              : -1;

template <typename V>
cudaError_t Launch(RowProductArgs& args, cudaStream_t stream) {
  static const cudaError_t has_room = cudaFuncSetAttribute(
      RowProductKernel<V>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared<V>));
  if (has_room != cudaSuccess) return has_room;
  if (!LayOutTiles(kTileOuts, V::kRowTiles * kTileRows, args)) return cudaErrorInvalidValue;
  const int64_t resident = int64_t{kBlocksPerProcessor} * Multiprocessors();
  return LaunchChained(RowProductKernel<V>,
                       dim3(static_cast<unsigned>(std::min<int64_t>(args.tiles, resident))),
                       kThreads, sizeof(Shared<V>), args, stream, {.carveout = kCarveout<V>});
}

template <int kBits>
cudaError_t LaunchExact(bool aligned, RowProductArgs& args, const RowProductScratch& scratch,
                        cudaStream_t stream) {
  if (!aligned) return Launch<ExactVariant<kBits, 1, false>>(args, stream);
  if (args.rows > kFewRows && HasRoom()) return LaunchWideRowProduct(args, scratch, stream);
  return args.rows <= kTileRows ? Launch<ExactVariant<kBits, 1, true>>(args, stream)
                                : Launch<ExactVariant<kBits, 2, true>>(args, stream);
}

cudaError_t LaunchBlockScaled(bool aligned, RowProductArgs& args, const RowProductScratch& scratch,
                              cudaStream_t stream) {
  const bool tiled = args.entries[0].term.weight.tiled, narrow = args.rows <= kNarrowRows;
  if (aligned && tiled && narrow && HasNarrowRowProduct())
    return LaunchNarrowRowProduct(args, scratch, stream);
  if (aligned && tiled && !narrow && HasWideTiledRowProduct())
    return LaunchWideTiledRowProduct(args, scratch, stream);
  if (aligned && !tiled && args.rows > kFewRows && HasRoom())
    return LaunchWideRowProduct(args, scratch, stream);
  return Launch<BlockScaledVariant>(args, stream);
}

bool IsAligned(const PackedWeight& weight, const BFloat16* x, int64_t x_stride) {
  const auto aligned = [](const void* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
  };
  return weight.columns % kFastColumns == 0 && x_stride % kChunk == 0 && aligned(x) &&
         aligned(weight.codes) && aligned(weight.scales_u8);
}

// Whether a kernel for one weight is a kernel for the other.
bool AreAlike(const PackedWeight& a, const PackedWeight& b) {
  return a.bits == b.bits && a.code_book == b.code_book && a.nested_code == b.nested_code &&
         a.tiled == b.tiled && IsBlockScaled(a) == IsBlockScaled(b);
}

cudaError_t LaunchTogether(const BFloat16* x, int64_t x_stride, int64_t rows,
                           const RowProductTerm* terms, int count, const RowProductScratch& scratch,
                           cudaStream_t stream, const RowProductSwiGlu& swiglu = {}) {
  RowProductArgs args;
  args.swiglu = swiglu;
  for (int i = 0; i < count; ++i) {
    const PackedWeight& weight = terms[i].weight;
    if (weight.rows == 0) continue;
    RowProductEntry& entry = args.entries[args.count++];
    entry.term = terms[i];
    if (weight.bits != 16)
      entry.block_shift = std::countr_zero(static_cast<uint32_t>(weight.block));
  }
  if (args.count == 0) return cudaSuccess;
  args.x = reinterpret_cast<const __nv_bfloat16*>(x);
  args.x_stride = x_stride;
  args.rows = rows;
  args.block_scaled = IsBlockScaled(terms[0].weight);
  const bool is_aligned = IsAligned(terms[0].weight, x, x_stride);
  if (args.block_scaled) return LaunchBlockScaled(is_aligned, args, scratch, stream);
  switch (terms[0].weight.bits) {
    case 4:
      return LaunchExact<4>(is_aligned, args, scratch, stream);
    case 8:
      return LaunchExact<8>(is_aligned, args, scratch, stream);
    default:
      return LaunchExact<16>(is_aligned, args, scratch, stream);
  }
}

}  // namespace

bool TakesLoras(const PackedWeight& weight, const BFloat16* x, int64_t x_stride) {
  return weight.tiled && IsAligned(weight, x, x_stride) && HasWideTiledRowProduct();
}

bool CanEndInSwiGlu(const BFloat16* x, int64_t x_stride, int64_t rows, const RowProductTerm* terms,
                    int count) {
  if (count != 2) return false;
  if (rows <= kNarrowRows ? !HasNarrowRowProduct() : !HasWideTiledRowProduct()) return false;
  const PackedWeight &gate = terms[0].weight, &up = terms[1].weight;
  return gate.tiled && up.tiled && gate.rows == up.rows && gate.columns == up.columns &&
         IsAligned(gate, x, x_stride) && IsAligned(up, x, x_stride) && AreAlike(gate, up);
}

cudaError_t LaunchRowProduct(const BFloat16* x, int64_t x_stride, int64_t rows,
                             const RowProductTerm* terms, int count,
                             const RowProductScratch& scratch, cudaStream_t stream,
                             const RowProductSwiGlu& swiglu) {
  if (count < 0 || count > kMaxRowProductTerms) return cudaErrorInvalidValue;
  if (rows == 0 || count == 0) return cudaSuccess;
  if (swiglu.out != nullptr && !CanEndInSwiGlu(x, x_stride, rows, terms, count))
    return cudaErrorInvalidValue;
  bool together = true;
  for (int i = 0; i < count; ++i) {
    const PackedWeight &weight = terms[i].weight, &head = terms[0].weight;
    if (weight.columns != head.columns || weight.columns > kMaxColumns)
      return cudaErrorInvalidValue;
    if (terms[i].num_loras > 0 && !TakesLoras(weight, x, x_stride)) return cudaErrorInvalidValue;
    together &=
        AreAlike(weight, head) && IsAligned(weight, x, x_stride) == IsAligned(head, x, x_stride);
  }
  if (together) return LaunchTogether(x, x_stride, rows, terms, count, scratch, stream, swiglu);
  for (int i = 0; i < count; ++i) {
    const cudaError_t error = LaunchTogether(x, x_stride, rows, terms + i, 1, scratch, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace lorad::cuda
