// Causal grouped-query attention over packed sequences, forward: tiles of queries against tiles of
// keys, with an online softmax (Dao, "FlashAttention-2", 2023, algorithm 1). A thread holds one
// tile of scores.
#include <cmath>
#include <limits>
#include <vector>

#include "engine/core/checked_math.h"
#include "engine/ops/cpu/attention_tiles.h"
#include "engine/ops/cpu/kernels.h"
#include "engine/ops/cpu/vector_math.h"

namespace lorad::cpu {
namespace {

template <typename T>
struct ForwardHead {
  Head<const T> q, k, v;
  Head<T> o;
  int64_t head_dim;
  T scale;
  FlopMeter flops;
};

// Running maximum and denominator of the rows of a tile.
template <typename T>
struct Running {
  T largest[kQueryTile], sum[kQueryTile];
};

// Scores become weights against the new running maximum; what was summed before is rescaled.
template <typename T>
void OnlineSoftmax(const AttentionTile& tile, const ForwardHead<T>& head, T* scores,
                   Running<T>& running) {
  int64_t again = 0;  // rows whose sum so far is scaled again
  for (int64_t t = tile.begin; t < tile.end; ++t) {
    const int64_t r = t - tile.begin, visible = tile.Visible(t);
    T* row = scores + r * tile.keys();
    std::fill(row + visible, row + tile.keys(), T{0});
    if (visible == 0) continue;
    const T largest = std::max(running.largest[r], head.scale * Max(row, visible));
    const T sum = ExpSum(head.scale, largest, row, visible);
    if (tile.key_begin == 0) {
      running.sum[r] = sum;
    } else {
      const T shrink = std::exp(running.largest[r] - largest);
      running.sum[r] = running.sum[r] * shrink + sum;
      Scale(shrink, head.o.row(t), head.head_dim);
      ++again;
    }
    running.largest[r] = largest;
  }
  // Of each weight: its argument, the exponential, the sum. Of a row: the largest one scaled.
  const int64_t first = tile.rows() - again;
  head.flops.Forward(FlopOp::kSoftmax, 4 * tile.VisiblePairs() + first);
  head.flops.Forward(FlopOp::kTiling, again * (5 + head.head_dim));
}

// Queries [begin, end) of one head; lse[t * lse_stride] when not null.
template <typename T>
void ForwardTile(const ForwardHead<T>& head, int64_t begin, int64_t end, T* lse, int64_t lse_stride,
                 T* scores) {
  Running<T> running;
  std::fill_n(running.largest, kQueryTile, -std::numeric_limits<T>::infinity());
  for (int64_t t = begin; t < end; ++t) std::fill_n(head.o.row(t), head.head_dim, T{0});
  for (int64_t key = 0; key < end; key += kKeyTile) {
    const AttentionTile tile = {begin, end, key, std::min(key + kKeyTile, end)};
    RowsByKeys(tile, head.q, head.k, head.head_dim, scores);
    OnlineSoftmax(tile, head, scores, running);
    AddKeysToRows(tile, scores, head.v, head.head_dim, head.o);
    head.flops.Forward(FlopOp::kScores, 2 * head.head_dim * tile.VisiblePairs());
    head.flops.Forward(FlopOp::kValues, 2 * head.head_dim * tile.VisiblePairs());
    head.flops.Forward(FlopOp::kTiling, 4 * head.head_dim * tile.MaskedPairs());
  }
  for (int64_t t = begin; t < end; ++t) {
    const int64_t r = t - begin;
    Scale(T{1} / running.sum[r], head.o.row(t), head.head_dim);
    if (lse != nullptr) lse[t * lse_stride] = running.largest[r] + std::log(running.sum[r]);
  }
  const int64_t log_sum = lse == nullptr ? 0 : 2;
  head.flops.Forward(FlopOp::kSoftmax, (end - begin) * (1 + head.head_dim + log_sum));
}

struct Item {
  int64_t first_token, head, begin, end;
};

// The longest tiles first, so that threads end together.
std::vector<Item> Items(const ConstTensorView& cu_seqlens, int64_t heads) {
  const int32_t* starts = cu_seqlens.as<int32_t>();
  std::vector<Item> items;
  for (int64_t s = 0; s + 1 < cu_seqlens.shape[0]; ++s) {
    const int64_t tokens = starts[s + 1] - starts[s];
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t begin = 0; begin < tokens; begin += kQueryTile) {
        items.push_back({starts[s], h, begin, std::min(begin + kQueryTile, tokens)});
      }
    }
  }
  std::stable_sort(items.begin(), items.end(),
                   [](const Item& a, const Item& b) { return a.end > b.end; });
  return items;
}

}  // namespace

template <typename T>
void Attention(const AttentionArgs& args, ThreadPool& pool, FlopMeter flops) {
  const AttentionShape n(args.q, args.k);
  const std::vector<Item> items = Items(args.cu_seqlens, n.heads);
  if (items.empty()) return;
  const int64_t tile_elements = kQueryTile * std::min(kKeyTile, items[0].end);
  std::vector<T> scores(tile_elements * pool.num_threads());
  pool.ForEach(static_cast<int64_t>(items.size()), [&](int64_t i, int thread) {
    const Item& item = items[i];
    const int64_t first = item.first_token, kv = item.head / n.group, d = n.head_dim;
    const ForwardHead<T> head = {HeadOf(args.q.as<T>(), first, n.heads, item.head, d),
                                 HeadOf(args.k.as<T>(), first, n.kv_heads, kv, d),
                                 HeadOf(args.v.as<T>(), first, n.kv_heads, kv, d),
                                 HeadOf(args.o.as<T>(), first, n.heads, item.head, d),
                                 d,
                                 static_cast<T>(args.scale),
                                 flops};
    T* lse = args.lse.empty() ? nullptr : args.lse.as<T>() + first * n.heads + item.head;
    ForwardTile(head, item.begin, item.end, lse, n.heads, scores.data() + thread * tile_elements);
  });
}

template void Attention<float>(const AttentionArgs&, ThreadPool&, FlopMeter);
template void Attention<double>(const AttentionArgs&, ThreadPool&, FlopMeter);

}  // namespace lorad::cpu
