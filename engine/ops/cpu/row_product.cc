// y[r, o] = x[r, :] . W[o, :] over packed weights, vectorised over the columns of a weight row.
//
// Each (r, o) has two accumulators, one for the even columns and one for the odd, fed in column
// order, and a fixed tree adds their lanes: so a row sees the same sums whatever the other rows
// are. A step takes four weight rows against one row of x, or one weight row against four or eight
// rows of x, so that enough sums are in flight and decoded weights are used again. Bound by memory
// for few rows: out * in * bits / 8 bytes; by the decoding when the weights are in cache; by FMA
// from about eight rows on.
#include "engine/ops/cpu/row_product.h"

#include <algorithm>

#include "engine/ops/cpu/highway_targets.h"
#include "engine/ops/cpu/kernels.h"
#include "engine/ops/cpu/vector_math.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/ops/cpu/row_product.cc"
#include "hwy/foreach_target.h"  // NOLINT: compiles the rest once per target
//
#include "engine/ops/cpu/sum_lanes-inl.h"
#include "engine/ops/cpu/weight_decode-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorad::cpu::HWY_NAMESPACE {

// Rows of x against one weight row: as many as leave the accumulators in registers.
constexpr int kMaxTile = HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL ? 8 : 4;

// sums[u * kRows + r] = W[o[u], :] . x[r]; x[r] points to the even columns [in / 2], then the odd.
// REQUIRES: blocks end with the rows; in is a multiple of 2 Lanes.
template <class Format, int kOuts, int kRows>
HWY_INLINE void Tile(const WeightView& weight, const int64_t* o, const float* const* x,
                     float* sums) {
  const int64_t in = weight.in_features, half = in / 2, step = 2 * hn::Lanes(kFloats);
  const int64_t block = std::min(BlockElements(weight), in), blocks = in / block;
  Format formats[kOuts];
  Floats even[kOuts * kRows], odd[kOuts * kRows];
  for (int u = 0; u < kOuts; ++u) formats[u] = Format(weight);
  for (int i = 0; i < kOuts * kRows; ++i) even[i] = odd[i] = hn::Zero(kFloats);
  for (int64_t b = 0; b < blocks; ++b) {
    for (int u = 0; u < kOuts; ++u) formats[u].Block(o[u] * blocks + b);
    for (int64_t e = b * block; e < (b + 1) * block; e += step) {
      for (int u = 0; u < kOuts; ++u) {
        const Pair w = formats[u].Load(o[u] * in + e);
        for (int r = 0; r < kRows; ++r) {
          Floats& even_sum = even[u * kRows + r];
          Floats& odd_sum = odd[u * kRows + r];
          even_sum = hn::MulAdd(w.even, hn::LoadU(kFloats, x[r] + e / 2), even_sum);
          odd_sum = hn::MulAdd(w.odd, hn::LoadU(kFloats, x[r] + half + e / 2), odd_sum);
        }
      }
    }
  }
  for (int i = 0; i < kOuts * kRows; ++i) even[i] = hn::Add(even[i], odd[i]);
  for (int i = 0; i < kOuts * kRows; i += 4) SumLanes4(even + i, sums + i);
}

// Up to kRows rows of x from row r on against weight row o; the tile is filled up with the last.
template <class Format, int kRows>
HWY_INLINE int64_t ColumnTile(const WeightView& weight, int64_t o, const float* x, int64_t r,
                              int64_t rows, bool accumulate, float* y) {
  const float* pointers[kRows];
  for (int i = 0; i < kRows; ++i) {
    pointers[i] = x + std::min<int64_t>(r + i, rows - 1) * weight.in_features;
  }
  float sums[kRows];
  Tile<Format, 1, kRows>(weight, &o, pointers, sums);
  const int64_t count = std::min<int64_t>(kRows, rows - r);
  for (int64_t i = 0; i < count; ++i) {
    float& target = y[(r + i) * weight.out_features + o];
    target = accumulate ? target + sums[i] : sums[i];
  }
  return count;
}

template <class Format>
HWY_INLINE void MultiplyRows(const WeightView& weight, const float* x, int64_t rows,
                             int64_t out_begin, int64_t out_end, bool accumulate, float* y) {
  if (rows == 1) {
    for (int64_t o = out_begin; o < out_end; o += 4) {
      int64_t outs[4];
      for (int u = 0; u < 4; ++u) outs[u] = std::min(o + u, out_end - 1);
      float sums[4];
      Tile<Format, 4, 1>(weight, outs, &x, sums);
      for (int64_t u = 0; u < 4 && o + u < out_end; ++u) {
        y[o + u] = accumulate ? y[o + u] + sums[u] : sums[u];
      }
    }
    return;
  }
  for (int64_t o = out_begin; o < out_end; ++o) {
    for (int64_t r = 0; r < rows;) {
      r += rows - r > 4 ? ColumnTile<Format, kMaxTile>(weight, o, x, r, rows, accumulate, y)
                        : ColumnTile<Format, 4>(weight, o, x, r, rows, accumulate, y);
    }
  }
}

// x [rows, in], each row split in even and odd columns.
void RowProductPart(const WeightView& weight, const float* x, int64_t rows, int64_t out_begin,
                    int64_t out_end, bool accumulate, float* y) {
  WithFormat(weight, [&](auto format) HWY_ATTR {
    MultiplyRows<decltype(format)>(weight, x, rows, out_begin, out_end, accumulate, y);
  });
}

// split[r] = x[r] with the even columns first.
void SplitColumns(const float* x, int64_t rows, int64_t in, float* split) {
  const int64_t half = in / 2, lanes = hn::Lanes(kFloats);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < half; i += lanes) {
      Floats even, odd;
      hn::LoadInterleaved2(kFloats, x + r * in + 2 * i, even, odd);
      hn::StoreU(even, kFloats, split + r * in + i);
      hn::StoreU(odd, kFloats, split + r * in + half + i);
    }
  }
}

void AddLora(const float* b, const float* xa, int64_t rank, float scaling, float* y, int64_t out) {
  const int64_t lanes = hn::Lanes(kFloats);
  for (int64_t o = 0; o < out; o += 4) {
    Floats products[4];
    for (int u = 0; u < 4; ++u) products[u] = hn::Zero(kFloats);
    for (int64_t k = 0; k < rank; k += lanes) {
      const Floats factor = LoadFirst(xa + k, rank - k);
      for (int u = 0; u < 4; ++u) {
        const float* row = b + std::min(o + u, out - 1) * rank + k;
        products[u] = hn::MulAdd(factor, LoadFirst(row, rank - k), products[u]);
      }
    }
    float sums[4];
    SumLanes4(products, sums);
    for (int64_t u = 0; u < 4 && o + u < out; ++u) y[o + u] += scaling * sums[u];
  }
}

}  // namespace lorad::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorad::cpu {

HWY_EXPORT(RowProductPart);
HWY_EXPORT(SplitColumns);
HWY_EXPORT(AddLora);

namespace {

constexpr int64_t kGrainElements = 1 << 17;  // weights worth waking a thread for: some 10 us

int64_t GrainRows(const WeightView& weight) {
  return std::max<int64_t>(4, kGrainElements / std::max<int64_t>(1, weight.in_features));
}

// Whether the packed kernels apply: every vector of columns lies within one block. 32: twice the
// lanes of the widest vectors.
bool IsAligned(const WeightView& weight) {
  return weight.in_features % 32 == 0 &&
         (weight.spec.format == QuantFormat::kNone || weight.in_features % weight.spec.block == 0);
}

// Of some rows of the weight.
void CountDecoding(const WeightView& weight, int64_t rows, FlopMeter flops) {
  if (weight.spec.format != QuantFormat::kNone)
    flops.Forward(FlopOp::kDequantize, rows * weight.in_features);
}

// Any other packing: weights are decoded a few rows at a time, then multiplied with each row of x.
constexpr int64_t kDecodedRows = 8;

template <typename T>
void RunDecodedRows(const WeightView& weight, const T* x, int64_t rows, bool accumulate, T* y,
                    T* scratch, ThreadPool& pool, FlopMeter flops) {
  const int64_t in = weight.in_features, out = weight.out_features;
  for (int64_t first = 0; first < out; first += kDecodedRows) {
    const int64_t last = std::min(first + kDecodedRows, out);
    DequantizeTile(weight, {first, last, 0, in}, scratch);
    CountDecoding(weight, last - first, flops);
    const int64_t grain = std::max<int64_t>(1, kGrainElements / ((last - first) * in + 1));
    pool.For(rows, grain, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        for (int64_t o = first; o < last; ++o) {
          const T sum = Dot(scratch + (o - first) * in, x + r * in, in);
          y[r * out + o] = accumulate ? y[r * out + o] + sum : sum;
        }
      }
      flops.Forward(FlopOp::kLinear, 2 * (end - begin) * (last - first) * in);
    });
  }
}

}  // namespace

void RowProduct(const WeightView& weight, const float* x, int64_t rows, bool accumulate, float* y,
                float* scratch, ThreadPool& pool, FlopMeter flops) {
  if (!IsAligned(weight)) {
    return RunDecodedRows(weight, x, rows, accumulate, y, scratch, pool, flops);
  }
  HWY_DYNAMIC_DISPATCH(SplitColumns)(x, rows, weight.in_features, scratch);
  pool.For(weight.out_features, GrainRows(weight), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(RowProductPart)(weight, scratch, rows, begin, end, accumulate, y);
    CountDecoding(weight, end - begin, flops);
    flops.Forward(FlopOp::kLinear, 2 * rows * (end - begin) * weight.in_features);
  });
}

void RowProduct(const WeightView& weight, const double* x, int64_t rows, bool accumulate, double* y,
                double* scratch, ThreadPool& pool, FlopMeter flops) {
  RunDecodedRows(weight, x, rows, accumulate, y, scratch, pool, flops);
}

int64_t RowProductScratch(const WeightView& weight, int64_t rows) {
  return weight.in_features * std::max(rows, kDecodedRows);
}

void AddLoraRow(const float* b, const float* xa, int64_t rank, float scaling, float* y,
                int64_t out) {
  HWY_DYNAMIC_DISPATCH(AddLora)(b, xa, rank, scaling, y, out);
}
void AddLoraRow(const double* b, const double* xa, int64_t rank, double scaling, double* y,
                int64_t out) {
  for (int64_t o = 0; o < out; ++o) y[o] += scaling * Dot(b + o * rank, xa, rank);
}

}  // namespace lorad::cpu
#endif  // HWY_ONCE
