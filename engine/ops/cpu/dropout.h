// The dropout mask that engine/ops/linear.h defines.
#ifndef LORAD_ENGINE_OPS_CPU_DROPOUT_H_
#define LORAD_ENGINE_OPS_CPU_DROPOUT_H_

#include <cstdint>

#include "engine/core/philox.h"
#include "engine/ops/linear.h"

namespace lorad::cpu {

// out[i] = mask(token, i) ? x[i] / (1 - p) : 0, or += when `accumulate`. For the input of A
// forward, and for the gradient that comes back through it. out may alias x when not accumulating.
template <typename T>
void DropRow(const LoraDropout& dropout, int64_t token, const T* x, int64_t count, bool accumulate,
             T* out) {
  const uint64_t key = dropout.token_keys.as<uint64_t>()[token];
  const uint32_t low = static_cast<uint32_t>(key);
  const uint32_t high = static_cast<uint32_t>(key >> 32) << 14;
  const T keep_scale = T{1} / (T{1} - dropout.probability);
  for (int64_t i = 0; i < count; i += 4) {
    const PhiloxBlock block = Philox4x32(dropout.seed, dropout.step, dropout.module, low,
                                         high ^ static_cast<uint32_t>(i / 4));
    for (int64_t j = i; j < i + 4 && j < count; ++j) {
      const bool kept = UniformFloat(block.words[j - i]) >= dropout.probability;
      const T value = kept ? x[j] * keep_scale : T{0};
      out[j] = accumulate ? out[j] + value : value;
    }
  }
}

}  // namespace lorad::cpu

#endif  // LORAD_ENGINE_OPS_CPU_DROPOUT_H_
