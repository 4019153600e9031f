#include <cmath>
#include <vector>

#include "engine/ops/cpu/kernels.h"

namespace lorad::cpu {

template <typename T>
void Rope(const RopeArgs& args, ThreadPool& pool) {
  const int64_t heads = args.x.shape[1], head_dim = args.x.shape[2], half = head_dim / 2;
  const int32_t* positions = args.positions.as<int32_t>();
  const float* inv_freq = args.inv_freq.as<float>();
  pool.For(args.x.shape[0], 16, [&](int64_t begin, int64_t end) {
    std::vector<T> cosine(half), sine(half);
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t i = 0; i < half; ++i) {
        // The angle is rounded to fp32, as transformers computes it.
        const float angle = static_cast<float>(positions[t]) * inv_freq[i];
        cosine[i] = std::cos(static_cast<T>(angle));
        sine[i] = args.inverse ? -std::sin(static_cast<T>(angle)) : std::sin(static_cast<T>(angle));
      }
      for (int64_t h = 0; h < heads; ++h) {
        T* x = args.x.as<T>() + (t * heads + h) * head_dim;
        for (int64_t i = 0; i < half; ++i) {
          const T first = x[i], second = x[i + half];
          x[i] = first * cosine[i] - second * sine[i];
          x[i + half] = second * cosine[i] + first * sine[i];
        }
      }
    }
  });
}

template void Rope<float>(const RopeArgs&, ThreadPool&);
template void Rope<double>(const RopeArgs&, ThreadPool&);

}  // namespace lorad::cpu
