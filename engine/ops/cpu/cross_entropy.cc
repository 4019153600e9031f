// Output head, softmax and loss over chunks of the rows that have a label; the head is decoded in
// panels. Logits exist for one chunk at a time.
#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/ops/cpu/gemm.h"
#include "engine/ops/cpu/kernels.h"
#include "engine/ops/cpu/panel.h"
#include "engine/ops/cpu/vector_math.h"

namespace lorad::cpu {
namespace {

constexpr int64_t kChunkLogits = 4 << 20;  // elements of logits at once

int64_t ChunkRows(const LinearCrossEntropyArgs& args) {
  const int64_t rows = std::clamp<int64_t>(kChunkLogits / args.head.out_features, 16, 1024);
  return std::min(rows, std::max<int64_t>(1, args.hidden.shape[0]));
}

template <typename T>
struct Chunk {
  const int64_t* tokens;  // row r of the chunk is this token
  int64_t rows;
  T* hidden;  // [rows, hidden]
  T* logits;  // [rows, vocab]
  T* panel;
};

// Loss of each row; with `gradient` the logits become grad_scale * (softmax - onehot).
template <typename T>
void LossRows(const LinearCrossEntropyArgs& args, const Chunk<T>& chunk, ThreadPool& pool) {
  const int64_t vocab = args.head.out_features;
  pool.For(chunk.rows, 4, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t t = chunk.tokens[r];
      const int32_t label = args.labels.as<int32_t>()[t];
      T* logits = chunk.logits + r * vocab;
      const T target = logits[label];
      const T largest = *std::max_element(logits, logits + vocab);
      const T sum = ExpSum(largest, logits, vocab);
      args.loss.as<T>()[t] = largest + std::log(sum) - target;
      if (args.dhidden.empty()) continue;
      const T factor = static_cast<T>(args.grad_scale) / sum;
      for (int64_t i = 0; i < vocab; ++i) logits[i] *= factor;
      logits[label] -= static_cast<T>(args.grad_scale);
    }
  });
}

template <typename T>
void RunChunk(const LinearCrossEntropyArgs& args, const Chunk<T>& chunk, ThreadPool& pool) {
  const int64_t width = args.hidden.shape[1], vocab = args.head.out_features;
  for (int64_t r = 0; r < chunk.rows; ++r) {
    std::copy_n(args.hidden.as<T>() + chunk.tokens[r] * width, width, chunk.hidden + r * width);
  }
  ForPanels(args.head, chunk.panel, pool, [&](int64_t begin, int64_t end, const T* w) {
    Gemm(Op::kNone, Op::kTranspose, chunk.rows, end - begin, width, T{1}, chunk.hidden, width, w,
         width, T{0}, chunk.logits + begin, vocab);
  });
  LossRows(args, chunk, pool);
  if (args.dhidden.empty()) return;
  T beta = 0;
  ForPanels(args.head, chunk.panel, pool, [&](int64_t begin, int64_t end, const T* w) {
    Gemm(Op::kNone, Op::kNone, chunk.rows, width, end - begin, T{1}, chunk.logits + begin, vocab, w,
         width, beta, chunk.hidden, width);
    beta = 1;
  });
  for (int64_t r = 0; r < chunk.rows; ++r) {
    std::copy_n(chunk.hidden + r * width, width, args.dhidden.as<T>() + chunk.tokens[r] * width);
  }
}

}  // namespace

template <typename T>
int64_t LinearCrossEntropyWorkspaceBytes(const LinearCrossEntropyArgs& args) {
  const int64_t rows = ChunkRows(args);
  return (rows * (args.head.in_features + args.head.out_features) + PanelElements(args.head)) *
         static_cast<int64_t>(sizeof(T));
}

template <typename T>
void LinearCrossEntropy(const LinearCrossEntropyArgs& args, ThreadPool& pool) {
  const int64_t num_tokens = args.hidden.shape[0], width = args.hidden.shape[1];
  const int32_t* labels = args.labels.as<int32_t>();
  std::vector<int64_t> tokens;
  for (int64_t t = 0; t < num_tokens; ++t) {
    if (labels[t] != kIgnoreLabel) {
      tokens.push_back(t);
      continue;
    }
    args.loss.as<T>()[t] = 0;
    if (args.dhidden.empty()) continue;
    T* dhidden = args.dhidden.as<T>() + t * width;
    std::fill(dhidden, dhidden + width, T{0});
  }
  const int64_t chunk_rows = ChunkRows(args), count = static_cast<int64_t>(tokens.size());
  T* hidden = reinterpret_cast<T*>(args.workspace.data);
  T* logits = hidden + chunk_rows * width;
  T* panel = logits + chunk_rows * args.head.out_features;
  for (int64_t begin = 0; begin < count; begin += chunk_rows) {
    const int64_t rows = std::min(chunk_rows, count - begin);
    RunChunk<T>(args, {tokens.data() + begin, rows, hidden, logits, panel}, pool);
  }
}

template int64_t LinearCrossEntropyWorkspaceBytes<float>(const LinearCrossEntropyArgs&);
template int64_t LinearCrossEntropyWorkspaceBytes<double>(const LinearCrossEntropyArgs&);
template void LinearCrossEntropy<float>(const LinearCrossEntropyArgs&, ThreadPool&);
template void LinearCrossEntropy<double>(const LinearCrossEntropyArgs&, ThreadPool&);

}  // namespace lorad::cpu
