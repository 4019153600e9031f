// Vector loops with run-time dispatch to the processor's widest instructions (Highway), and their
// double versions in plain C++.
#ifndef LORAD_ENGINE_OPS_CPU_VECTOR_MATH_H_
#define LORAD_ENGINE_OPS_CPU_VECTOR_MATH_H_

#include <cstdint>

namespace lorad::cpu {

// sum of a[i] * b[i], in an order that depends on count alone.
float Dot(const float* a, const float* b, int64_t count);
double Dot(const double* a, const double* b, int64_t count);

// y += alpha * x
void Axpy(float alpha, const float* x, float* y, int64_t count);
void Axpy(double alpha, const double* x, double* y, int64_t count);

// x[i] = exp(x[i] - shift); returns the sum. Error of each exp: below 4 ulp.
float ExpSum(float shift, float* x, int64_t count);
double ExpSum(double shift, double* x, int64_t count);

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
