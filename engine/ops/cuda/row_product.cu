// y[t, o] (+)= sum over c of x[t, c] W[o, c] + bias[o] over packed weights, for a few rows.
//
//   x [rows, in] bf16    W [out, in] of 4-bit or 8-bit codes, or bf16    y [rows, out] bf16
//
// A block of 8 warps takes 16 outputs and up to 8, 16, 32 or 64 rows; warp w the columns
// [128 s, 128 s + 128) for s = w, w + 8, ... Each weight is decoded once into a fragment of the
// tensor cores' product (16 outputs x 16 columns times 16 columns x 8 rows, fp32 sums) and used for
// all rows. The order of columns within a fragment is free as long as x follows it: lane (g, t) =
// (lane / 4, lane % 4) loads 16 bytes of codes of outputs g and g + 8, and of each 8 neighbouring
// columns in them the first four are its k = 2t, 2t+1, 2t+8, 2t+9 of one product and the last four
// those of the next; of x it loads the same 8 columns of row g. So nothing passes through shared
// memory but the code book, one bank per lane, and at the end the 8 warps' sums, added in order.
//
// Each sum thus has an order that depends on the number of columns and on the width of a code
// alone. A row's column in the fragment does not enter: the tensor cores compute each element of a
// product alike. Rows that are not there are zeros.
//
// Blocks that share weights and differ in rows follow one another in the grid, so that the weights
// come from memory once. Bound by memory for few rows (0.52 bytes a weight for nf4 with double
// quantisation), closely followed by the lookups, one a weight; by the products from about 64 rows
// on. Formats: Dettmers et al., "QLoRA", 2023. Row invariance by one fixed reduction: He et al.,
// "Defeating nondeterminism in LLM inference", 2025.
#include <bit>

#include "engine/core/checked_math.h"
#include "engine/ops/cuda/attention_mma.cuh"
#include "engine/ops/cuda/row_product.h"
#include "engine/ops/cuda/weight_decode.cuh"

namespace lorad::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kTileOuts = 16;
constexpr int kTileRows = 8;
constexpr int kMaxRowTiles = 8;
constexpr int kStepColumns = 128;
constexpr int kChunk = 8;                             // columns of a lane in two products
constexpr int kChunks = kStepColumns / (4 * kChunk);  // of a lane in a step
constexpr int kPartialStride = kTileOuts + 4;         // no bank conflicts between rows
constexpr int kFastColumns = 32;                      // columns come in multiples of it

struct Term {
  RowProductTerm term;
  uint32_t first_block = 0;  // of the grid
  int32_t block_shift = 0;   // log2(elements of a quantisation block)
};

struct Args {
  Term terms[kMaxRowProductTerms];
  int count = 0;
  bool accumulate = false;
  const __nv_bfloat16* x = nullptr;
  int64_t x_stride = 0;
  int64_t rows = 0;
  uint32_t passes = 0;  // over the rows
};

// Codes of outputs g and g + 8 that a lane takes in one step, and their scales, as loaded.
template <int kBits>
struct StepCodes {
  static constexpr int kLoads = kBits / 4;  // of 16 bytes, for each output
  uint4 codes[2][kLoads];
  float scales[2][kLoads];
  uint32_t scale_codes[2][kLoads];
};

// Where chunk i of lane position t begins in a step.
template <int kBits>
__device__ __forceinline__ int ChunkColumn(int i, int t) {
  constexpr int kLoadColumns = 128 / kBits;  // of 16 bytes
  constexpr int kLoadChunks = kLoadColumns / kChunk;
  return i / kLoadChunks * (4 * kLoadColumns) + t * kLoadColumns + i % kLoadChunks * kChunk;
}

// Codes are read once: they must not drive x out of the first-level cache.
__device__ __forceinline__ uint4 LoadOnce(const void* from) {
  uint4 words;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
               : "l"(from));
  return words;
}

// Reads the weights of one block's outputs.
template <int kBits, bool kFast>
class Reader {
 public:
  __device__ Reader(const Term& term, int64_t out, int g, int t, const float* book,
                    const float* nested_code)
      : term_(term), weight_(term.term.weight), t_(t), book_(book), nested_code_(nested_code) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int64_t row = out + g + 8 * r;
      begin_[r] = row < weight_.rows ? row * weight_.columns : -1;
    }
  }

  // The loads of columns [column, column + kStepColumns); zeros beyond the matrix.
  __device__ __forceinline__ void Load(int64_t column, StepCodes<kBits>& step) const {
    static_assert(kFast);
    using Step = StepCodes<kBits>;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int load = 0; load < Step::kLoads; ++load) {
        const int64_t c = column + (load * 4 + t_) * (128 / kBits);
        step.codes[r][load] = make_uint4(0, 0, 0, 0);
        step.scales[r][load] = 0;
        step.scale_codes[r][load] = 0;
        if (begin_[r] < 0 || c >= weight_.columns) continue;
        const int64_t i = begin_[r] + c;
        step.codes[r][load] = LoadOnce(static_cast<const char*>(weight_.codes) + i * kBits / 8);
        if constexpr (kBits != 16) {
          const int64_t block = i >> term_.block_shift;
          if (weight_.scales_u8 != nullptr) {
            step.scale_codes[r][load] = __ldg(weight_.scales_u8 + block);
            step.scales[r][load] = __ldg(weight_.nested_scales + (block >> kNestedShift));
          } else {
            step.scales[r][load] = __ldg(weight_.scales + block);
          }
        }
      }
    }
  }

  // Chunk i of output g + 8 r as bf16.
  __device__ __forceinline__ uint4 Decode(const StepCodes<kBits>& step, int r, int i,
                                          int64_t column) const {
    if constexpr (!kFast) {
      return DecodeElements(r, column + ChunkColumn<kBits>(i, t_));
    } else if constexpr (kBits == 16) {
      return step.codes[r][i];
    } else {
      constexpr int kLoadChunks = 16 / kBits;
      const int load = i / kLoadChunks;
      const uint4& codes = step.codes[r][load];
      const float scale = Scale(step, r, load);
      if constexpr (kBits == 4) {
        const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
        return DecodeEight(words[i], book_, scale);
      } else {
        const uint2 words =
            i % 2 == 0 ? make_uint2(codes.x, codes.y) : make_uint2(codes.z, codes.w);
        return DecodeEight(words, book_, scale);
      }
    }
  }

 private:
  __device__ __forceinline__ float Scale(const StepCodes<kBits>& step, int r, int load) const {
    if (weight_.scales_u8 == nullptr) return step.scales[r][load];
    return NestedScale(nested_code_[step.scale_codes[r][load]], step.scales[r][load],
                       weight_.nested_offset);
  }
  __device__ __forceinline__ uint4 DecodeElements(int r, int64_t column) const {
    uint32_t words[4] = {};
#pragma unroll 1
    for (int e = 0; e < kChunk; ++e) {
      const int64_t c = column + e;
      if (begin_[r] < 0 || c >= weight_.columns) break;
      const uint32_t bits = ElementBits(weight_, begin_[r] + c) << (16 * (e % 2));
#pragma unroll
      for (int w = 0; w < 4; ++w) {  // no indexing of registers
        if (w == e / 2) words[w] |= bits;
      }
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
  }

  const Term& term_;
  const PackedWeight& weight_;
  const int t_;
  const float* const book_;
  const float* const nested_code_;
  int64_t begin_[2];  // of the output's row in the flattened matrix; -1: no such output
};

// Eight columns of a row of x, zeros beyond it.
template <bool kFast>
__device__ __forceinline__ uint4 LoadX(const __nv_bfloat16* row, int64_t column, int64_t columns) {
  uint4 values = make_uint4(0, 0, 0, 0);
  if constexpr (kFast) {
    if (column < columns) values = __ldg(reinterpret_cast<const uint4*>(row + column));
  } else {
    uint32_t words[4];
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const int64_t c = column + 2 * w;
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

// Codes of the next step are loaded while this one's are multiplied. Wider codes have loads enough
// in flight without it, and 64 rows leave no registers for it.
template <int kBits, bool kFast, int kRowTiles>
constexpr bool kPrefetch = kFast&& kBits == 4 && kRowTiles < kMaxRowTiles;

// Sums over this warp's columns: sums[n] is the fragment of rows [8 n, 8 n + 8).
template <int kBits, bool kFast, int kRowTiles>
__device__ __forceinline__ void Multiply(const Reader<kBits, kFast>& reader, StepCodes<kBits> next,
                                         const LaneRows& x, int64_t columns, int warp, int t,
                                         float (&sums)[kRowTiles][4]) {
  for (int64_t column = int64_t{warp} * kStepColumns; column < columns;
       column += kWarps * kStepColumns) {
    StepCodes<kBits> step = {};
    if constexpr (kPrefetch<kBits, kFast, kRowTiles>) {
      step = next;
      reader.Load(column + kWarps * kStepColumns, next);
    } else if constexpr (kFast) {
      reader.Load(column, step);
    }
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const uint4 w0 = reader.Decode(step, 0, i, column);
      const uint4 w1 = reader.Decode(step, 1, i, column);
      const uint32_t first[4] = {w0.x, w1.x, w0.y, w1.y};
      const uint32_t second[4] = {w0.z, w1.z, w0.w, w1.w};
#pragma unroll
      for (int n = 0; n < kRowTiles; ++n) {
        uint4 values = make_uint4(0, 0, 0, 0);
        if (n < x.count) {
          values = LoadX<kFast>(x.first + n * x.stride, column + ChunkColumn<kBits>(i, t), columns);
        }
        MultiplyAdd(sums[n], first, values.x, values.y);
        MultiplyAdd(sums[n], second, values.z, values.w);
      }
    }
  }
}

template <int kBits, bool kFast, int kRowTiles>
__global__ void __launch_bounds__(kThreads, kRowTiles == 1 && kBits == 4 ? 3 : 2)
    RowProductKernel(const __grid_constant__ Args args) {
  constexpr int kRows = kTileRows * kRowTiles;
  // 4 bits: entry e of lane l at e * 32 + l.
  __shared__ float book[kBits == 4 ? 16 * kBookLanes : 256];
  __shared__ float nested_code[256];
  __shared__ float partial[kWarps][kRows][kPartialStride];
  int index = 0;
  while (index + 1 < args.count && blockIdx.x >= args.terms[index + 1].first_block) ++index;
  const Term& entry = args.terms[index];
  const RowProductTerm& term = entry.term;
  const uint32_t block = blockIdx.x - entry.first_block;
  const int64_t out = int64_t{block / args.passes} * kTileOuts;
  const int64_t row = int64_t{block % args.passes} * kRows;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;

  const Reader<kBits, kFast> reader(entry, out, g, t, kBits == 4 ? book + lane : book, nested_code);
  StepCodes<kBits> first = {};
  if constexpr (kPrefetch<kBits, kFast, kRowTiles>) {
    reader.Load(int64_t{warp} * kStepColumns, first);
  }
  if constexpr (kFast && kBits != 16) {  // the tables, while the first codes are on their way
    if constexpr (kBits == 4) {
      for (int i = threadIdx.x; i < 16 * kBookLanes; i += kThreads) {
        book[i] = __ldg(term.weight.code_book + i / kBookLanes);
      }
    } else {
      book[threadIdx.x] = __ldg(term.weight.code_book + threadIdx.x);
    }
    if (term.weight.scales_u8 != nullptr) {
      nested_code[threadIdx.x] = __ldg(term.weight.nested_code + threadIdx.x);
    }
    __syncthreads();
  }
  const int64_t rows_left = args.rows - row - g;
  const LaneRows x = {
      args.x + (row + g) * args.x_stride, kTileRows * args.x_stride,
      static_cast<int>(rows_left >= kRows ? kRowTiles : (rows_left + kTileRows - 1) / kTileRows)};
  float sums[kRowTiles][4] = {};
  Multiply<kBits, kFast, kRowTiles>(reader, first, x, term.weight.columns, warp, t, sums);

#pragma unroll
  for (int n = 0; n < kRowTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      partial[warp][n * kTileRows + 2 * t + i % 2][g + i / 2 * 8] = sums[n][i];
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kTileOuts * kRows; i += kThreads) {
    const int o = i % kTileOuts, r = i / kTileOuts;
    if (row + r >= args.rows || out + o >= term.weight.rows) continue;
    float sum = partial[0][r][o];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) sum += partial[w][r][o];
    if (term.bias != nullptr) sum += __ldg(term.bias + out + o);
    __nv_bfloat16* y = reinterpret_cast<__nv_bfloat16*>(term.y) + (row + r) * term.y_stride;
    if (args.accumulate) sum += __bfloat162float(y[out + o]);
    y[out + o] = __float2bfloat16_rn(sum);
  }
}
static_assert(kThreads == 256, "a thread fills one entry of the tables of 256");

using Kernel = void (*)(Args);

template <int kBits, bool kFast>
Kernel KernelOf(int row_tiles) {
  if constexpr (!kFast) {
    return RowProductKernel<kBits, false, 1>;
  } else {
    switch (row_tiles) {
      case 1:
        return RowProductKernel<kBits, true, 1>;
      case 2:
        return RowProductKernel<kBits, true, 2>;
      case 4:
        return RowProductKernel<kBits, true, 4>;
      default:
        return RowProductKernel<kBits, true, kMaxRowTiles>;
    }
  }
}

template <bool kFast>
Kernel KernelOf(int bits, int row_tiles) {
  if (bits == 4) return KernelOf<4, kFast>(row_tiles);
  if (bits == 8) return KernelOf<8, kFast>(row_tiles);
  return KernelOf<16, kFast>(row_tiles);
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
  const bool fast = IsFast(terms[0].weight, x, x_stride);
  int row_tiles = 1;
  while (fast && row_tiles < kMaxRowTiles && row_tiles * kTileRows < rows) row_tiles *= 2;
  const int64_t passes = CeilDiv(rows, row_tiles * kTileRows);
  Args args;
  int64_t blocks = 0;
  for (int i = 0; i < count; ++i) {
    const PackedWeight& weight = terms[i].weight;
    if (weight.rows == 0) continue;
    Term& term = args.terms[args.count++];
    term.term = terms[i];
    term.first_block = static_cast<uint32_t>(blocks);
    if (weight.bits != 16) term.block_shift = std::countr_zero(static_cast<uint32_t>(weight.block));
    blocks += CeilDiv(weight.rows, kTileOuts) * passes;
  }
  if (blocks == 0) return cudaSuccess;
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  args.accumulate = accumulate;
  args.x = reinterpret_cast<const __nv_bfloat16*>(x);
  args.x_stride = x_stride;
  args.rows = rows;
  args.passes = static_cast<uint32_t>(passes);
  const Kernel kernel = fast ? KernelOf<true>(terms[0].weight.bits, row_tiles)
                             : KernelOf<false>(terms[0].weight.bits, row_tiles);
  kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(args);
  return cudaGetLastError();
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
    if (weight.columns != head.columns) return cudaErrorInvalidValue;
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
