// The dropout mask that engine/ops/linear.h defines.
#ifndef LORAD_ENGINE_OPS_CPU_DROPOUT_H_
#define LORAD_ENGINE_OPS_CPU_DROPOUT_H_

#include <algorithm>
#include <cstdint>

#include "engine/ops/linear.h"

namespace lorad::cpu {

// mask[i] = 1 where element begin + i of the token's input is kept, 0 where it is dropped.
// REQUIRES: begin a multiple of 4.
void DropMask(const LoraDropout& dropout, int64_t token, int64_t begin, int64_t count, float* mask);

// out[i] = kept ? x[i] / (1 - p) : 0, or += when `accumulate`. For the input of A forward, and for
// the gradient that comes back through it. out may alias x when not accumulating.
template <typename T>
void DropRow(const LoraDropout& dropout, int64_t token, const T* x, int64_t count, bool accumulate,
             T* out) {
  constexpr int64_t kPart = 256;
  float mask[kPart];
  const T keep_scale = T{1} / (T{1} - static_cast<T>(dropout.probability));
  for (int64_t begin = 0; begin < count; begin += kPart) {
    const int64_t part = std::min(kPart, count - begin);
    DropMask(dropout, token, begin, part, mask);
    for (int64_t i = 0; i < part; ++i) {
      const T value = x[begin + i] * keep_scale * mask[i];
      out[begin + i] = accumulate ? out[begin + i] + value : value;
    }
  }
}

}  // namespace lorad::cpu

#endif  // LORAD_ENGINE_OPS_CPU_DROPOUT_H_
