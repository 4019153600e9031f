// Attention over the paged KV cache, one query row at a time: a row's result depends on its own
// sequence alone, however the prompt was cut and whoever shares the step.
#include <algorithm>
#include <vector>

#include "engine/ops/cpu/kernels.h"
#include "engine/ops/cpu/vector_math.h"

namespace lorad::cpu {
namespace {

// One query row at `position` of sequence `s`, all heads.
template <typename T>
void AttendRow(const PagedAttentionArgs& args, int64_t s, int64_t t, int64_t position,
               std::vector<T>& scores) {
  const int64_t heads = args.q.shape[1], head_dim = args.q.shape[2];
  const int64_t page_tokens = args.k_cache.shape[1], kv_heads = args.k_cache.shape[2];
  const int64_t group = heads / kv_heads;
  const int32_t* pages = args.page_table.as<int32_t>() + s * args.page_table.shape[1];
  const auto row = [&](const T* cache, int64_t key, int64_t kv_head) {
    const int64_t slot = pages[key / page_tokens] * page_tokens + key % page_tokens;
    return cache + (slot * kv_heads + kv_head) * head_dim;
  };
  const T* k_cache = args.k_cache.as<T>();
  const T* v_cache = args.v_cache.as<T>();
  scores.resize(position + 1);
  for (int64_t h = 0; h < heads; ++h) {
    const T* q = args.q.as<T>() + (t * heads + h) * head_dim;
    T* o = args.o.as<T>() + (t * heads + h) * head_dim;
    for (int64_t key = 0; key <= position; ++key) {
      scores[key] = static_cast<T>(args.scale) * Dot(q, row(k_cache, key, h / group), head_dim);
    }
    const T largest = *std::max_element(scores.begin(), scores.end());
    const T sum = ExpSum(largest, scores.data(), position + 1);
    std::fill(o, o + head_dim, T{0});
    for (int64_t key = 0; key <= position; ++key) {
      Axpy(scores[key] / sum, row(v_cache, key, h / group), o, head_dim);
    }
  }
}

}  // namespace

template <typename T>
void PagedAttention(const PagedAttentionArgs& args, ThreadPool& pool) {
  const int32_t* starts = args.cu_seqlens.as<int32_t>();
  const int32_t* lengths = args.context_lens.as<int32_t>();
  const int64_t sequences = args.cu_seqlens.shape[0] - 1;
  std::vector<int64_t> sequence_of(args.q.shape[0]);
  for (int64_t s = 0; s < sequences; ++s) {
    std::fill(sequence_of.begin() + starts[s], sequence_of.begin() + starts[s + 1], s);
  }
  pool.For(args.q.shape[0], 1, [&](int64_t begin, int64_t end) {
    std::vector<T> scores;
    for (int64_t t = begin; t < end; ++t) {
      const int64_t s = sequence_of[t];
      AttendRow<T>(args, s, t, lengths[s] - (starts[s + 1] - t), scores);
    }
  });
}

template <typename T>
void KvWrite(const KvWriteArgs& args) {
  const int64_t width = args.k.shape[1] * args.k.shape[2];
  const int64_t* slots = args.slots.as<int64_t>();
  for (int64_t t = 0; t < args.k.shape[0]; ++t) {
    std::copy_n(args.k.as<T>() + t * width, width, args.k_cache.as<T>() + slots[t] * width);
    std::copy_n(args.v.as<T>() + t * width, width, args.v_cache.as<T>() + slots[t] * width);
  }
}

template void PagedAttention<float>(const PagedAttentionArgs&, ThreadPool&);
template void PagedAttention<double>(const PagedAttentionArgs&, ThreadPool&);
template void KvWrite<float>(const KvWriteArgs&);
template void KvWrite<double>(const KvWriteArgs&);

}  // namespace lorad::cpu
