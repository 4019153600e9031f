#include <cmath>

#include "engine/ops/cpu/kernels.h"

namespace lorad::cpu {
namespace {

// Eight partial sums in a fixed order: exact enough, and the compiler makes vectors of them.
template <typename T, typename Term>
double Sum(int64_t count, Term term) {
  T partial[8] = {};
  int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    for (int lane = 0; lane < 8; ++lane) partial[lane] += term(i + lane);
  double total = 0;
  for (; i < count; ++i) total += term(i);
  for (T value : partial) total += value;
  return total;
}

}  // namespace

template <typename T>
void RmsNorm(const RmsNormArgs& args, ThreadPool& pool) {
  const int64_t hidden = args.x.shape[1];
  const float* gamma = args.gamma.as<float>();
  pool.For(args.x.shape[0], 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const T* x = args.x.as<T>() + t * hidden;
      T* y = args.y.as<T>() + t * hidden;
      const double squares = Sum<T>(hidden, [x](int64_t i) { return x[i] * x[i]; });
      const T inv_rms = static_cast<T>(1.0 / std::sqrt(squares / hidden + args.eps));
      for (int64_t i = 0; i < hidden; ++i) y[i] = gamma[i] * (x[i] * inv_rms);
      if (!args.inv_rms.empty()) args.inv_rms.as<T>()[t] = inv_rms;
    }
  });
}

template <typename T>
void RmsNormBackward(const RmsNormBackwardArgs& args, ThreadPool& pool) {
  const int64_t hidden = args.x.shape[1];
  const float* gamma = args.gamma.as<float>();
  pool.For(args.x.shape[0], 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const T* x = args.x.as<T>() + t * hidden;
      const T* dy = args.dy.as<T>() + t * hidden;
      T* dx = args.dx.as<T>() + t * hidden;
      const T inv_rms = args.inv_rms.as<T>()[t];
      const double dot = Sum<T>(hidden, [=](int64_t i) { return dy[i] * gamma[i] * x[i]; });
      // mean(g * n) * n / x = dot * inv_rms^2 / hidden
      const T shift = static_cast<T>(dot * inv_rms * inv_rms / hidden);
      for (int64_t i = 0; i < hidden; ++i) {
        const T gradient = inv_rms * (dy[i] * gamma[i] - x[i] * shift);
        dx[i] = args.accumulate ? dx[i] + gradient : gradient;
      }
    }
  });
}

template void RmsNorm<float>(const RmsNormArgs&, ThreadPool&);
template void RmsNorm<double>(const RmsNormArgs&, ThreadPool&);
template void RmsNormBackward<float>(const RmsNormBackwardArgs&, ThreadPool&);
template void RmsNormBackward<double>(const RmsNormBackwardArgs&, ThreadPool&);

}  // namespace lorad::cpu
