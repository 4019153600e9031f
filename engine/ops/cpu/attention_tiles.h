// What the forward and the backward pass of attention share.
#ifndef LORAD_ENGINE_OPS_CPU_ATTENTION_TILES_H_
#define LORAD_ENGINE_OPS_CPU_ATTENTION_TILES_H_

#include <algorithm>
#include <cstdint>

#include "engine/core/tensor_view.h"
#include "engine/ops/cpu/gemm.h"

namespace lorad::cpu {

inline constexpr int64_t kQueryTile = 64;  // queries of a tile
inline constexpr int64_t kKeyTile = 512;   // keys of a tile: the scores take 128 KiB

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

struct AttentionShape {
  int64_t heads, kv_heads, head_dim, group;
  AttentionShape(const ConstTensorView& q, const ConstTensorView& k)
      : heads(q.shape[1]),
        kv_heads(k.shape[1]),
        head_dim(q.shape[2]),
        group(q.shape[1] / k.shape[1]) {}
};

// Queries [begin, end) against keys [key_begin, key_end) of one head. Query t sees keys up to t.
struct AttentionTile {
  int64_t begin, end, key_begin, key_end;
  int64_t rows() const { return end - begin; }
  int64_t keys() const { return key_end - key_begin; }
  // Keys of the tile that query `t` sees.
  int64_t Visible(int64_t t) const {
    return std::clamp<int64_t>(t + 1 - key_begin, 0, key_end - key_begin);
  }
  // Pairs of a query and a key that it sees.
  int64_t VisiblePairs() const {
    int64_t pairs = 0;
    for (int64_t t = begin; t < end; ++t) pairs += Visible(t);
    return pairs;
  }
  int64_t MaskedPairs() const { return rows() * keys() - VisiblePairs(); }
};

// out [rows, keys] = a[begin..end] b[key_begin..key_end]^T, masked keys included.
template <typename T, typename A, typename B>
void RowsByKeys(const AttentionTile& tile, const Head<A>& a, const Head<B>& b, int64_t head_dim,
                T* out) {
  Gemm(Op::kNone, Op::kTranspose, tile.rows(), tile.keys(), head_dim, T{1}, a.row(tile.begin),
       a.stride, b.row(tile.key_begin), b.stride, T{0}, out, tile.keys());
}
// out[begin..end] += weights [rows, keys] b[key_begin..key_end].
template <typename T, typename B>
void AddKeysToRows(const AttentionTile& tile, const T* weights, const Head<B>& b, int64_t head_dim,
                   const Head<T>& out) {
  Gemm(Op::kNone, Op::kNone, tile.rows(), head_dim, tile.keys(), T{1}, weights, tile.keys(),
       b.row(tile.key_begin), b.stride, T{1}, out.row(tile.begin), out.stride);
}
// out[key_begin..key_end] += weights [rows, keys]^T a[begin..end].
template <typename T, typename A>
void AddRowsToKeys(const AttentionTile& tile, const T* weights, const Head<A>& a, int64_t head_dim,
                   const Head<T>& out) {
  Gemm(Op::kTranspose, Op::kNone, tile.keys(), head_dim, tile.rows(), T{1}, weights, tile.keys(),
       a.row(tile.begin), a.stride, T{1}, out.row(tile.key_begin), out.stride);
}

}  // namespace lorad::cpu

#endif  // LORAD_ENGINE_OPS_CPU_ATTENTION_TILES_H_
