// Attention over the paged KV cache, one query row at a time: a row's result depends on its own
// sequence alone, however the prompt was cut and whoever shares the step. Vectorised over head_dim,
// four keys at a time; bound by reading the keys and values of the context once a row and kv head.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "engine/core/float16.h"
#include "engine/ops/cpu/kernels.h"
#include "engine/ops/cpu/paged_kernels.h"
#include "engine/ops/cpu/vector_math.h"

namespace lorad::cpu {
namespace {

// One sequence's pages of one cache, for one kv head.
template <typename KV>
struct Pages {
  const KV* cache;  // of the kv head
  const int32_t* pages;
  int64_t page_tokens;
  int64_t page_stride;  // elements between pages

  // body(first key, keys, data) for the runs of keys [0, count) that lie together.
  template <typename Body>
  void ForRuns(int64_t count, const Body& body) const {
    for (int64_t key = 0; key < count; key += page_tokens) {
      const int64_t page = pages[key / page_tokens];
      body(key, std::min(page_tokens, count - key), cache + page * page_stride);
    }
  }
};

template <typename T, typename KV>
struct PagedRun {
  const PagedAttentionArgs& args;
  const FlopMeter flops;
  int64_t heads, head_dim, kv_heads, group;

  PagedRun(const PagedAttentionArgs& a, FlopMeter meter)
      : args(a),
        flops(meter),
        heads(a.q.shape[1]),
        head_dim(a.q.shape[2]),
        kv_heads(a.k_cache.shape[2]),
        group(heads / kv_heads) {}

  Pages<KV> PagesOf(const ConstTensorView& cache, int64_t sequence, int64_t kv_head) const {
    return {cache.as<KV>() + kv_head * head_dim,
            args.page_table.as<int32_t>() + sequence * args.page_table.shape[1], cache.shape[1],
            cache.stride()};
  }

  // Row `t` of q, which sees `keys` keys of `sequence`: the query heads of one kv head.
  void Attend(int64_t sequence, int64_t t, int64_t keys, int64_t kv_head,
              std::vector<T>& scores) const {
    const int64_t offset = (t * heads + kv_head * group) * head_dim;
    const T* q = args.q.as<T>() + offset;
    T* o = args.o.as<T>() + offset;
    scores.resize(group * keys);
    PagesOf(args.k_cache, sequence, kv_head)
        .ForRuns(keys, [&](int64_t key, int64_t count, const KV* k) {
          KeyScores(q, group, head_dim, k, kv_heads * head_dim, count, scores.data() + key, keys);
        });
    std::fill_n(o, group * head_dim, T{0});
    std::vector<T> sums(group);
    for (int64_t g = 0; g < group; ++g) {
      T* row = scores.data() + g * keys;
      const T scale = static_cast<T>(args.scale);
      sums[g] = ExpSum(scale, scale * Max(row, keys), row, keys);
    }
    PagesOf(args.v_cache, sequence, kv_head)
        .ForRuns(keys, [&](int64_t key, int64_t count, const KV* v) {
          AddValues(scores.data() + key, keys, group, v, kv_heads * head_dim, count, head_dim, o);
        });
    for (int64_t g = 0; g < group; ++g) Scale(T{1} / sums[g], o + g * head_dim, head_dim);
    flops.Forward(FlopOp::kScores, 2 * group * keys * head_dim);
    flops.Forward(FlopOp::kSoftmax, group * (4 * keys + 2 + head_dim));
    flops.Forward(FlopOp::kValues, 2 * group * keys * head_dim);
  }
};

constexpr int64_t kWorkWorthThreads = 1 << 17;  // products of scores: some 10 microseconds

template <typename T, typename KV>
void RunPagedAttention(const PagedAttentionArgs& args, ThreadPool& pool, FlopMeter flops) {
  const PagedRun<T, KV> run(args, flops);
  const int32_t* starts = args.cu_seqlens.as<int32_t>();
  const int32_t* lengths = args.context_lens.as<int32_t>();
  struct Row {
    int64_t sequence, keys;
  };
  std::vector<Row> rows(args.q.shape[0]);
  int64_t all_keys = 0;
  for (int64_t s = 0; s + 1 < args.cu_seqlens.shape[0]; ++s) {
    for (int64_t t = starts[s]; t < starts[s + 1]; ++t) {
      rows[t] = {s, lengths[s] - (starts[s + 1] - t) + 1};
      all_keys += rows[t].keys;
    }
  }
  const int64_t items = args.q.shape[0] * run.kv_heads;
  std::vector<std::vector<T>> scores(pool.num_threads());
  const auto attend = [&](int64_t i, int thread) {
    const int64_t t = i / run.kv_heads;
    run.Attend(rows[t].sequence, t, rows[t].keys, i % run.kv_heads, scores[thread]);
  };
  if (all_keys * run.heads * run.head_dim < kWorkWorthThreads) {
    for (int64_t i = 0; i < items; ++i) attend(i, 0);
  } else {
    pool.ForEach(items, attend);
  }
}

template <typename T, typename KV>
void WriteRow(const T* from, int64_t width, KV* to) {
  if constexpr (std::is_same_v<T, KV>) {
    std::copy_n(from, width, to);
  } else {
    std::transform(from, from + width, to,
                   [](T value) { return ToBFloat16(static_cast<float>(value)); });
  }
}

template <typename T, typename KV>
void RunKvWrite(const KvWriteArgs& args) {
  const int64_t width = args.k.shape[1] * args.k.shape[2];
  const int64_t* slots = args.slots.as<int64_t>();
  const auto place = [&](const TensorView& cache, int64_t slot) {
    const int64_t page_tokens = cache.shape[1];
    return cache.as<KV>() + slot / page_tokens * cache.stride() + slot % page_tokens * width;
  };
  for (int64_t t = 0; t < args.k.shape[0]; ++t) {
    WriteRow(args.k.as<T>() + t * width, width, place(args.k_cache, slots[t]));
    WriteRow(args.v.as<T>() + t * width, width, place(args.v_cache, slots[t]));
  }
}

}  // namespace

template <typename T>
void PagedAttention(const PagedAttentionArgs& args, ThreadPool& pool, FlopMeter flops) {
  if (args.k_cache.dtype == DType::kBF16) return RunPagedAttention<T, BFloat16>(args, pool, flops);
  RunPagedAttention<T, T>(args, pool, flops);
}

template <typename T>
void KvWrite(const KvWriteArgs& args) {
  if (args.k_cache.dtype == DType::kBF16) return RunKvWrite<T, BFloat16>(args);
  RunKvWrite<T, T>(args);
}

template void PagedAttention<float>(const PagedAttentionArgs&, ThreadPool&, FlopMeter);
template void PagedAttention<double>(const PagedAttentionArgs&, ThreadPool&, FlopMeter);
template void KvWrite<float>(const KvWriteArgs&);
template void KvWrite<double>(const KvWriteArgs&);

}  // namespace lorad::cpu
