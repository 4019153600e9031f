#include <algorithm>
#include <vector>

#include "engine/ops/cpu/kernels.h"
#include "engine/ops/cpu/vector_math.h"

namespace lorad::cpu {

template <typename T>
void Rope(const RopeArgs& args, RopeTable<T>& table, ThreadPool& pool, FlopMeter flops) {
  const int64_t tokens = args.x.shape[0], heads = args.x.shape[1], head_dim = args.x.shape[2];
  const int64_t half = head_dim / 2;
  if (tokens == 0) return;
  const int32_t* positions = args.positions.as<int32_t>();
  table.Prepare(args.inv_freq.as<float>(), half, *std::max_element(positions, positions + tokens));
  const int64_t grain = std::max<int64_t>(1, 16384 / (heads * head_dim + 1));
  pool.For(tokens, grain, [&](int64_t begin, int64_t end) {
    std::vector<T> spare, negated(half);
    for (int64_t t = begin; t < end; ++t) {
      const T* cosine = table.Row(positions[t], spare);
      const T* sine = cosine + half;
      if (args.inverse) {
        std::transform(sine, sine + half, negated.begin(), [](T value) { return -value; });
        sine = negated.data();
      }
      for (int64_t h = 0; h < heads; ++h) {
        T* x = args.x.as<T>() + (t * heads + h) * head_dim;
        Rotate(cosine, sine, x, x + half, half);
      }
    }
    const int64_t rotated = (end - begin) * heads * half;  // pairs
    flops.Add(FlopOp::kRope, args.inverse ? FlopPass::kBackward : FlopPass::kForward, 6 * rotated);
  });
}

template void Rope<float>(const RopeArgs&, RopeTable<float>&, ThreadPool&, FlopMeter);
template void Rope<double>(const RopeArgs&, RopeTable<double>&, ThreadPool&, FlopMeter);

}  // namespace lorad::cpu
