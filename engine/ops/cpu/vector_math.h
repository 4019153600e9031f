// Vector loops with run-time dispatch to the processor's widest instructions (Highway), and their
// double versions in plain C++. The order of every sum depends on count alone.
#ifndef LORAD_ENGINE_OPS_CPU_VECTOR_MATH_H_
#define LORAD_ENGINE_OPS_CPU_VECTOR_MATH_H_

#include <cstdint>

namespace lorad::cpu {

// sum of a[i] * b[i]
float Dot(const float* a, const float* b, int64_t count);
double Dot(const double* a, const double* b, int64_t count);

// sum of a[i] * b[i] * c[i]
float Dot3(const float* a, const float* b, const float* c, int64_t count);
double Dot3(const double* a, const float* b, const double* c, int64_t count);

// y += alpha * x
void Axpy(float alpha, const float* x, float* y, int64_t count);
void Axpy(double alpha, const double* x, double* y, int64_t count);

// x *= alpha
void Scale(float alpha, float* x, int64_t count);
void Scale(double alpha, double* x, int64_t count);

// The largest x[i]; REQUIRES: count > 0.
float Max(const float* x, int64_t count);
double Max(const double* x, int64_t count);

// x[i] = exp(scale * x[i] - shift); returns the sum. Error of each exp: below 2 ulp, and that of
// its argument. Results below the smallest normal number may be 0.
float ExpSum(float scale, float shift, float* x, int64_t count);
double ExpSum(double scale, double shift, double* x, int64_t count);

// dp[i] = scale * p[i] * (dp[i] - delta)
void SoftmaxGrad(float scale, float delta, const float* p, float* dp, int64_t count);
void SoftmaxGrad(double scale, double delta, const double* p, double* dp, int64_t count);

// y[i] = gamma[i] * (x[i] * scale); may alias.
void ScaleBy(float scale, const float* x, const float* gamma, float* y, int64_t count);
void ScaleBy(double scale, const double* x, const float* gamma, double* y, int64_t count);

// scale * (dy[i] * gamma[i] - x[i] * shift), added to dx or put there; dx may alias dy.
void RmsGrad(float scale, float shift, const float* dy, const float* gamma, const float* x,
             bool accumulate, float* dx, int64_t count);
void RmsGrad(double scale, double shift, const double* dy, const float* gamma, const double* x,
             bool accumulate, double* dx, int64_t count);

// (x1[i], x2[i]) = (x1[i] c[i] - x2[i] s[i], x2[i] c[i] + x1[i] s[i])
void Rotate(const float* c, const float* s, float* x1, float* x2, int64_t count);
void Rotate(const double* c, const double* s, double* x1, double* x2, int64_t count);

// out = silu(gate) * up; may alias.
void SiluMul(const float* gate, const float* up, float* out, int64_t count);
void SiluMul(const double* gate, const double* up, double* out, int64_t count);

// dgate and dup of engine/ops/swiglu.h; may alias the inputs.
void SiluMulGrad(const float* dout, const float* gate, const float* up, float* dgate, float* dup,
                 int64_t count);
void SiluMulGrad(const double* dout, const double* gate, const double* up, double* dgate,
                 double* dup, int64_t count);

}  // namespace lorad::cpu

#endif  // LORAD_ENGINE_OPS_CPU_VECTOR_MATH_H_
