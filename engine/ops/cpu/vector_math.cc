#include "engine/ops/cpu/vector_math.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/ops/cpu/vector_math.cc"
#include "hwy/foreach_target.h"  // NOLINT: compiles the rest once per target
//
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lorad::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
constexpr hn::ScalableTag<float> kFloats;

float Dot(const float* a, const float* b, int64_t count) {
  const int64_t lanes = hn::Lanes(kFloats);
  auto sum0 = hn::Zero(kFloats), sum1 = hn::Zero(kFloats);
  int64_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    sum0 = hn::MulAdd(hn::LoadU(kFloats, a + i), hn::LoadU(kFloats, b + i), sum0);
    sum1 = hn::MulAdd(hn::LoadU(kFloats, a + i + lanes), hn::LoadU(kFloats, b + i + lanes), sum1);
  }
  for (; i + lanes <= count; i += lanes) {
    sum0 = hn::MulAdd(hn::LoadU(kFloats, a + i), hn::LoadU(kFloats, b + i), sum0);
  }
  float total = hn::GetLane(hn::SumOfLanes(kFloats, hn::Add(sum0, sum1)));
  for (; i < count; ++i) total += a[i] * b[i];
  return total;
}

void Axpy(float alpha, const float* x, float* y, int64_t count) {
  const int64_t lanes = hn::Lanes(kFloats);
  const auto factor = hn::Set(kFloats, alpha);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    hn::StoreU(hn::MulAdd(factor, hn::LoadU(kFloats, x + i), hn::LoadU(kFloats, y + i)), kFloats,
               y + i);
  }
  for (; i < count; ++i) y[i] = std::fma(alpha, x[i], y[i]);
}

// The last, partial vector goes through a padded copy, so that its lanes see the same arithmetic.
template <typename Body>
void ForVectors(int64_t count, const Body& body) {
  const int64_t lanes = hn::Lanes(kFloats);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) body(i, lanes);
  if (i < count) body(i, count - i);
}
HWY_INLINE auto LoadPart(const float* x, int64_t count) {
  const int64_t lanes = hn::Lanes(kFloats);
  if (count == lanes) return hn::LoadU(kFloats, x);
  HWY_ALIGN float padded[HWY_MAX_BYTES / sizeof(float)] = {};
  for (int64_t i = 0; i < count; ++i) padded[i] = x[i];
  return hn::Load(kFloats, padded);
}
template <typename V>
HWY_INLINE void StorePart(V value, float* x, int64_t count) {
  const int64_t lanes = hn::Lanes(kFloats);
  if (count == lanes) return hn::StoreU(value, kFloats, x);
  HWY_ALIGN float padded[HWY_MAX_BYTES / sizeof(float)];
  hn::Store(value, kFloats, padded);
  for (int64_t i = 0; i < count; ++i) x[i] = padded[i];
}

float ExpSum(float shift, float* x, int64_t count) {
  const auto offset = hn::Set(kFloats, shift);
  auto sum = hn::Zero(kFloats);
  float tail = 0;
  ForVectors(count, [&](int64_t i, int64_t part) {
    const auto value = hn::Exp(kFloats, hn::Sub(LoadPart(x + i, part), offset));
    StorePart(value, x + i, part);
    if (part == static_cast<int64_t>(hn::Lanes(kFloats))) {
      sum = hn::Add(sum, value);
    } else {
      for (int64_t j = 0; j < part; ++j) tail += x[i + j];
    }
  });
  return hn::GetLane(hn::SumOfLanes(kFloats, sum)) + tail;
}

template <typename V>
HWY_INLINE V Sigmoid(V x) {
  const auto one = hn::Set(kFloats, 1.0f);
  return hn::Div(one, hn::Add(one, hn::Exp(kFloats, hn::Neg(x))));
}

void SiluMul(const float* gate, const float* up, float* out, int64_t count) {
  ForVectors(count, [&](int64_t i, int64_t part) {
    const auto g = LoadPart(gate + i, part);
    StorePart(hn::Mul(hn::Mul(g, Sigmoid(g)), LoadPart(up + i, part)), out + i, part);
  });
}

void SiluMulGrad(const float* dout, const float* gate, const float* up, float* dgate, float* dup,
                 int64_t count) {
  const auto one = hn::Set(kFloats, 1.0f);
  ForVectors(count, [&](int64_t i, int64_t part) {
    const auto d = LoadPart(dout + i, part), g = LoadPart(gate + i, part),
               u = LoadPart(up + i, part);
    const auto s = Sigmoid(g);
    const auto slope = hn::Mul(s, hn::MulAdd(g, hn::Sub(one, s), one));
    StorePart(hn::Mul(hn::Mul(d, u), slope), dgate + i, part);
    StorePart(hn::Mul(hn::Mul(d, g), s), dup + i, part);
  });
}

}  // namespace lorad::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorad::cpu {

HWY_EXPORT(Dot);
HWY_EXPORT(Axpy);
HWY_EXPORT(ExpSum);
HWY_EXPORT(SiluMul);
HWY_EXPORT(SiluMulGrad);

float Dot(const float* a, const float* b, int64_t count) {
  return HWY_DYNAMIC_DISPATCH(Dot)(a, b, count);
}
void Axpy(float alpha, const float* x, float* y, int64_t count) {
  HWY_DYNAMIC_DISPATCH(Axpy)(alpha, x, y, count);
}
float ExpSum(float shift, float* x, int64_t count) {
  return HWY_DYNAMIC_DISPATCH(ExpSum)(shift, x, count);
}
void SiluMul(const float* gate, const float* up, float* out, int64_t count) {
  HWY_DYNAMIC_DISPATCH(SiluMul)(gate, up, out, count);
}
void SiluMulGrad(const float* dout, const float* gate, const float* up, float* dgate, float* dup,
                 int64_t count) {
  HWY_DYNAMIC_DISPATCH(SiluMulGrad)(dout, gate, up, dgate, dup, count);
}

double Dot(const double* a, const double* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}
void Axpy(double alpha, const double* x, double* y, int64_t count) {
  for (int64_t i = 0; i < count; ++i) y[i] += alpha * x[i];
}
double ExpSum(double shift, double* x, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += x[i] = std::exp(x[i] - shift);
  return sum;
}
void SiluMul(const double* gate, const double* up, double* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
}
void SiluMulGrad(const double* dout, const double* gate, const double* up, double* dgate,
                 double* dup, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const double d = dout[i], g = gate[i], u = up[i], s = 1 / (1 + std::exp(-g));
    dgate[i] = d * u * s * (1 + g * (1 - s));
    dup[i] = d * g * s;
  }
}

}  // namespace lorad::cpu
#endif  // HWY_ONCE
