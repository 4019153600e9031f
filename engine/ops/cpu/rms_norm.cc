#include <algorithm>
#include <cmath>

#include "engine/ops/cpu/kernels.h"
#include "engine/ops/cpu/vector_math.h"

namespace lorad::cpu {
namespace {

constexpr int64_t kGrainElements = 16384;  // about 5 microseconds: worth waking a thread for

int64_t Grain(int64_t hidden) { return std::max<int64_t>(1, kGrainElements / (hidden + 1)); }

}  // namespace

template <typename T>
void RmsNorm(const RmsNormArgs& args, ThreadPool& pool, FlopMeter flops) {
  const int64_t hidden = args.x.shape[1];
  const float* gamma = args.gamma.as<float>();
  pool.For(args.x.shape[0], Grain(hidden), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const T* x = args.x.as<T>() + t * hidden;
      const double mean = static_cast<double>(Dot(x, x, hidden)) / static_cast<double>(hidden);
      const T inv_rms = static_cast<T>(1.0 / std::sqrt(mean + args.eps));
      ScaleBy(inv_rms, x, gamma, args.y.as<T>() + t * hidden, hidden);
      if (!args.inv_rms.empty()) args.inv_rms.as<T>()[t] = inv_rms;
    }
    flops.Forward(FlopOp::kNorm, (end - begin) * (4 * hidden + 4));
  });
}

template <typename T>
void RmsNormBackward(const RmsNormBackwardArgs& args, ThreadPool& pool, FlopMeter flops) {
  const int64_t hidden = args.x.shape[1];
  const float* gamma = args.gamma.as<float>();
  pool.For(args.x.shape[0], Grain(hidden), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const T* x = args.x.as<T>() + t * hidden;
      const T* dy = args.dy.as<T>() + t * hidden;
      const T inv_rms = args.inv_rms.as<T>()[t];
      // mean(g * n) * n / x = dot * inv_rms^2 / hidden
      const double dot = Dot3(dy, gamma, x, hidden);
      const T shift = static_cast<T>(dot * inv_rms * inv_rms / static_cast<double>(hidden));
      RmsGrad(inv_rms, shift, dy, gamma, x, args.accumulate, args.dx.as<T>() + t * hidden, hidden);
    }
    const int64_t each = args.accumulate ? 8 : 7;
    flops.Backward(FlopOp::kNorm, (end - begin) * (each * hidden + 3));
  });
}

template void RmsNorm<float>(const RmsNormArgs&, ThreadPool&, FlopMeter);
template void RmsNorm<double>(const RmsNormArgs&, ThreadPool&, FlopMeter);
template void RmsNormBackward<float>(const RmsNormBackwardArgs&, ThreadPool&, FlopMeter);
template void RmsNormBackward<double>(const RmsNormBackwardArgs&, ThreadPool&, FlopMeter);

}  // namespace lorad::cpu
