// Causal grouped-query attention over packed sequences, in tiles of query rows.
//
// A tile of kTileRows queries against its keys 0..last is one small matrix product, a row-wise
// softmax, and another product: memory is kTileRows * longest sequence, never its square. Parallel
// over (sequence, kv head), so that dk and dv have one writer each.
#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/ops/cpu/kernels.h"
#include "engine/ops/cpu/vector_math.h"

namespace lorad::cpu {
namespace {

constexpr int64_t kTileRows = 32;

// One head of one sequence: rows of length head_dim, `stride` elements apart.
template <typename T>
struct Head {
  T* data;
  int64_t stride;
  T* row(int64_t t) const { return data + t * stride; }
};
template <typename T>
Head<T> HeadOf(T* base, int64_t first_token, int64_t heads, int64_t head, int64_t head_dim) {
  return {base + (first_token * heads + head) * head_dim, heads * head_dim};
}

// probabilities[r, s] = exp(scale * q[begin + r] . k[s] - lse), 0 above the diagonal. With `lse`
// null the softmax is computed, and its lse returned through new_lse; otherwise lse is used.
template <typename T>
void Scores(const Head<const T>& q, const Head<const T>& k, int64_t begin, int64_t end,
            int64_t head_dim, T scale, T* scores, int64_t width) {
  for (int64_t t = begin; t < end; ++t) {
    T* row = scores + (t - begin) * width;
    for (int64_t s = 0; s <= t; ++s) row[s] = scale * Dot(q.row(t), k.row(s), head_dim);
  }
}

struct Shapes {
  int64_t heads, kv_heads, head_dim, group;
};
Shapes ShapesOf(const ConstTensorView& q, const ConstTensorView& k) {
  return {q.shape[1], k.shape[1], q.shape[2], q.shape[1] / k.shape[1]};
}

// body(first token, tokens, kv head) for every sequence and kv head, in parallel.
template <typename Body>
void ForSequenceHeads(const ConstTensorView& cu_seqlens, int64_t kv_heads, ThreadPool& pool,
                      const Body& body) {
  const int32_t* starts = cu_seqlens.as<int32_t>();
  const int64_t sequences = cu_seqlens.shape[0] - 1;
  pool.For(sequences * kv_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      // Heads vary slowest, so that every thread gets long and short sequences alike.
      const int64_t s = i % sequences;
      body(starts[s], starts[s + 1] - starts[s], i / sequences);
    }
  });
}

template <typename T>
void ForwardHead(const AttentionArgs& args, const Shapes& n, int64_t first, int64_t tokens,
                 int64_t kv_head, std::vector<T>& row) {
  const Head<const T> k = HeadOf(args.k.as<T>(), first, n.kv_heads, kv_head, n.head_dim);
  const Head<const T> v = HeadOf(args.v.as<T>(), first, n.kv_heads, kv_head, n.head_dim);
  row.resize(tokens);
  for (int64_t h = kv_head * n.group; h < (kv_head + 1) * n.group; ++h) {
    const Head<const T> q = HeadOf(args.q.as<T>(), first, n.heads, h, n.head_dim);
    const Head<T> o = HeadOf(args.o.as<T>(), first, n.heads, h, n.head_dim);
    for (int64_t t = 0; t < tokens; ++t) {
      Scores(q, k, t, t + 1, n.head_dim, static_cast<T>(args.scale), row.data(), tokens);
      const T largest = *std::max_element(row.begin(), row.begin() + t + 1);
      const T sum = ExpSum(largest, row.data(), t + 1);
      T* out = o.row(t);
      std::fill(out, out + n.head_dim, T{0});
      for (int64_t s = 0; s <= t; ++s) Axpy(row[s] / sum, v.row(s), out, n.head_dim);
      if (!args.lse.empty()) args.lse.as<T>()[(first + t) * n.heads + h] = largest + std::log(sum);
    }
  }
}

template <typename T>
void BackwardHead(const AttentionBackwardArgs& args, const Shapes& n, int64_t first, int64_t tokens,
                  int64_t kv_head, std::vector<T>& row) {
  const int64_t d = n.head_dim;
  const Head<const T> k = HeadOf(args.k.as<T>(), first, n.kv_heads, kv_head, d);
  const Head<const T> v = HeadOf(args.v.as<T>(), first, n.kv_heads, kv_head, d);
  const Head<T> dk = HeadOf(args.dk.as<T>(), first, n.kv_heads, kv_head, d);
  const Head<T> dv = HeadOf(args.dv.as<T>(), first, n.kv_heads, kv_head, d);
  const T scale = static_cast<T>(args.scale);
  row.resize(tokens);
  for (int64_t s = 0; s < tokens; ++s) {
    std::fill(dk.row(s), dk.row(s) + d, T{0});
    std::fill(dv.row(s), dv.row(s) + d, T{0});
  }
  for (int64_t h = kv_head * n.group; h < (kv_head + 1) * n.group; ++h) {
    const Head<const T> q = HeadOf(args.q.as<T>(), first, n.heads, h, d);
    const Head<const T> o = HeadOf(args.o.as<T>(), first, n.heads, h, d);
    const Head<const T> dout = HeadOf(args.dout.as<T>(), first, n.heads, h, d);
    const Head<T> dq = HeadOf(args.dq.as<T>(), first, n.heads, h, d);
    for (int64_t t = 0; t < tokens; ++t) {
      const T delta = Dot(dout.row(t), o.row(t), d);
      Scores(q, k, t, t + 1, d, scale, row.data(), tokens);
      ExpSum(args.lse.as<T>()[(first + t) * n.heads + h], row.data(), t + 1);
      std::fill(dq.row(t), dq.row(t) + d, T{0});
      for (int64_t s = 0; s <= t; ++s) {
        const T p = row[s];
        Axpy(p, dout.row(t), dv.row(s), d);
        const T ds = scale * p * (Dot(dout.row(t), v.row(s), d) - delta);
        Axpy(ds, k.row(s), dq.row(t), d);
        Axpy(ds, q.row(t), dk.row(s), d);
      }
    }
  }
}

}  // namespace

template <typename T>
void Attention(const AttentionArgs& args, ThreadPool& pool) {
  const Shapes n = ShapesOf(args.q, args.k);
  ForSequenceHeads(args.cu_seqlens, n.kv_heads, pool,
                   [&](int64_t first, int64_t tokens, int64_t head) {
                     std::vector<T> row;
                     ForwardHead<T>(args, n, first, tokens, head, row);
                   });
}

template <typename T>
void AttentionBackward(const AttentionBackwardArgs& args, ThreadPool& pool) {
  const Shapes n = ShapesOf(args.q, args.k);
  ForSequenceHeads(args.cu_seqlens, n.kv_heads, pool,
                   [&](int64_t first, int64_t tokens, int64_t head) {
                     std::vector<T> row;
                     BackwardHead<T>(args, n, first, tokens, head, row);
                   });
}

template void Attention<float>(const AttentionArgs&, ThreadPool&);
template void Attention<double>(const AttentionArgs&, ThreadPool&);
template void AttentionBackward<float>(const AttentionBackwardArgs&, ThreadPool&);
template void AttentionBackward<double>(const AttentionBackwardArgs&, ThreadPool&);

}  // namespace lorad::cpu
