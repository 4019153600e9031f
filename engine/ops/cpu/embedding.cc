#include "engine/core/float16.h"
#include "engine/ops/cpu/kernels.h"

namespace lorad::cpu {

template <typename T>
void Embedding(const EmbeddingArgs& args, ThreadPool& pool) {
  const int32_t* ids = args.ids.as<int32_t>();
  const BFloat16* table = args.table.as<BFloat16>();
  T* out = args.out.as<T>();
  const int64_t hidden = args.table.shape[1];
  pool.For(args.ids.shape[0], 64, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const BFloat16* row = table + ids[t] * hidden;
      for (int64_t i = 0; i < hidden; ++i) out[t * hidden + i] = ToFloat(row[i]);
    }
  });
}

template void Embedding<float>(const EmbeddingArgs&, ThreadPool&);
template void Embedding<double>(const EmbeddingArgs&, ThreadPool&);

}  // namespace lorad::cpu
