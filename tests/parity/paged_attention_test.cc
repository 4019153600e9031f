// The paged KV cache on CUDA: writing, attention against the CPU, exactly which keys a row sees,
// and that its bits depend on nothing else.
#include "engine/ops/cuda/paged_attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "engine/device/cuda/cuda_stream.h"
#include "engine/ops/attention.h"
#include "engine/ops/cuda/decode_attention.h"
#include "engine/ops/cuda/paged_attention_ops.h"
#include "engine/ops/cuda/row_product.h"
#include "tests/parity/parity_fixture.h"

namespace lorad {
namespace {

constexpr int32_t kNoPage = 1 << 30;  // must not be read

class PagedAttentionTest : public ParityTest {
 protected:
  // A cache with the same bytes on both sides. Page i of sequence s is an odd mix, and all that was
  // never written is NaN.
  struct Cache {
    int64_t pages, page_tokens, heads, dim, sequence_pages;
    Both<BFloat16> k, v;

    int32_t Page(int64_t s, int64_t i) const {
      return static_cast<int32_t>(((s * sequence_pages + i) * 7 + 3) % pages);
    }
    int64_t Slot(int64_t s, int64_t position) const {
      return Page(s, position / page_tokens) * page_tokens + position % page_tokens;
    }
  };
  // Room for `sequences` of `tokens` each. The number of pages has no factor 7: all differ.
  Cache MakeCache(int64_t sequences, int64_t tokens, int64_t page_tokens, int64_t heads,
                  int64_t dim) {
    Cache cache;
    cache.sequence_pages = (tokens + page_tokens - 1) / page_tokens;
    cache.pages = sequences * cache.sequence_pages;
    if (cache.pages % 7 == 0) ++cache.pages;
    cache.page_tokens = page_tokens, cache.heads = heads, cache.dim = dim;
    const Shape shape = {cache.pages, page_tokens, heads, dim};
    const std::vector<BFloat16> nan(shape.num_elements(), BFloat16{0xffff});
    cache.k = Same<BFloat16>(shape, nan);
    cache.v = Same<BFloat16>(shape, nan);
    return cache;
  }

  // Writes rows [tokens, heads, dim] of sequence s from position 0 on, on both sides. `spare`
  // elements lie between the rows of k and v.
  void Write(Cache& cache, int64_t s, Slices& kv) {
    std::vector<int64_t> slots(kv.rows);
    for (int64_t t = 0; t < kv.rows; ++t) slots[t] = cache.Slot(s, t);
    Both<int64_t> both = Same<int64_t>({kv.rows}, slots);
    ASSERT_OK(cpu().ops().KvWrite({kv.cpu(0), kv.cpu(1), both.cpu(), cache.k.cpu(), cache.v.cpu()},
                                  cpu_stream()));
    ASSERT_OK(cuda().ops().KvWrite(
        {kv.cuda(0), kv.cuda(1), both.cuda(), cache.k.cuda(), cache.v.cuda()}, stream()));
  }
  void Fill(Cache& cache, int64_t sequences, int64_t tokens, uint32_t seed, double scale) {
    const Shape shape = {tokens, cache.heads, cache.dim};
    for (int64_t s = 0; s < sequences; ++s) {
      Slices k = RandomSlices({shape}, 0, seed++, scale), v = RandomSlices({shape}, 0, seed++);
      Slices kv = MakeSlices({shape, shape}, {k.host[0], v.host[0]}, 0);
      Write(cache, s, kv);
    }
  }

  // Some rows of one sequence, the last at position context - 1.
  struct Rows {
    int64_t sequence, context, count;
  };
  struct Batch {
    Both<int32_t> table, contexts, cu;
    int64_t rows = 0;
  };
  Batch MakeBatch(const Cache& cache, const std::vector<Rows>& sequences) {
    const int64_t n = static_cast<int64_t>(sequences.size()), width = cache.sequence_pages + 1;
    std::vector<int32_t> table(n * width, kNoPage), contexts, cu = {0};
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t page = 0; page * cache.page_tokens < sequences[i].context; ++page)
        table[i * width + page] = cache.Page(sequences[i].sequence, page);
      contexts.push_back(static_cast<int32_t>(sequences[i].context));
      cu.push_back(cu.back() + static_cast<int32_t>(sequences[i].count));
    }
    Batch batch;
    batch.rows = cu.back();
    batch.table = Same<int32_t>({n, width}, table);
    batch.contexts = Same<int32_t>({n}, contexts);
    batch.cu = Same<int32_t>({n + 1}, cu);
    return batch;
  }
  static PagedAttentionArgs CudaArgs(const Cache& cache, const Batch& batch,
                                     const ConstTensorView& q, const TensorView& o, float scale) {
    return {q,
            cache.k.cuda(),
            cache.v.cuda(),
            batch.table.cuda(),
            batch.contexts.cuda(),
            batch.cu.cuda(),
            o,
            scale};
  }
  // Rows of q for the batch, in its order; the result has their shape.
  std::vector<float> Attend(const Cache& cache, const std::vector<Rows>& sequences,
                            const std::vector<float>& q, int64_t heads, float scale,
                            int64_t spare = 0) {
    const Batch batch = MakeBatch(cache, sequences);
    const Shape shape = {batch.rows, heads, cache.dim};
    const Slices queries = MakeSlices({shape}, {q}, spare);
    const Slices o = UnwrittenSlices({shape}, spare);
    EXPECT_OK(cuda().ops().PagedAttention(CudaArgs(cache, batch, queries.cuda(0), o.cuda(0), scale),
                                          stream()));
    return FetchSlice(o, 0);
  }

  struct Case {
    int64_t heads, kv_heads, dim, page_tokens, spare;
  };
  void ExpectAgreement(const Case& c, int64_t sequences, int64_t tokens,
                       const std::vector<Rows>& rows, uint32_t seed);
  void ExpectFusedAgrees(const Case& c, const std::vector<int64_t>& contexts);
};

TEST_F(PagedAttentionTest, KvWritePutsRowsWhereSlotsSay) {
  uint32_t seed = 1;
  for (const auto& [heads, dim, page_tokens, spare] :
       {std::array<int64_t, 4>{8, 128, 64, 0}, {2, 64, 16, 64}, {3, 6, 33, 5}, {1, 2, 17, 0}}) {
    Cache cache = MakeCache(3, 100, page_tokens, heads, dim);
    for (int64_t s : {2, 0}) {
      const Shape shape = {77 + s, heads, dim};
      Slices kv = RandomSlices({shape, shape}, spare, seed += 10);
      Write(cache, s, kv);
    }
    const auto same = [](BFloat16 a, BFloat16 b) { return a.bits == b.bits; };
    const std::vector<BFloat16> k = Fetch(cache.k), v = Fetch(cache.v);
    EXPECT_TRUE(std::equal(k.begin(), k.end(), cache.k.host.begin(), same)) << dim;
    EXPECT_TRUE(std::equal(v.begin(), v.end(), cache.v.host.begin(), same)) << dim;
    EXPECT_FALSE(std::equal(k.begin(), k.end(), v.begin(), same));
    EXPECT_EQ(std::count_if(k.begin(), k.end(), [](BFloat16 x) { return x.bits == 0xffff; }),
              (cache.pages * page_tokens - 77 - 79) * heads * dim);
  }
}

// q, k and v are exact in bf16. With u = 2^-8 (kBFloat16Roundoff) and d dimensions, |q| <= a, |k|
// <= b, |v| <= 1:
//   scores    e = 2^-22 (d + 4) scale a b d: fp32 products of both sides (the tensor cores cut at
//             2^-23 of the largest of 16), scaling, and the exponential's 2 units; as a factor of
//             each p, 1 + e
//   p         rounded to bf16, u, above and below the line alike: 2 (u + e) of the mean of |v|,
//             which is below 1
//   sums      2^-22 of a mean of |v| for each key, on both sides and for l as well
//   o         u |o| at the end
void PagedAttentionTest::ExpectAgreement(const Case& c, int64_t sequences, int64_t tokens,
                                         const std::vector<Rows>& rows, uint32_t seed) {
  SCOPED_TRACE(testing::Message() << c.heads << " heads, " << c.kv_heads << " of kv, dim " << c.dim
                                  << ", pages of " << c.page_tokens);
  constexpr double kQ = 2, kK = 2;
  const float scale = 1 / std::sqrt(static_cast<float>(c.dim));
  Cache cache = MakeCache(sequences, tokens, c.page_tokens, c.kv_heads, c.dim);
  Fill(cache, sequences, tokens, seed, kK);
  Batch batch = MakeBatch(cache, rows);
  const Shape shape = {batch.rows, c.heads, c.dim};
  Slices q = RandomSlices({shape}, c.spare, seed + 1000, kQ);
  Slices o = UnwrittenSlices({shape}, c.spare);
  ASSERT_OK(cpu().ops().PagedAttention({q.cpu(0), cache.k.cpu(), cache.v.cpu(), batch.table.cpu(),
                                        batch.contexts.cpu(), batch.cu.cpu(), o.cpu(0), scale},
                                       cpu_stream()));
  ASSERT_OK(
      cuda().ops().PagedAttention(CudaArgs(cache, batch, q.cuda(0), o.cuda(0), scale), stream()));
  const double d = static_cast<double>(c.dim);
  const double e = 0x1p-22 * (d + 4) * scale * kQ * kK * d;
  const std::vector<double> expected(o.host[0].begin(), o.host[0].end());
  std::vector<double> bound;
  for (double value : expected) {
    bound.push_back(1.01 * (2 * (kBFloat16Roundoff + e) + 0x1p-21 * static_cast<double>(tokens) +
                            kBFloat16Roundoff * std::abs(value)));
  }
  ExpectWithin(FetchSlice(o, 0), expected, bound);
}

// Groups of every kind, head_dim that fills no vector, product or shared row, and the largest.
TEST_F(PagedAttentionTest, AgreesWithTheCpu) {
  const Case cases[] = {{8, 2, 128, 64, 0},  {4, 4, 64, 16, 0},  {6, 2, 80, 48, 8},
                        {5, 1, 18, 17, 3},   {40, 2, 32, 32, 0}, {2, 1, 256, 64, 0},
                        {3, 3, 2, 16, 0},    {16, 1, 96, 33, 0}, {7, 1, 128, 64, 1},
                        {12, 4, 254, 20, 0}, {36, 2, 72, 64, 16}};
  uint32_t seed = 1;
  for (const Case& c : cases) {
    // Prefill from the start and from within, one row, no row, decoding at the edges of splits.
    ExpectAgreement(c, 4, 530,
                    {{0, 21, 21},
                     {1, 300, 50},
                     {2, 0, 0},
                     {3, 1, 1},
                     {2, 256, 1},
                     {2, 257, 1},
                     {0, 258, 3},
                     {3, 530, 19}},
                    seed += 100);
    if (HasFatalFailure()) return;
  }
}

TEST_F(PagedAttentionTest, LongContextsAgreeWithTheCpu) {
  ExpectAgreement({8, 2, 128, 64, 0}, 2, 2100, {{1, 2100, 1}}, 1);
  ExpectAgreement({8, 2, 128, 16, 0}, 2, 2100, {{0, 2100, 5}, {1, 2048, 70}, {1, 2049, 1}}, 2);
  ExpectAgreement({4, 2, 64, 30, 0}, 1, 2100, {{0, 2100, 1500}}, 3);
}

// With q = 0 every key weighs 1, and with v in {-1, 0, 1} all sums are exact: o is the mean of v
// over the keys that the row sees, rounded once. One key too many or too few shows.
TEST_F(PagedAttentionTest, SeesExactlyItsKeys) {
  constexpr int64_t kTokens = 1100, kHeads = 4, kKvHeads = 2, kDim = 72;
  for (int64_t page_tokens : {16, 27, 64}) {
    Cache cache = MakeCache(2, kTokens, page_tokens, kKvHeads, kDim);
    const Shape shape = {kTokens, kKvHeads, kDim};
    std::vector<std::vector<float>> v(2);
    for (int64_t s : {0, 1}) {
      v[s] = Random<float>(shape, static_cast<uint32_t>(s + 3), 1.5).data;
      for (float& value : v[s]) value = std::round(value);
      Slices kv = MakeSlices({shape, shape}, {Random<float>(shape, 9).data, v[s]}, 0);
      Write(cache, s, kv);
    }
    std::vector<Rows> rows = {{0, 1100, 600}, {1, 20, 20}};
    for (int64_t context : {1, 16, 17, 63, 64, 65, 255, 256, 257, 512, 513, 1025, 1100})
      rows.push_back({1, context, 1});
    std::vector<float> expected;
    for (const Rows& r : rows) {
      for (int64_t keys = r.context - r.count + 1; keys <= r.context; ++keys) {
        for (int64_t h = 0; h < kHeads; ++h) {
          for (int64_t i = 0; i < kDim; ++i) {
            float sum = 0;
            for (int64_t key = 0; key < keys; ++key)
              sum += v[r.sequence][(key * kKvHeads + h / 2) * kDim + i];
            expected.push_back(ToFloat(ToBFloat16(sum / static_cast<float>(keys))));
          }
        }
      }
    }
    const std::vector<float> q(expected.size());
    EXPECT_EQ(Attend(cache, rows, q, kHeads, 0.3f), expected) << "pages of " << page_tokens;
    // Few rows.
    const std::vector<float> one(kHeads * kDim),
        last(expected.end() - kHeads * kDim, expected.end());
    EXPECT_EQ(Attend(cache, {{1, 1100, 1}}, one, kHeads, 0.3f), last);
  }
}

// A prompt whole, in chunks of any size, or row by row; alone or with others: the same bits. With
// head_dim that takes the wide loads and with one that does not; groups that share a tile or not.
TEST_F(PagedAttentionTest, NeitherChunksNorBatchShow) {
  constexpr int64_t kTokens = 530;
  const Case cases[] = {{8, 2, 128, 64, 0},
                        {4, 4, 64, 16, 0},
                        {5, 1, 18, 17, 0},
                        {20, 1, 32, 33, 0},
                        {6, 2, 256, 64, 0}};
  for (const Case& c : cases) {
    SCOPED_TRACE(testing::Message() << c.heads << " heads of " << c.dim);
    Cache cache = MakeCache(3, kTokens, c.page_tokens, c.kv_heads, c.dim);
    Fill(cache, 3, kTokens, 1, 2);
    const int64_t width = c.heads * c.dim;
    const std::vector<float> q = RandomSlices({{kTokens, c.heads, c.dim}}, 0, 7, 2).host[0];
    const auto part = [&](const std::vector<float>& from, int64_t begin, int64_t end) {
      return std::vector<float>(from.begin() + begin * width, from.begin() + end * width);
    };
    const std::vector<float> whole = Attend(cache, {{1, kTokens, kTokens}}, q, c.heads, 0.1f);
    EXPECT_EQ(Attend(cache, {{1, kTokens, kTokens}}, q, c.heads, 0.1f), whole) << "run twice";
    const int64_t parts[][2] = {{0, 1},     {0, 3},     {1, 2},     {5, 11},    {0, 256},
                                {256, 530}, {255, 257}, {254, 255}, {255, 256}, {256, 257},
                                {300, 301}, {511, 513}, {37, 411},  {529, 530}};
    for (const auto& [begin, end] : parts) {
      const std::vector<float> rows = part(q, begin, end), expected = part(whole, begin, end);
      EXPECT_EQ(Attend(cache, {{1, end, end - begin}}, rows, c.heads, 0.1f), expected)
          << begin << " to " << end;
      EXPECT_EQ(Attend(cache, {{1, end, end - begin}}, rows, c.heads, 0.1f, /*spare=*/1), expected)
          << begin << " to " << end << ", not aligned";
      // Between other sequences at other positions.
      std::vector<float> shared = part(q, 3, 5);
      shared.insert(shared.end(), rows.begin(), rows.end());
      shared.insert(shared.end(), q.begin(), q.begin() + 17 * width);
      const std::vector<float> mixed =
          Attend(cache, {{0, 9, 2}, {1, end, end - begin}, {0, 0, 0}, {2, kTokens, 17}}, shared,
                 c.heads, 0.1f);
      EXPECT_EQ(part(mixed, 2, 2 + end - begin), expected) << begin << " to " << end << ", mixed";
    }
    // All rows decoded at once: each a sequence of one row.
    std::vector<Rows> rows;
    for (int64_t p = 200; p < 400; ++p) rows.push_back({1, p + 1, 1});
    EXPECT_EQ(Attend(cache, rows, part(q, 200, 400), c.heads, 0.1f), part(whole, 200, 400));
  }
}

// With scratch few rows are spread over splits; without, or with too little, they are not.
TEST_F(PagedAttentionTest, ScratchDoesNotShow) {
  constexpr int64_t kTokens = 1500;
  const Case cases[] = {{8, 2, 128, 64, 0}, {5, 1, 18, 17, 0}, {20, 1, 32, 33, 0}};
  for (const Case& c : cases) {
    Cache cache = MakeCache(2, kTokens, c.page_tokens, c.kv_heads, c.dim);
    Fill(cache, 2, kTokens, 1, 2);
    const Batch batch =
        MakeBatch(cache, {{0, 1500, 1}, {1, 700, 9}, {0, 0, 0}, {1, 256, 1}, {0, 1281, 2}});
    const Shape shape = {batch.rows, c.heads, c.dim};
    const Slices q = RandomSlices({shape}, 0, 7, 2);
    const int64_t max_keys = (cache.sequence_pages + 1) * c.page_tokens;
    const int64_t bytes =
        cuda::PagedAttentionWorkspaceBytes(batch.rows, c.heads, c.kv_heads, c.dim, max_keys);
    ASSERT_GT(bytes, 0);
    std::vector<std::vector<float>> results;
    for (int64_t given : {int64_t{0}, bytes - 1, bytes}) {
      // Guarded by bytes that must stay.
      const std::vector<uint8_t> filled(given + 64, 0xff);
      const DeviceBuffer scratch = Upload(filled.data(), given + 64);
      const Slices o = UnwrittenSlices({shape}, 0);
      ASSERT_OK(cuda::PagedAttention(CudaArgs(cache, batch, q.cuda(0), o.cuda(0), 0.1f),
                                     cuda::Handle(stream()), scratch.data(), given));
      results.push_back(FetchSlice(o, 0));
      std::vector<uint8_t> now(filled.size());
      Download(now.data(), scratch.data(), given + 64);
      EXPECT_EQ(std::count(now.end() - 64, now.end(), 0xff), 64);
      EXPECT_EQ(now == filled, given < bytes) << "whether the scratch was used";
    }
    EXPECT_EQ(results[0], results[2]);
    EXPECT_EQ(results[0], results[1]);
  }
}

// A decoding step over sequences of these contexts, in one kernel and in three, with scratch and
// without: the same bits in o and in the cache.
void PagedAttentionTest::ExpectFusedAgrees(const Case& c, const std::vector<int64_t>& contexts) {
  SCOPED_TRACE(testing::Message() << c.heads << " heads, " << c.kv_heads << " of kv, dim " << c.dim
                                  << ", pages of " << c.page_tokens << ", " << contexts.size()
                                  << " rows, the first of " << contexts[0]);
  const auto n = static_cast<int64_t>(contexts.size());
  const int64_t most = *std::max_element(contexts.begin(), contexts.end());
  Cache cache = MakeCache(n, most, c.page_tokens, c.kv_heads, c.dim);
  uint32_t state = 1;
  std::vector<Rows> rows;
  std::vector<int32_t> positions;
  std::vector<int64_t> slots;
  for (int64_t s = 0; s < n; ++s) {
    for (int64_t position = 0; position + 1 < contexts[s]; ++position) {
      for (int64_t i = 0; i < c.kv_heads * c.dim; ++i) {
        const int64_t at = cache.Slot(s, position) * c.kv_heads * c.dim + i;
        for (Both<BFloat16>* side : {&cache.k, &cache.v}) {  // 2^-7 to 2 and its negative
          state = state * 1664525 + 1013904223;
          side->host[at].bits = static_cast<uint16_t>((state >> 16 & 0x83ff) + 0x3c00);
        }
      }
    }
    rows.push_back({s, contexts[s], 1});
    positions.push_back(static_cast<int32_t>(contexts[s]) - 1);
    slots.push_back(cache.Slot(s, contexts[s] - 1));
  }
  std::vector<float> inv_freq(c.dim / 2);
  for (int64_t i = 0; i < c.dim / 2; ++i)
    inv_freq[i] = std::pow(500000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(c.dim));
  const Batch batch = MakeBatch(cache, rows);
  const Both<int32_t> position = Same<int32_t>({n}, positions);
  const Both<int64_t> slot = Same<int64_t>({n}, slots);
  const Both<float> freq = Same<float>({c.dim / 2}, inv_freq);
  const Shape q_shape = {n, c.heads, c.dim}, k_shape = {n, c.kv_heads, c.dim};
  struct Result {
    std::vector<float> o;
    std::vector<uint16_t> cache;
    bool operator==(const Result&) const = default;
  };
  const auto run = [&](const auto& attend) {
    const Both<BFloat16> k_cache = Same<BFloat16>(cache.k.shape, cache.k.host);
    const Both<BFloat16> v_cache = Same<BFloat16>(cache.v.shape, cache.v.host);
    const Slices qkv = RandomSlices({q_shape, k_shape, k_shape}, c.spare, 7, 2);
    const Slices o = UnwrittenSlices({q_shape}, c.spare);
    attend({qkv.cuda(0), qkv.cuda(1), qkv.cuda(2), position.cuda(), freq.cuda(), slot.cuda(),
            k_cache.cuda(), v_cache.cuda(), batch.table.cuda(), batch.contexts.cuda(),
            batch.cu.cuda(), o.cuda(0), 0.1f});
    Result result = {FetchSlice(o, 0), {}};
    for (const Both<BFloat16>* side : {&k_cache, &v_cache})
      for (const BFloat16 value : Fetch(*side)) result.cache.push_back(value.bits);
    return result;
  };
  const Result expected = run([&](const RopePagedAttentionArgs& args) {
    ASSERT_OK(cuda().ops().Rope(args.RopeOfQ(), stream()));
    ASSERT_OK(cuda().ops().Rope(args.RopeOfK(), stream()));
    ASSERT_OK(cuda().ops().KvWrite(args.Write(), stream()));
    ASSERT_OK(cuda().ops().PagedAttention(args.Attention(), stream()));
  });
  EXPECT_TRUE(std::none_of(expected.o.begin(), expected.o.end(), [](float o) { return o != o; }));
  for (int time = 0; time < 2; ++time) {
    EXPECT_TRUE(expected == run([&](const RopePagedAttentionArgs& args) {
                  ASSERT_OK(cuda().ops().RopePagedAttention(args, stream()));
                }))
        << time;
  }
  // The workspace after which counters lie may be of any size. They end as they began.
  const std::vector<uint32_t> zeros(cuda::kRowProductCounters);
  for (const int64_t bytes : {int64_t{0}, int64_t{1} << 14, int64_t{32} << 20}) {
    const DeviceBuffer scratch = Upload(std::vector<uint8_t>(bytes + 1, 0xff).data(), bytes + 1);
    const Both<uint32_t> counters = Same<uint32_t>({cuda::kRowProductCounters}, zeros);
    EXPECT_TRUE(expected == run([&](const RopePagedAttentionArgs& args) {
                  ASSERT_OK(cuda::RopePagedAttention(
                      args, {cuda::Handle(stream()), scratch.data(), static_cast<size_t>(bytes),
                             static_cast<uint32_t*>(counters.device.data())}));
                }))
        << bytes;
    EXPECT_EQ(Fetch(counters), zeros);
  }
}

TEST_F(PagedAttentionTest, OneKernelOfADecodingStepEqualsThree) {
  std::vector<int64_t> many, short_ones;
  for (int64_t s = 0; s < 64; ++s) many.push_back(1 + s * 977 % 600);
  for (int64_t s = 0; s < 300; ++s) short_ones.push_back(1 + s * 7 % 40);
  // Up to 2,048 tokens of few rows are for clusters of 2, 4 and 8 blocks.
  const std::vector<std::vector<int64_t>> batches = {
      {1},    {255},          {256}, {257},     {1000, 257}, {2048, 1, 700},
      {3000}, {2500, 1, 700}, many,  short_ones};
  const Case cases[] = {{32, 8, 128, 64, 0}, {8, 2, 128, 32, 8}, {14, 2, 64, 64, 0},
                        {16, 1, 96, 64, 0},  {4, 4, 64, 32, 0},  {9, 3, 80, 96, 16}};
  for (const Case& c : cases) {
    for (const std::vector<int64_t>& contexts : batches) {
      if (c.kv_heads == 8 && contexts.size() > 3) continue;  // slow on the host
      ExpectFusedAgrees(c, contexts);
      if (HasFailure()) return;
    }
  }
}

TEST_F(PagedAttentionTest, OneKernelOfFewRowsEqualsThree) {
  ExpectFusedAgrees({32, 8, 128, 64, 0}, {700, 1025, 1024, 1, 256, 257, 255, 1200});
  // Shapes that are left to the three.
  const Case others[] = {{8, 2, 128, 64, 1},
                         {5, 1, 18, 17, 0},
                         {40, 2, 32, 32, 0},
                         {2, 1, 256, 64, 0},
                         {8, 2, 128, 16, 0}};
  for (const Case& c : others) ExpectFusedAgrees(c, {600, 3});
}

TEST_F(PagedAttentionTest, WorkspaceIsForFewRowsOverLongContexts) {
  EXPECT_EQ(cuda::PagedAttentionWorkspaceBytes(1, 32, 8, 128, 256), 0);
  EXPECT_EQ(cuda::PagedAttentionWorkspaceBytes(1, 32, 8, 128, 257), 32 * 2 * 130 * 4);
  EXPECT_EQ(cuda::PagedAttentionWorkspaceBytes(256, 32, 8, 128, 2048), 0);
}

TEST_F(PagedAttentionTest, RefusesHeadsThatItCannotTake) {
  for (int64_t dim : {17, 258}) {
    Cache cache = MakeCache(1, 16, 16, 1, dim);
    const Batch batch = MakeBatch(cache, {{0, 1, 1}});
    const Slices q = UnwrittenSlices({{1, 1, dim}}, 0), o = UnwrittenSlices({{1, 1, dim}}, 0);
    EXPECT_FALSE(cuda()
                     .ops()
                     .PagedAttention(CudaArgs(cache, batch, q.cuda(0), o.cuda(0), 1), stream())
                     .ok());
  }
}

}  // namespace
}  // namespace lorad
