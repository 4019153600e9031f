// Matrix products of the CPU backend, from OpenBLAS, in float and double. Row-major.
#ifndef LORAD_ENGINE_OPS_CPU_GEMM_H_
#define LORAD_ENGINE_OPS_CPU_GEMM_H_

#include <cblas.h>

#include <cstdint>

namespace lorad::cpu {

enum class Op { kNone, kTranspose };

// c [m, n] = alpha * op(a) op(b) + beta * c. ld*: elements between rows as stored. When beta is 0,
// c is not read.
inline void Gemm(Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a,
                 int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  cblas_sgemm(CblasRowMajor, op_a == Op::kNone ? CblasNoTrans : CblasTrans,
              op_b == Op::kNone ? CblasNoTrans : CblasTrans, m, n, k, alpha, a, lda, b, ldb, beta,
              c, ldc);
}
inline void Gemm(Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, double alpha, const double* a,
                 int64_t lda, const double* b, int64_t ldb, double beta, double* c, int64_t ldc) {
  cblas_dgemm(CblasRowMajor, op_a == Op::kNone ? CblasNoTrans : CblasTrans,
              op_b == Op::kNone ? CblasNoTrans : CblasTrans, m, n, k, alpha, a, lda, b, ldb, beta,
              c, ldc);
}

}  // namespace lorad::cpu

#endif  // LORAD_ENGINE_OPS_CPU_GEMM_H_
