// Adapters as operands of matrix products. With terms i of ranks r_i at columns c_i and outputs at
// rows o_i of their group:
//   a_out[c_i + k, :] = bf16(A_i[k, :]),   b_out[o_i + n, c_i + k] = bf16(scaling_i * B_i[n, k]),
// zero elsewhere, so that [x | x a_out^T] [W | b_out]^T is base and LoRA of all terms at once.
//
//   A_i [r_i, in], B_i [rows_i, r_i] bf16 or fp32     a_out [columns, in], b_out [out, columns]
//   bf16, which may be the last rows and columns of one matrix; nothing overlaps the inputs
//
// A thread writes 8 neighbouring values (16 bytes); the blocks of a_out come before those of b_out
// in the grid. Bound by memory, of fp32 6 bytes a value of A, 2 columns + 4 r_i bytes a row of B; a
// few microseconds. SaveXa: a thread moves 8 values where all ranks allow, else one; 4 bytes a
// value. LoRA: Hu et al., 2021.
#include <cuda_bf16.h>

#include "engine/core/checked_math.h"
#include "engine/ops/cuda/lora_operands.h"

namespace lorad::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kVector = 8;  // bf16 values of one 16-byte store

struct OperandArgs {
  LoraOperand terms[kMaxLoraTerms];
  int count = 0;
  int64_t in = 0, out = 0, columns = 0;
  __nv_bfloat16* a = nullptr;
  int64_t lda = 0;
  __nv_bfloat16* b = nullptr;
  int64_t ldb = 0;
  uint32_t a_row_chunks = 0;  // stores of a row of `a`
  uint32_t a_blocks = 0;
};

__device__ __forceinline__ bool IsAligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// The first `width` values.
__device__ __forceinline__ void Store(const float (&values)[kVector], int width,
                                      __nv_bfloat16* to) {
  if (width == kVector && IsAligned(to)) {
    __nv_bfloat162 pairs[kVector / 2];
#pragma unroll
    for (int i = 0; i < kVector / 2; ++i) {
      pairs[i] = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
    }
    uint4 bits;
    memcpy(&bits, pairs, sizeof(bits));
    *reinterpret_cast<uint4*>(to) = bits;
    return;
  }
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    if (i < width) to[i] = __float2bfloat16_rn(values[i]);
  }
}

// The first `width` values.
__device__ __forceinline__ void Load(const float* from, int width, float (&values)[kVector]) {
  if (width == kVector && IsAligned(from)) {
    const float4 low = __ldg(reinterpret_cast<const float4*>(from));
    const float4 high = __ldg(reinterpret_cast<const float4*>(from) + 1);
    values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
    values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
    return;
  }
#pragma unroll
  for (int j = 0; j < kVector; ++j) {
    if (j < width) values[j] = __ldg(from + j);
  }
}

__device__ __forceinline__ void Load(const __nv_bfloat16* from, int width,
                                     float (&values)[kVector]) {
  if (width == kVector && IsAligned(from)) {
    const uint4 bits = __ldg(reinterpret_cast<const uint4*>(from));
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      values[2 * i] = __uint_as_float(words[i] << 16);
      values[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < kVector; ++j) {
    if (j < width) values[j] = __bfloat162float(from[j]);
  }
}
__device__ __forceinline__ float Value(float value) { return value; }
__device__ __forceinline__ float Value(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename Element>
__device__ __forceinline__ void WriteA(const OperandArgs& args, int64_t chunk) {
  const uint32_t row_chunks = args.a_row_chunks;
  const uint32_t k = static_cast<uint32_t>(chunk) / row_chunks;
  const int64_t i = int64_t{static_cast<uint32_t>(chunk) % row_chunks} * kVector;
  if (k >= args.columns) return;
  const Element* from = nullptr;
  for (int t = 0; t < args.count; ++t) {
    const LoraOperand& term = args.terms[t];
    const int64_t rank_row = k - term.column;
    if (0 <= rank_row && rank_row < term.rank)
      from = static_cast<const Element*>(term.a) + rank_row * term.a_stride + i;
  }
  const int width = static_cast<int>(args.in - i < kVector ? args.in - i : kVector);
  float values[kVector] = {};
  if (from != nullptr) Load(from, width, values);
  Store(values, width, args.a + int64_t{k} * args.lda + i);
}

template <typename Element>
__device__ __forceinline__ void WriteB(const OperandArgs& args, int64_t chunk) {
  const uint32_t row_chunks = static_cast<uint32_t>(args.columns / kVector);
  const int64_t n = static_cast<uint32_t>(chunk) / row_chunks;
  const int64_t first = int64_t{static_cast<uint32_t>(chunk) % row_chunks} * kVector;
  if (n >= args.out) return;
  float values[kVector] = {};
  for (int t = 0; t < args.count; ++t) {
    const LoraOperand& term = args.terms[t];
    const int64_t row = n - term.row;
    if (row < 0 || row >= term.rows) continue;
    const Element* from = static_cast<const Element*>(term.b) + row * term.b_stride;
    const int64_t begin = first - term.column;  // rank of values[0]
    if (begin >= 0 && begin + kVector <= term.rank) {
      Load(from + begin, kVector, values);
#pragma unroll
      for (int j = 0; j < kVector; ++j) values[j] = __fmul_rn(term.scaling, values[j]);
      continue;
    }
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      const int64_t k = begin + j;
      if (0 <= k && k < term.rank) values[j] = __fmul_rn(term.scaling, Value(from[k]));
    }
  }
  Store(values, kVector, args.b + n * args.ldb + first);
}

template <typename Element>
__global__ void __launch_bounds__(kThreads)
    OperandsKernel(const __grid_constant__ OperandArgs args) {
  if (blockIdx.x < args.a_blocks) {
    WriteA<Element>(args, int64_t{blockIdx.x} * kThreads + threadIdx.x);
  } else {
    WriteB<Element>(args, int64_t{blockIdx.x - args.a_blocks} * kThreads + threadIdx.x);
  }
}

// Lengths in units of one Unit.
template <typename Unit>
struct SaveArgs {
  struct Term {
    Unit* xa;
    int64_t stride;
    int64_t column;
    uint32_t end;  // of its units among those of a row
  };
  Term terms[kMaxLoraTerms];
  const Unit* s;
  int64_t s_stride;
  int64_t rows;
  uint32_t row_units;
};

template <typename Unit>
__global__ void __launch_bounds__(kThreads)
    SaveXaKernel(const __grid_constant__ SaveArgs<Unit> args) {
  const int64_t unit = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t row = unit / args.row_units;
  if (row >= args.rows) return;
  uint32_t k = static_cast<uint32_t>(unit - row * args.row_units);
  int t = 0;
  while (k >= args.terms[t].end) ++t;
  if (t > 0) k -= args.terms[t - 1].end;
  const auto& term = args.terms[t];
  term.xa[row * term.stride + k] = args.s[row * args.s_stride + term.column + k];
}

template <typename Unit>
cudaError_t LaunchSave(const XaColumns* terms, int count, const BFloat16* s, int64_t s_stride,
                       int64_t rows, cudaStream_t stream) {
  constexpr int64_t kUnit = sizeof(Unit) / sizeof(BFloat16);
  SaveArgs<Unit> args = {};
  args.s = reinterpret_cast<const Unit*>(s);
  args.s_stride = s_stride / kUnit;
  args.rows = rows;
  for (int t = 0; t < count; ++t) {
    args.row_units += static_cast<uint32_t>(terms[t].rank / kUnit);
    args.terms[t] = {reinterpret_cast<Unit*>(terms[t].xa), terms[t].stride / kUnit,
                     terms[t].column / kUnit, args.row_units};
  }
  const int64_t blocks = CeilDiv(rows * args.row_units, kThreads);
  if (blocks == 0) return cudaSuccess;
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  SaveXaKernel<Unit><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchLoraOperands(const LoraOperand* terms, int count, int64_t in, int64_t out,
                               int64_t columns, BFloat16* a_out, int64_t lda, BFloat16* b_out,
                               int64_t ldb, cudaStream_t stream) {
  if (columns == 0) return cudaSuccess;
  if (count < 0 || count > kMaxLoraTerms || columns % kVector != 0) return cudaErrorInvalidValue;
  OperandArgs args;
  for (int t = 0; t < count; ++t) {
    args.terms[t] = terms[t];
    if (terms[t].is_fp32 != terms[0].is_fp32) return cudaErrorInvalidValue;
  }
  args.count = count;
  args.in = in, args.out = out, args.columns = columns;
  args.a = reinterpret_cast<__nv_bfloat16*>(a_out), args.lda = lda;
  args.b = reinterpret_cast<__nv_bfloat16*>(b_out), args.ldb = ldb;
  const int64_t a_row_chunks = CeilDiv(in, kVector);
  const int64_t a_chunks = columns * a_row_chunks, b_chunks = out * (columns / kVector);
  const int64_t a_blocks = CeilDiv(a_chunks, kThreads);
  const int64_t blocks = a_blocks + CeilDiv(b_chunks, kThreads);
  // The kernel counts the chunks of a matrix in 32 bits.
  if (a_chunks > INT32_MAX || b_chunks > INT32_MAX) return cudaErrorInvalidValue;
  if (blocks == 0) return cudaSuccess;
  args.a_row_chunks = static_cast<uint32_t>(a_row_chunks);
  args.a_blocks = static_cast<uint32_t>(a_blocks);
  const bool is_fp32 = count == 0 || terms[0].is_fp32;
  const auto kernel = is_fp32 ? OperandsKernel<float> : OperandsKernel<__nv_bfloat16>;
  kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

cudaError_t LaunchSaveXa(const XaColumns* terms, int count, const BFloat16* s, int64_t s_stride,
                         int64_t rows, cudaStream_t stream) {
  if (count < 0 || count > kMaxLoraTerms) return cudaErrorInvalidValue;
  const auto fits = [](const void* pointer, int64_t a, int64_t b, int64_t c) {
    return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && (a | b | c) % kVector == 0;
  };
  bool vectors = fits(s, s_stride, 0, 0);
  for (int t = 0; t < count; ++t) {
    vectors &= fits(terms[t].xa, terms[t].stride, terms[t].rank, terms[t].column);
  }
  return vectors ? LaunchSave<uint4>(terms, count, s, s_stride, rows, stream)
                 : LaunchSave<uint16_t>(terms, count, s, s_stride, rows, stream);
}

}  // namespace lorad::cuda
