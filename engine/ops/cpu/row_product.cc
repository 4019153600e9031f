// y[r, o] = x[r, :] . W[o, :] over packed weights, vectorised over the columns of one weight row.
//
// 4-bit weights are decoded 32 at a time: 16 bytes become 16 high and 16 low nibbles, each an index
// into the block's 16 bf16-rounded values, which sit in one vector register (AVX-512) or an L1
// line. High nibbles are the even columns, so x is split in even and odd columns once before.
// Decoded weights are used for up to kRowTile rows of x; each row has its own accumulators, fed in
// column order, so it sees the same sums whatever the other rows are. Bound by memory for few rows:
// out * in * bits / 8 bytes; by FMA from about 8 rows on.
#include "engine/ops/cpu/row_product.h"

#include <algorithm>

#include "engine/core/float16.h"
#include "engine/ops/cpu/kernels.h"
#include "engine/ops/cpu/vector_math.h"
#include "engine/ops/cpu/weight_scale.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/ops/cpu/row_product.cc"
#include "hwy/foreach_target.h"  // NOLINT: compiles the rest once per target
//
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lorad::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// 16 lanes where the processor has them, else as many as it has: the block's values are then looked
// up in memory.
using Floats = hn::CappedTag<float, 16>;
using Ints = hn::RebindToSigned<Floats>;
using Bytes = hn::Rebind<uint8_t, Floats>;
constexpr Floats kFloats;
constexpr Ints kInts;
constexpr Bytes kBytes;
constexpr int kRowTile = 8;

// The block's values code_book * scale, rounded to bf16 as ToBFloat16 does. No NaN can occur.
HWY_INLINE void BlockValues(const float* book, float scale, float* values) {
  const int64_t lanes = hn::Lanes(kFloats);
  for (int64_t i = 0; i < 16; i += lanes) {
    const auto product = hn::Mul(hn::LoadU(kFloats, book + i), hn::Set(kFloats, scale));
    const auto bits = hn::BitCast(kInts, product);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(kInts, 1));
    const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(kInts, 0x7fff)));
    const auto kept = hn::And(rounded, hn::Set(kInts, static_cast<int32_t>(0xffff0000u)));
    hn::StoreU(hn::BitCast(kFloats, kept), kFloats, values + i);
  }
}

template <typename Indices>
HWY_INLINE auto Look(const float* values, Indices indices) {
  if (hn::Lanes(kFloats) == 16) {
    return hn::TableLookupLanes(hn::LoadU(kFloats, values), hn::IndicesFromVec(kFloats, indices));
  }
  return hn::GatherIndex(kFloats, values, indices);
}

// Rows of x [tile] against weight row `o`. x_even and x_odd: [rows, in / 2].
template <int kTile>
HWY_INLINE void FourBitRow(const WeightView& weight, int64_t o, const float* x_even,
                           const float* x_odd, float* sums) {
  const int64_t in = weight.in_features, half = in / 2, block = weight.spec.block;
  const int64_t lanes = hn::Lanes(kFloats);
  const uint8_t* codes = static_cast<const uint8_t*>(weight.codes.data) + o * half;
  const float* book = static_cast<const float*>(weight.code_book.data);
  HWY_ALIGN float values[16];
  decltype(hn::Zero(kFloats)) even[kTile], odd[kTile];
  for (int r = 0; r < kTile; ++r) even[r] = odd[r] = hn::Zero(kFloats);
  for (int64_t begin = 0; begin < half; begin += block / 2) {
    BlockValues(book, WeightScale(weight, (o * in + 2 * begin) / block), values);
    for (int64_t i = begin; i < begin + block / 2; i += lanes) {
      const auto bytes = hn::PromoteTo(kInts, hn::LoadU(kBytes, codes + i));
      const auto high = Look(values, hn::ShiftRight<4>(bytes));
      const auto low = Look(values, hn::And(bytes, hn::Set(kInts, 15)));
      for (int r = 0; r < kTile; ++r) {
        even[r] = hn::MulAdd(high, hn::LoadU(kFloats, x_even + r * half + i), even[r]);
        odd[r] = hn::MulAdd(low, hn::LoadU(kFloats, x_odd + r * half + i), odd[r]);
      }
    }
  }
  for (int r = 0; r < kTile; ++r) {
    sums[r] = hn::GetLane(hn::SumOfLanes(kFloats, hn::Add(even[r], odd[r])));
  }
}

void FourBitRows(const WeightView& weight, const float* x_even, const float* x_odd, int64_t rows,
                 int64_t out_begin, int64_t out_end, bool accumulate, float* y) {
  const int64_t half = weight.in_features / 2, out = weight.out_features;
  for (int64_t o = out_begin; o < out_end; ++o) {
    for (int64_t r = 0; r < rows;) {
      float sums[kRowTile];
      const float* even = x_even + r * half;
      const float* odd = x_odd + r * half;
      int tile = static_cast<int>(std::min<int64_t>(rows - r, kRowTile));
      tile = tile >= 8 ? 8 : tile >= 4 ? 4 : tile >= 2 ? 2 : 1;
      switch (tile) {
        case 8:
          FourBitRow<8>(weight, o, even, odd, sums);
          break;
        case 4:
          FourBitRow<4>(weight, o, even, odd, sums);
          break;
        case 2:
          FourBitRow<2>(weight, o, even, odd, sums);
          break;
        default:
          FourBitRow<1>(weight, o, even, odd, sums);
          break;
      }
      for (int i = 0; i < tile; ++i) {
        float& target = y[(r + i) * out + o];
        target = accumulate ? target + sums[i] : sums[i];
      }
      r += tile;
    }
  }
}

// Dense bf16 rows widened on the way.
HWY_INLINE float DenseDot(const BFloat16* w, const float* x, int64_t count) {
  const hn::ScalableTag<float> floats;
  const hn::RebindToSigned<decltype(floats)> ints;
  const hn::Rebind<uint16_t, decltype(floats)> halves;
  const int64_t lanes = hn::Lanes(floats);
  auto sum0 = hn::Zero(floats), sum1 = hn::Zero(floats);
  const auto widen = [&](int64_t i) {
    const auto bits = hn::LoadU(halves, reinterpret_cast<const uint16_t*>(w) + i);
    return hn::BitCast(floats, hn::ShiftLeft<16>(hn::PromoteTo(ints, bits)));
  };
  int64_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    sum0 = hn::MulAdd(widen(i), hn::LoadU(floats, x + i), sum0);
    sum1 = hn::MulAdd(widen(i + lanes), hn::LoadU(floats, x + i + lanes), sum1);
  }
  float total = hn::GetLane(hn::SumOfLanes(floats, hn::Add(sum0, sum1)));
  for (; i < count; ++i) total += ToFloat(w[i]) * x[i];
  return total;
}

void DenseRows(const WeightView& weight, const float* x, int64_t rows, int64_t out_begin,
               int64_t out_end, bool accumulate, float* y) {
  const int64_t in = weight.in_features, out = weight.out_features;
  const BFloat16* dense = static_cast<const BFloat16*>(weight.dense.data);
  for (int64_t o = out_begin; o < out_end; ++o) {
    for (int64_t r = 0; r < rows; ++r) {
      const float sum = DenseDot(dense + o * in, x + r * in, in);
      y[r * out + o] = accumulate ? y[r * out + o] + sum : sum;
    }
  }
}

}  // namespace lorad::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorad::cpu {

HWY_EXPORT(FourBitRows);
HWY_EXPORT(DenseRows);

namespace {

// Blocks that end with the rows, so that a block's values serve a whole stretch of columns.
bool IsFourBitAligned(const WeightView& weight) {
  return weight.spec.format != QuantFormat::kNone && CodeBits(weight.spec.format) == 4 &&
         weight.in_features % weight.spec.block == 0;
}

// Any other packing: a weight row is decoded, then multiplied with each row of x.
template <typename T>
void DecodedRows(const WeightView& weight, const T* x, int64_t rows, int64_t out_begin,
                 int64_t out_end, bool accumulate, T* y, T* decoded) {
  const int64_t in = weight.in_features, out = weight.out_features;
  for (int64_t o = out_begin; o < out_end; ++o) {
    DequantizeRows(weight, o, o + 1, decoded);
    for (int64_t r = 0; r < rows; ++r) {
      const T sum = Dot(decoded, x + r * in, in);
      y[r * out + o] = accumulate ? y[r * out + o] + sum : sum;
    }
  }
}

template <typename T>
void RunDecodedRows(const WeightView& weight, const T* x, int64_t rows, bool accumulate, T* y,
                    T* scratch, ThreadPool& pool) {
  const int64_t part =
      std::max<int64_t>(16, (weight.out_features + pool.num_threads() - 1) / pool.num_threads());
  pool.For(weight.out_features, part, [&](int64_t begin, int64_t end) {
    DecodedRows(weight, x, rows, begin, end, accumulate, y,
                scratch + begin / part * weight.in_features);
  });
}

constexpr int64_t kGrain = 64;  // output features worth waking a thread for

}  // namespace

void RowProduct(const WeightView& weight, const float* x, int64_t rows, bool accumulate, float* y,
                float* scratch, ThreadPool& pool) {
  const int64_t in = weight.in_features, half = in / 2;
  if (weight.spec.format == QuantFormat::kNone) {
    pool.For(weight.out_features, kGrain, [&](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(DenseRows)(weight, x, rows, begin, end, accumulate, y);
    });
    return;
  }
  if (!IsFourBitAligned(weight))
    return RunDecodedRows(weight, x, rows, accumulate, y, scratch, pool);
  float* even = scratch;
  float* odd = scratch + rows * half;
  for (int64_t i = 0; i < rows * half; ++i) {
    even[i] = x[2 * i];
    odd[i] = x[2 * i + 1];
  }
  pool.For(weight.out_features, kGrain, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(FourBitRows)(weight, even, odd, rows, begin, end, accumulate, y);
  });
}

void RowProduct(const WeightView& weight, const double* x, int64_t rows, bool accumulate, double* y,
                double* scratch, ThreadPool& pool) {
  RunDecodedRows(weight, x, rows, accumulate, y, scratch, pool);
}

int64_t RowProductScratch(const WeightView& weight, int64_t rows, int num_threads) {
  return weight.in_features * std::max<int64_t>(rows, num_threads + 1);
}

}  // namespace lorad::cpu
#endif  // HWY_ONCE
