#include <cstring>

#include "tests/unit/engine/ops/op_fixture.h"

namespace lorad {
namespace {

constexpr int64_t kPageTokens = 4, kPages = 40;

// A cache whose pages are handed out in a mixed order, and sequences that have run to some length.
template <typename T, typename KV>
struct Cache {
  int64_t kv_heads, head_dim;
  Tensor<KV> k, v;

  Cache(int64_t heads, int64_t d)
      : kv_heads(heads), head_dim(d), k({kPages, kPageTokens, heads, d}), v(k.shape) {
    // What was never written must not be read into a result.
    std::memset(k.data.data(), 0xff, k.data.size() * sizeof(KV));
    std::memset(v.data.data(), 0xff, v.data.size() * sizeof(KV));
  }
  // Page i of sequence s: distinct over all of them.
  static int32_t Page(int64_t s, int64_t i) { return static_cast<int32_t>((s * 13 + i * 7) % 37); }
  static int64_t Slot(int64_t s, int64_t position) {
    return Page(s, position / kPageTokens) * kPageTokens + position % kPageTokens;
  }
  absl::Status Write(OpRunner<T>& run, int64_t s, const Tensor<T>& keys, const Tensor<T>& values) {
    Tensor<int64_t> slots({keys.shape[0]});
    for (int64_t t = 0; t < keys.shape[0]; ++t) slots.data[t] = Slot(s, t);
    return run.ops().KvWrite({keys.View(), values.View(), slots.View(), k.View(), v.View()},
                             run.stream());
  }
};

// New rows of one sequence, the last at position context - 1.
template <typename T>
struct Rows {
  int64_t sequence, context;
  Tensor<T> q;
};

template <typename T, typename KV>
Tensor<T> Attend(OpRunner<T>& run, Cache<T, KV>& cache, const std::vector<Rows<T>>& batch,
                 float scale = 0.4f) {
  const int64_t n = static_cast<int64_t>(batch.size());
  Tensor<int32_t> table({n, 8}), contexts({n}), cu({n + 1});
  std::vector<T> q;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t page = 0; page < 8; ++page) {
      table.row(i)[page] = page * kPageTokens < batch[i].context
                               ? Cache<T, KV>::Page(batch[i].sequence, page)
                               : 1 << 30;  // must not be read
    }
    contexts.data[i] = static_cast<int32_t>(batch[i].context);
    cu.data[i + 1] = cu.data[i] + static_cast<int32_t>(batch[i].q.shape[0]);
    q.insert(q.end(), batch[i].q.data.begin(), batch[i].q.data.end());
  }
  const Tensor<T> queries({cu.data[n], batch[0].q.shape[1], cache.head_dim}, q);
  Tensor<T> o(queries.shape);
  EXPECT_OK(run.ops().PagedAttention({queries.View(), cache.k.View(), cache.v.View(), table.View(),
                                      contexts.View(), cu.View(), o.View(), scale},
                                     run.stream()));
  return o;
}

template <typename T>
Tensor<T> Slice(const Tensor<T>& from, int64_t begin, int64_t end) {
  return {{end - begin, from.shape[1], from.shape[2]},
          std::vector<T>(from.row(begin), from.row(end))};
}

TEST(KvWriteTest, PutsRowsWhereSlotsSay) {
  OpRunner<float> run;
  Tensor<float> k({2, 1, 2}, {1, 2, 3, 4}), v({2, 1, 2}, {5, 6, 7, 8});
  const Tensor<int64_t> slots({2}, {3, 0});
  Tensor<float> k_cache({2, 2, 1, 2}), v_cache({2, 2, 1, 2});
  ASSERT_OK(run.ops().KvWrite({k.View(), v.View(), slots.View(), k_cache.View(), v_cache.View()},
                              run.stream()));
  EXPECT_EQ(k_cache.data, (std::vector<float>{3, 4, 0, 0, 0, 0, 1, 2}));
  EXPECT_EQ(v_cache.data, (std::vector<float>{7, 8, 0, 0, 0, 0, 5, 6}));
  Tensor<BFloat16> k_half({2, 2, 1, 2}), v_half({2, 2, 1, 2});
  k.data[0] = 1.00390625f;  // half way between two bf16 numbers: to even, 1
  ASSERT_OK(run.ops().KvWrite({k.View(), v.View(), slots.View(), k_half.View(), v_half.View()},
                              run.stream()));
  EXPECT_EQ(ToFloat(k_half.data[6]), 1.0f);
  EXPECT_EQ(ToFloat(v_half.data[1]), 8.0f);
}

// Prefill at once equals attention over the sequence; T and KV in every combination.
template <typename T, typename KV>
void ExpectPagedEqualsAttention(int64_t heads, int64_t kv_heads, int64_t dim) {
  const int64_t tokens = 23;
  OpRunner<T> run(2);
  Cache<T, KV> cache(kv_heads, dim);
  const Tensor<T> q = Random<T>({tokens, heads, dim}, 1, 2);
  Tensor<T> k = Random<T>({tokens, kv_heads, dim}, 2, 2), v = Random<T>({tokens, kv_heads, dim}, 3);
  ASSERT_OK(cache.Write(run, 1, k, v));
  if (std::is_same_v<KV, BFloat16>) {  // the reference sees what the cache holds
    for (T& value : k.data) value = ToFloat(ToBFloat16(static_cast<float>(value)));
    for (T& value : v.data) value = ToFloat(ToBFloat16(static_cast<float>(value)));
  }
  const Tensor<T> o = Attend(run, cache, {{1, tokens, q}});
  OpRunner<double> wide;
  const auto widen = [](const Tensor<T>& from) {
    return Tensor<double>(from.shape, {from.data.begin(), from.data.end()});
  };
  const Tensor<double> q2 = widen(q), k2 = widen(k), v2 = widen(v);
  Tensor<double> expected(q.shape);
  const Tensor<int32_t> cu({2}, {0, static_cast<int32_t>(tokens)});
  ASSERT_OK(wide.ops().Attention(
      {q2.View(), k2.View(), v2.View(), cu.View(), expected.View(), {}, 0.4f}, wide.stream()));
  // As in attention_test.cc: |q|, |k| < 2, |v| < 1.
  const double d = static_cast<double>(dim);
  const double bound = kUnitRoundoff<T> * 2 * ((d + 2) * 4 * d * 0.4 + tokens + 8);
  ExpectWithin(o.data, expected.data, bound);
}

TEST(PagedAttentionTest, PrefillEqualsAttentionOverTheSequence) {
  ExpectPagedEqualsAttention<float, float>(6, 2, 16);
  ExpectPagedEqualsAttention<float, float>(2, 2, 20);  // no multiple of a vector
  ExpectPagedEqualsAttention<float, float>(1, 1, 128);
  ExpectPagedEqualsAttention<float, BFloat16>(6, 2, 64);
  ExpectPagedEqualsAttention<float, BFloat16>(2, 1, 12);
  ExpectPagedEqualsAttention<double, double>(6, 2, 16);
  ExpectPagedEqualsAttention<double, BFloat16>(6, 2, 16);
}

template <typename KV>
class PagedAttentionBitsTest : public testing::Test {};
using CacheTypes = testing::Types<float, BFloat16>;
TYPED_TEST_SUITE(PagedAttentionBitsTest, CacheTypes);

// A prompt whole, in chunks of any size, or token by token; alone or with others: the same bits.
TYPED_TEST(PagedAttentionBitsTest, NeitherChunksNorBatchShow) {
  const int64_t tokens = 27, heads = 4, kv_heads = 2, dim = 24;
  OpRunner<float> one(1), many(3);
  Cache<float, TypeParam> cache(kv_heads, dim);
  const Tensor<float> q = Random<float>({tokens, heads, dim}, 1, 2);
  for (int64_t s : {0, 1, 2}) {
    const auto seed = static_cast<uint32_t>(10 * s);
    ASSERT_OK(cache.Write(one, s, Random<float>({tokens, kv_heads, dim}, seed, 2),
                          Random<float>({tokens, kv_heads, dim}, seed + 1)));
  }
  const Tensor<float> whole = Attend(one, cache, {{1, tokens, q}});
  for (int64_t chunk : {1, 2, 3, 5, 8, 26}) {
    for (int64_t begin = 0; begin < tokens; begin += chunk) {
      const int64_t end = std::min(begin + chunk, tokens);
      const Tensor<float> rows = Slice(q, begin, end);
      const std::vector<float> expected(whole.row(begin), whole.row(begin) + rows.data.size());
      EXPECT_EQ(Attend(one, cache, {{1, end, rows}}).data, expected) << begin << " to " << end;
      // Between other sequences at other positions.
      const Tensor<float> shared = Attend(
          many, cache, {{0, 9, Slice(q, 3, 5)}, {1, end, rows}, {2, tokens, Slice(q, 0, 17)}});
      EXPECT_EQ(std::vector<float>(shared.row(2), shared.row(2) + rows.data.size()), expected);
    }
  }
}

// Two sequences, with a chunk of a prompt and with one new row.
TEST(RopePagedAttentionTest, IsRopeAndWriteAndAttention) {
  const int64_t heads = 4, kv_heads = 2, dim = 8, rows = 4;
  OpRunner<float> run;
  Cache<float, BFloat16> one(kv_heads, dim), other(kv_heads, dim);
  for (auto* cache : {&one, &other}) {
    ASSERT_OK(cache->Write(run, 1, Random<float>({9, kv_heads, dim}, 1),
                           Random<float>({9, kv_heads, dim}, 2)));
  }
  const Tensor<float> v = Random<float>({rows, kv_heads, dim}, 5);
  Tensor<float> q = Random<float>({rows, heads, dim}, 3), k = Random<float>(v.shape, 4);
  Tensor<float> q2 = q, k2 = k, o(q.shape), o2(q.shape);
  const Tensor<float> inv_freq({dim / 2}, {1, 0.5f, 0.25f, 0.125f});
  const Tensor<int32_t> positions({rows}, {0, 1, 2, 9}), cu({3}, {0, 3, 4}), contexts({2}, {3, 10});
  Tensor<int32_t> table({2, 3});
  Tensor<int64_t> slots({rows});
  for (int64_t t = 0; t < rows; ++t)
    slots.data[t] = Cache<float, BFloat16>::Slot(t / 3, positions.data[t]);
  for (int64_t i = 0; i < 6; ++i) table.data[i] = Cache<float, BFloat16>::Page(i / 3, i % 3);

  Ops& ops = run.ops();
  ASSERT_OK(ops.Rope({q.View(), positions.View(), inv_freq.View()}, run.stream()));
  ASSERT_OK(ops.Rope({k.View(), positions.View(), inv_freq.View()}, run.stream()));
  ASSERT_OK(
      ops.KvWrite({k.View(), v.View(), slots.View(), one.k.View(), one.v.View()}, run.stream()));
  ASSERT_OK(ops.PagedAttention({q.View(), one.k.View(), one.v.View(), table.View(), contexts.View(),
                                cu.View(), o.View(), 0.4f},
                               run.stream()));
  ASSERT_OK(ops.RopePagedAttention(
      {q2.View(), k2.View(), v.View(), positions.View(), inv_freq.View(), slots.View(),
       other.k.View(), other.v.View(), table.View(), contexts.View(), cu.View(), o2.View(), 0.4f},
      run.stream()));
  EXPECT_EQ(o2.data, o.data);
  const auto same = [](BFloat16 a, BFloat16 b) { return a.bits == b.bits; };
  EXPECT_TRUE(std::equal(one.k.data.begin(), one.k.data.end(), other.k.data.begin(), same));
  EXPECT_TRUE(std::equal(one.v.data.begin(), one.v.data.end(), other.v.data.begin(), same));
}

}  // namespace
}  // namespace lorad
