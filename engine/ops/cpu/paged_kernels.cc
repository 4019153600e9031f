#include "engine/ops/cpu/paged_kernels.h"

#include <algorithm>

#include "engine/core/float16.h"
#include "engine/ops/cpu/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/ops/cpu/paged_kernels.cc"
#include "hwy/foreach_target.h"  // NOLINT: compiles the rest once per target
//
#include "engine/ops/cpu/sum_lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorad::cpu::HWY_NAMESPACE {

// The first `count` elements as floats, zeros after them.
HWY_INLINE Floats LoadCached(const float* x, int64_t count) { return LoadFirst(x, count); }
HWY_INLINE Floats LoadCached(const BFloat16* x, int64_t count) {
  constexpr hn::Rebind<uint16_t, decltype(kFloats)> kHalves;
  constexpr hn::RebindToSigned<decltype(kFloats)> kInts;
  HWY_ALIGN uint16_t padded[hn::MaxLanes(kFloats)];
  const uint16_t* bits = reinterpret_cast<const uint16_t*>(x);
  if (count < static_cast<int64_t>(hn::Lanes(kFloats))) {
    for (size_t i = 0; i < hn::Lanes(kFloats); ++i) {
      padded[i] = static_cast<int64_t>(i) < count ? bits[i] : 0;
    }
    bits = padded;
  }
  const auto wide = hn::PromoteTo(kInts, hn::LoadU(kHalves, bits));
  return hn::BitCast(kFloats, hn::ShiftLeft<16>(wide));
}

template <typename KV>
HWY_INLINE void Scores(const float* q, int64_t group, int64_t head_dim, const KV* k, int64_t stride,
                       int64_t keys, float* scores, int64_t scores_stride) {
  const int64_t lanes = hn::Lanes(kFloats);
  for (int64_t s = 0; s < keys; s += 4) {
    const KV* rows[4];  // filled up with the last key
    for (int j = 0; j < 4; ++j) rows[j] = k + std::min(s + j, keys - 1) * stride;
    for (int64_t g = 0; g < group; ++g) {
      Floats products[4];
      for (int j = 0; j < 4; ++j) products[j] = hn::Zero(kFloats);
      for (int64_t i = 0; i < head_dim; i += lanes) {
        const Floats query = LoadFirst(q + g * head_dim + i, head_dim - i);
        for (int j = 0; j < 4; ++j) {
          products[j] = hn::MulAdd(query, LoadCached(rows[j] + i, head_dim - i), products[j]);
        }
      }
      float sums[4];
      SumLanes4(products, sums);
      for (int64_t j = 0; j < 4 && s + j < keys; ++j) scores[g * scores_stride + s + j] = sums[j];
    }
  }
}

// Four vectors of `out` stay in registers over all keys.
template <typename KV>
HWY_INLINE void Values(const float* weights, int64_t weights_stride, int64_t group, const KV* v,
                       int64_t stride, int64_t keys, int64_t head_dim, float* out) {
  const int64_t lanes = hn::Lanes(kFloats);
  for (int64_t g = 0; g < group; ++g) {
    const float* row = weights + g * weights_stride;
    for (int64_t i = 0; i < head_dim; i += 4 * lanes) {
      HWY_ALIGN float sums[4 * hn::MaxLanes(kFloats)];
      const int64_t width = std::min(4 * lanes, head_dim - i);
      float* target = out + g * head_dim + i;
      std::copy_n(target, width, sums);
      Floats sum[4];
      for (int j = 0; j < 4; ++j) sum[j] = hn::Load(kFloats, sums + j * lanes);
      for (int64_t s = 0; s < keys; ++s) {
        const Floats weight = hn::Set(kFloats, row[s]);
        for (int j = 0; j < 4; ++j) {
          if (j * lanes >= width) break;
          const KV* value = v + s * stride + i + j * lanes;
          sum[j] = hn::MulAdd(weight, LoadCached(value, width - j * lanes), sum[j]);
        }
      }
      for (int j = 0; j < 4; ++j) hn::Store(sum[j], kFloats, sums + j * lanes);
      std::copy_n(sums, width, target);
    }
  }
}

void FloatScores(const float* q, int64_t group, int64_t head_dim, const float* k, int64_t stride,
                 int64_t keys, float* scores, int64_t scores_stride) {
  Scores(q, group, head_dim, k, stride, keys, scores, scores_stride);
}
void HalfScores(const float* q, int64_t group, int64_t head_dim, const BFloat16* k, int64_t stride,
                int64_t keys, float* scores, int64_t scores_stride) {
  Scores(q, group, head_dim, k, stride, keys, scores, scores_stride);
}
void FloatValues(const float* weights, int64_t weights_stride, int64_t group, const float* v,
                 int64_t stride, int64_t keys, int64_t head_dim, float* out) {
  Values(weights, weights_stride, group, v, stride, keys, head_dim, out);
}
void HalfValues(const float* weights, int64_t weights_stride, int64_t group, const BFloat16* v,
                int64_t stride, int64_t keys, int64_t head_dim, float* out) {
  Values(weights, weights_stride, group, v, stride, keys, head_dim, out);
}

}  // namespace lorad::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorad::cpu {

HWY_EXPORT(FloatScores);
HWY_EXPORT(HalfScores);
HWY_EXPORT(FloatValues);
HWY_EXPORT(HalfValues);

namespace {

double Wide(double value) { return value; }
double Wide(BFloat16 value) { return ToFloat(value); }

template <typename KV>
void DoubleScores(const double* q, int64_t group, int64_t head_dim, const KV* k, int64_t stride,
                  int64_t keys, double* scores, int64_t scores_stride) {
  for (int64_t g = 0; g < group; ++g) {
    for (int64_t s = 0; s < keys; ++s) {
      double sum = 0;
      for (int64_t i = 0; i < head_dim; ++i) sum += q[g * head_dim + i] * Wide(k[s * stride + i]);
      scores[g * scores_stride + s] = sum;
    }
  }
}

template <typename KV>
void DoubleValues(const double* weights, int64_t weights_stride, int64_t group, const KV* v,
                  int64_t stride, int64_t keys, int64_t head_dim, double* out) {
  for (int64_t g = 0; g < group; ++g) {
    for (int64_t s = 0; s < keys; ++s) {
      const double weight = weights[g * weights_stride + s];
      for (int64_t i = 0; i < head_dim; ++i) {
        out[g * head_dim + i] += weight * Wide(v[s * stride + i]);
      }
    }
  }
}

}  // namespace

void KeyScores(const float* q, int64_t group, int64_t head_dim, const float* k, int64_t stride,
               int64_t keys, float* scores, int64_t scores_stride) {
  HWY_DYNAMIC_DISPATCH(FloatScores)(q, group, head_dim, k, stride, keys, scores, scores_stride);
}
void KeyScores(const float* q, int64_t group, int64_t head_dim, const BFloat16* k, int64_t stride,
               int64_t keys, float* scores, int64_t scores_stride) {
  HWY_DYNAMIC_DISPATCH(HalfScores)(q, group, head_dim, k, stride, keys, scores, scores_stride);
}
void KeyScores(const double* q, int64_t group, int64_t head_dim, const double* k, int64_t stride,
               int64_t keys, double* scores, int64_t scores_stride) {
  DoubleScores(q, group, head_dim, k, stride, keys, scores, scores_stride);
}
void KeyScores(const double* q, int64_t group, int64_t head_dim, const BFloat16* k, int64_t stride,
               int64_t keys, double* scores, int64_t scores_stride) {
  DoubleScores(q, group, head_dim, k, stride, keys, scores, scores_stride);
}
void AddValues(const float* weights, int64_t weights_stride, int64_t group, const float* v,
               int64_t stride, int64_t keys, int64_t head_dim, float* out) {
  HWY_DYNAMIC_DISPATCH(FloatValues)(weights, weights_stride, group, v, stride, keys, head_dim, out);
}
void AddValues(const float* weights, int64_t weights_stride, int64_t group, const BFloat16* v,
               int64_t stride, int64_t keys, int64_t head_dim, float* out) {
  HWY_DYNAMIC_DISPATCH(HalfValues)(weights, weights_stride, group, v, stride, keys, head_dim, out);
}
void AddValues(const double* weights, int64_t weights_stride, int64_t group, const double* v,
               int64_t stride, int64_t keys, int64_t head_dim, double* out) {
  DoubleValues(weights, weights_stride, group, v, stride, keys, head_dim, out);
}
void AddValues(const double* weights, int64_t weights_stride, int64_t group, const BFloat16* v,
               int64_t stride, int64_t keys, int64_t head_dim, double* out) {
  DoubleValues(weights, weights_stride, group, v, stride, keys, head_dim, out);
}

}  // namespace lorad::cpu
#endif  // HWY_ONCE
