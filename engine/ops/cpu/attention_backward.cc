// Causal grouped-query attention over packed sequences, backward (Dao, "FlashAttention-2", 2023,
// algorithm 2). Parallel over (sequence, kv head), so that dk and dv have one writer each.
#include <vector>

#include "engine/ops/cpu/attention_tiles.h"
#include "engine/ops/cpu/kernels.h"
#include "engine/ops/cpu/vector_math.h"

namespace lorad::cpu {
namespace {

// One query head with its kv head.
template <typename T>
struct BackwardHead {
  Head<const T> dout, q, k, v, o;
  Head<T> dq, dk, dv;
  const T* lse;  // of token t at t * lse_stride
  int64_t lse_stride;
  int64_t head_dim;
  T scale;
  FlopMeter flops;
};

// Five products over the pairs; of each pair the weight again, and its gradient.
void CountTile(const AttentionTile& tile, int64_t head_dim, FlopMeter flops) {
  const int64_t visible = tile.VisiblePairs(), masked = tile.MaskedPairs();
  flops.Backward(FlopOp::kScores, 6 * head_dim * visible);
  flops.Backward(FlopOp::kValues, 4 * head_dim * visible);
  flops.Backward(FlopOp::kSoftmax, (4 + 3) * visible);
  flops.Backward(FlopOp::kTiling, (10 * head_dim + 3) * masked);
}

template <typename T>
void BackwardTile(const BackwardHead<T>& head, const AttentionTile& tile, const T* delta,
                  T* weights, T* gradients) {
  const int64_t d = head.head_dim, keys = tile.keys();
  RowsByKeys(tile, head.q, head.k, d, weights);
  for (int64_t t = tile.begin; t < tile.end; ++t) {
    T* row = weights + (t - tile.begin) * keys;
    const int64_t visible = tile.Visible(t);
    ExpSum(head.scale, head.lse[t * head.lse_stride], row, visible);
    std::fill(row + visible, row + keys, T{0});
  }
  AddRowsToKeys(tile, weights, head.dout, d, head.dv);
  RowsByKeys(tile, head.dout, head.v, d, gradients);
  for (int64_t t = tile.begin; t < tile.end; ++t) {
    const int64_t r = t - tile.begin;
    SoftmaxGrad(head.scale, delta[r], weights + r * keys, gradients + r * keys, keys);
  }
  AddKeysToRows(tile, gradients, head.k, d, head.dq);
  AddRowsToKeys(tile, gradients, head.q, d, head.dk);
  CountTile(tile, d, head.flops);
}

// scratch: 2 * kQueryTile * min(kKeyTile, tokens).
template <typename T>
void BackwardQueryHead(const BackwardHead<T>& head, int64_t tokens, T* scratch) {
  T* gradients = scratch + kQueryTile * std::min(kKeyTile, tokens);
  for (int64_t begin = 0; begin < tokens; begin += kQueryTile) {
    const int64_t end = std::min(begin + kQueryTile, tokens);
    T delta[kQueryTile];
    for (int64_t t = begin; t < end; ++t) {
      delta[t - begin] = Dot(head.dout.row(t), head.o.row(t), head.head_dim);
      std::fill_n(head.dq.row(t), head.head_dim, T{0});
    }
    head.flops.Backward(FlopOp::kSoftmax, (end - begin) * 2 * head.head_dim);
    for (int64_t key = 0; key < end; key += kKeyTile) {
      const AttentionTile tile = {begin, end, key, std::min(key + kKeyTile, end)};
      BackwardTile(head, tile, delta, scratch, gradients);
    }
  }
}

template <typename T>
BackwardHead<T> HeadFor(const AttentionBackwardArgs& args, const AttentionShape& n, int64_t first,
                        int64_t h, FlopMeter flops) {
  const int64_t kv = h / n.group, d = n.head_dim;
  return {HeadOf(args.dout.as<T>(), first, n.heads, h, d),
          HeadOf(args.q.as<T>(), first, n.heads, h, d),
          HeadOf(args.k.as<T>(), first, n.kv_heads, kv, d),
          HeadOf(args.v.as<T>(), first, n.kv_heads, kv, d),
          HeadOf(args.o.as<T>(), first, n.heads, h, d),
          HeadOf(args.dq.as<T>(), first, n.heads, h, d),
          HeadOf(args.dk.as<T>(), first, n.kv_heads, kv, d),
          HeadOf(args.dv.as<T>(), first, n.kv_heads, kv, d),
          args.lse.as<T>() + first * n.heads + h,
          n.heads,
          d,
          static_cast<T>(args.scale),
          flops};
}

}  // namespace

template <typename T>
void AttentionBackward(const AttentionBackwardArgs& args, ThreadPool& pool, FlopMeter flops) {
  const AttentionShape n(args.q, args.k);
  const int32_t* starts = args.cu_seqlens.as<int32_t>();
  const int64_t sequences = args.cu_seqlens.shape[0] - 1;
  int64_t longest = 0;
  for (int64_t s = 0; s < sequences; ++s) {
    longest = std::max<int64_t>(longest, starts[s + 1] - starts[s]);
  }
  const int64_t scratch_elements = 2 * kQueryTile * std::min(kKeyTile, longest);
  std::vector<T> scratch(scratch_elements * pool.num_threads());
  pool.ForEach(sequences * n.kv_heads, [&](int64_t i, int thread) {
    const int64_t s = i / n.kv_heads, kv = i % n.kv_heads;
    const int64_t first = starts[s], tokens = starts[s + 1] - starts[s];
    for (int64_t h = kv * n.group; h < (kv + 1) * n.group; ++h) {
      const BackwardHead<T> head = HeadFor<T>(args, n, first, h, flops);
      for (int64_t t = 0; t < tokens && h == kv * n.group; ++t) {
        std::fill_n(head.dk.row(t), n.head_dim, T{0});
        std::fill_n(head.dv.row(t), n.head_dim, T{0});
      }
      BackwardQueryHead(head, tokens, scratch.data() + thread * scratch_elements);
    }
  });
}

template void AttentionBackward<float>(const AttentionBackwardArgs&, ThreadPool&, FlopMeter);
template void AttentionBackward<double>(const AttentionBackwardArgs&, ThreadPool&, FlopMeter);

}  // namespace lorad::cpu
