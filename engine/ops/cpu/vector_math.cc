#include "engine/ops/cpu/vector_math.h"

#include <algorithm>
#include <cmath>

#include "engine/ops/cpu/highway_targets.h"

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
using Floats = hn::Vec<hn::ScalableTag<float>>;

// The largest argument for which Highway's Exp is specified.
constexpr float kLargestExp = 104.0f;

// The last, partial vector goes through a padded copy, so that its lanes see the same arithmetic.
template <typename Body>
HWY_INLINE void ForVectors(int64_t count, const Body& body) {
  const int64_t lanes = hn::Lanes(kFloats);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) body(i, lanes);
  if (i < count) body(i, count - i);
}
HWY_INLINE Floats LoadPart(const float* x, int64_t count, float padding = 0) {
  const int64_t lanes = hn::Lanes(kFloats);
  if (count == lanes) return hn::LoadU(kFloats, x);
  HWY_ALIGN float padded[HWY_MAX_BYTES / sizeof(float)];
  for (int64_t i = 0; i < lanes; ++i) padded[i] = i < count ? x[i] : padding;
  return hn::Load(kFloats, padded);
}
HWY_INLINE void StorePart(Floats value, float* x, int64_t count) {
  const int64_t lanes = hn::Lanes(kFloats);
  if (count == lanes) return hn::StoreU(value, kFloats, x);
  HWY_ALIGN float padded[HWY_MAX_BYTES / sizeof(float)];
  hn::Store(value, kFloats, padded);
  for (int64_t i = 0; i < count; ++i) x[i] = padded[i];
}
HWY_INLINE float Sum(Floats a, Floats b) {
  return hn::GetLane(hn::SumOfLanes(kFloats, hn::Add(a, b)));
}

float Dot(const float* a, const float* b, int64_t count) {
  const int64_t lanes = hn::Lanes(kFloats);
  Floats sum0 = hn::Zero(kFloats), sum1 = hn::Zero(kFloats);
  int64_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    sum0 = hn::MulAdd(hn::LoadU(kFloats, a + i), hn::LoadU(kFloats, b + i), sum0);
    sum1 = hn::MulAdd(hn::LoadU(kFloats, a + i + lanes), hn::LoadU(kFloats, b + i + lanes), sum1);
  }
  ForVectors(count - i, [&](int64_t j, int64_t part) {
    sum0 = hn::MulAdd(LoadPart(a + i + j, part), LoadPart(b + i + j, part), sum0);
  });
  return Sum(sum0, sum1);
}

float Dot3(const float* a, const float* b, const float* c, int64_t count) {
  Floats sum = hn::Zero(kFloats);
  ForVectors(count, [&](int64_t i, int64_t part) {
    const Floats product = hn::Mul(LoadPart(a + i, part), LoadPart(b + i, part));
    sum = hn::MulAdd(product, LoadPart(c + i, part), sum);
  });
  return Sum(sum, hn::Zero(kFloats));
}

void Axpy(float alpha, const float* x, float* y, int64_t count) {
  const Floats factor = hn::Set(kFloats, alpha);
  ForVectors(count, [&](int64_t i, int64_t part) {
    StorePart(hn::MulAdd(factor, LoadPart(x + i, part), LoadPart(y + i, part)), y + i, part);
  });
}

void Scale(float alpha, float* x, int64_t count) {
  const Floats factor = hn::Set(kFloats, alpha);
  ForVectors(count, [&](int64_t i, int64_t part) {
    StorePart(hn::Mul(factor, LoadPart(x + i, part)), x + i, part);
  });
}

float Max(const float* x, int64_t count) {
  Floats largest = hn::Set(kFloats, x[0]);
  ForVectors(count, [&](int64_t i, int64_t part) {
    largest = hn::Max(largest, LoadPart(x + i, part, /*padding=*/x[0]));
  });
  return hn::GetLane(hn::MaxOfLanes(kFloats, largest));
}

float ExpSum(float scale, float shift, float* x, int64_t count) {
  const Floats factor = hn::Set(kFloats, scale), offset = hn::Set(kFloats, shift);
  Floats sum = hn::Zero(kFloats);
  float tail = 0;
  ForVectors(count, [&](int64_t i, int64_t part) {
    const Floats argument = hn::MulSub(factor, LoadPart(x + i, part), offset);
    const Floats value = hn::Exp(kFloats, hn::Min(argument, hn::Set(kFloats, kLargestExp)));
    StorePart(value, x + i, part);
    if (part == static_cast<int64_t>(hn::Lanes(kFloats))) {
      sum = hn::Add(sum, value);
    } else {
      for (int64_t j = 0; j < part; ++j) tail += x[i + j];
    }
  });
  return Sum(sum, hn::Zero(kFloats)) + tail;
}

void SoftmaxGrad(float scale, float delta, const float* p, float* dp, int64_t count) {
  const Floats factor = hn::Set(kFloats, scale), offset = hn::Set(kFloats, delta);
  ForVectors(count, [&](int64_t i, int64_t part) {
    const Floats difference = hn::Sub(LoadPart(dp + i, part), offset);
    StorePart(hn::Mul(hn::Mul(factor, LoadPart(p + i, part)), difference), dp + i, part);
  });
}

void ScaleBy(float scale, const float* x, const float* gamma, float* y, int64_t count) {
  const Floats factor = hn::Set(kFloats, scale);
  ForVectors(count, [&](int64_t i, int64_t part) {
    const Floats scaled = hn::Mul(LoadPart(x + i, part), factor);
    StorePart(hn::Mul(LoadPart(gamma + i, part), scaled), y + i, part);
  });
}

void RmsGrad(float scale, float shift, const float* dy, const float* gamma, const float* x,
             bool accumulate, float* dx, int64_t count) {
  const Floats factor = hn::Set(kFloats, scale), slope = hn::Set(kFloats, shift);
  ForVectors(count, [&](int64_t i, int64_t part) {
    const Floats g = hn::Mul(LoadPart(dy + i, part), LoadPart(gamma + i, part));
    const Floats value = hn::Mul(factor, hn::NegMulAdd(LoadPart(x + i, part), slope, g));
    StorePart(accumulate ? hn::Add(LoadPart(dx + i, part), value) : value, dx + i, part);
  });
}

void Rotate(const float* c, const float* s, float* x1, float* x2, int64_t count) {
  ForVectors(count, [&](int64_t i, int64_t part) {
    const Floats cosine = LoadPart(c + i, part), sine = LoadPart(s + i, part);
    const Floats first = LoadPart(x1 + i, part), second = LoadPart(x2 + i, part);
    StorePart(hn::Sub(hn::Mul(first, cosine), hn::Mul(second, sine)), x1 + i, part);
    StorePart(hn::Add(hn::Mul(second, cosine), hn::Mul(first, sine)), x2 + i, part);
  });
}

HWY_INLINE Floats Sigmoid(Floats x) {
  const Floats one = hn::Set(kFloats, 1.0f);
  const Floats argument = hn::Min(hn::Neg(x), hn::Set(kFloats, kLargestExp));
  return hn::Div(one, hn::Add(one, hn::Exp(kFloats, argument)));
}

void SiluMul(const float* gate, const float* up, float* out, int64_t count) {
  ForVectors(count, [&](int64_t i, int64_t part) {
    const Floats g = LoadPart(gate + i, part);
    StorePart(hn::Mul(hn::Mul(g, Sigmoid(g)), LoadPart(up + i, part)), out + i, part);
  });
}

void SiluMulGrad(const float* dout, const float* gate, const float* up, float* dgate, float* dup,
                 int64_t count) {
  const Floats one = hn::Set(kFloats, 1.0f);
  ForVectors(count, [&](int64_t i, int64_t part) {
    const Floats d = LoadPart(dout + i, part), g = LoadPart(gate + i, part),
                 u = LoadPart(up + i, part);
    const Floats s = Sigmoid(g);
    const Floats slope = hn::Mul(s, hn::MulAdd(g, hn::Sub(one, s), one));
    StorePart(hn::Mul(hn::Mul(d, u), slope), dgate + i, part);
    StorePart(hn::Mul(hn::Mul(d, g), s), dup + i, part);
  });
}

}  // namespace lorad::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorad::cpu {

HWY_EXPORT(Dot);
HWY_EXPORT(Dot3);
HWY_EXPORT(Axpy);
HWY_EXPORT(Scale);
HWY_EXPORT(Max);
HWY_EXPORT(ExpSum);
HWY_EXPORT(SoftmaxGrad);
HWY_EXPORT(ScaleBy);
HWY_EXPORT(RmsGrad);
HWY_EXPORT(Rotate);
HWY_EXPORT(SiluMul);
HWY_EXPORT(SiluMulGrad);

float Dot(const float* a, const float* b, int64_t count) {
  return HWY_DYNAMIC_DISPATCH(Dot)(a, b, count);
}
float Dot3(const float* a, const float* b, const float* c, int64_t count) {
  return HWY_DYNAMIC_DISPATCH(Dot3)(a, b, c, count);
}
void Axpy(float alpha, const float* x, float* y, int64_t count) {
  HWY_DYNAMIC_DISPATCH(Axpy)(alpha, x, y, count);
}
void Scale(float alpha, float* x, int64_t count) { HWY_DYNAMIC_DISPATCH(Scale)(alpha, x, count); }
float Max(const float* x, int64_t count) { return HWY_DYNAMIC_DISPATCH(Max)(x, count); }
float ExpSum(float scale, float shift, float* x, int64_t count) {
  return HWY_DYNAMIC_DISPATCH(ExpSum)(scale, shift, x, count);
}
void SoftmaxGrad(float scale, float delta, const float* p, float* dp, int64_t count) {
  HWY_DYNAMIC_DISPATCH(SoftmaxGrad)(scale, delta, p, dp, count);
}
void ScaleBy(float scale, const float* x, const float* gamma, float* y, int64_t count) {
  HWY_DYNAMIC_DISPATCH(ScaleBy)(scale, x, gamma, y, count);
}
void RmsGrad(float scale, float shift, const float* dy, const float* gamma, const float* x,
             bool accumulate, float* dx, int64_t count) {
  HWY_DYNAMIC_DISPATCH(RmsGrad)(scale, shift, dy, gamma, x, accumulate, dx, count);
}
void Rotate(const float* c, const float* s, float* x1, float* x2, int64_t count) {
  HWY_DYNAMIC_DISPATCH(Rotate)(c, s, x1, x2, count);
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
double Dot3(const double* a, const float* b, const double* c, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i] * c[i];
  return sum;
}
void Axpy(double alpha, const double* x, double* y, int64_t count) {
  for (int64_t i = 0; i < count; ++i) y[i] += alpha * x[i];
}
void Scale(double alpha, double* x, int64_t count) {
  for (int64_t i = 0; i < count; ++i) x[i] *= alpha;
}
double Max(const double* x, int64_t count) { return *std::max_element(x, x + count); }
double ExpSum(double scale, double shift, double* x, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += x[i] = std::exp(scale * x[i] - shift);
  return sum;
}
void SoftmaxGrad(double scale, double delta, const double* p, double* dp, int64_t count) {
  for (int64_t i = 0; i < count; ++i) dp[i] = scale * p[i] * (dp[i] - delta);
}
void ScaleBy(double scale, const double* x, const float* gamma, double* y, int64_t count) {
  for (int64_t i = 0; i < count; ++i) y[i] = gamma[i] * (x[i] * scale);
}
void RmsGrad(double scale, double shift, const double* dy, const float* gamma, const double* x,
             bool accumulate, double* dx, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const double value = scale * (dy[i] * gamma[i] - x[i] * shift);
    dx[i] = accumulate ? dx[i] + value : value;
  }
}
void Rotate(const double* c, const double* s, double* x1, double* x2, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const double first = x1[i], second = x2[i];
    x1[i] = first * c[i] - second * s[i];
    x2[i] = second * c[i] + first * s[i];
  }
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
