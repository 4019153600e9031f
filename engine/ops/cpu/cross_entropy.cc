// Output head, softmax and loss over chunks of the rows that have a label. Logits exist for one
// chunk at a time.
#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/ops/cpu/kernels.h"
#include "engine/ops/cpu/matrix_product.h"
#include "engine/ops/cpu/vector_math.h"

namespace lorad::cpu {
namespace {

constexpr int64_t kChunkRows = 512;        // enough that decoding the head costs little beside
constexpr int64_t kChunkLogits = 8 << 20;  // elements of logits at once, for large vocabularies
constexpr int64_t kMinChunkRows = 64;

int64_t ChunkRows(const LinearCrossEntropyArgs& args) {
  const int64_t fit = kChunkLogits / std::max<int64_t>(1, args.head.out_features);
  const int64_t rows = std::clamp(fit, kMinChunkRows, kChunkRows);
  return std::min(rows, std::max<int64_t>(1, args.hidden.shape[0]));
}

template <typename T>
struct Chunk {
  const int64_t* tokens;  // row r of the chunk is this token
  int64_t rows;
  T* hidden;  // [rows, hidden]
  T* logits;  // [rows, vocab]
  T* scratch;
};

// Loss of each row; when the gradient is wanted, logits become grad_scale * (softmax - onehot).
template <typename T>
void LossRows(const LinearCrossEntropyArgs& args, const Chunk<T>& chunk, ThreadPool& pool,
              FlopMeter flops) {
  const int64_t vocab = args.head.out_features;
  const int64_t grain = std::max<int64_t>(1, 16384 / vocab);
  pool.For(chunk.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t t = chunk.tokens[r];
      const int32_t label = args.labels.as<int32_t>()[t];
      T* logits = chunk.logits + r * vocab;
      const T target = logits[label];
      const T largest = Max(logits, vocab);
      const T sum = ExpSum(T{1}, largest, logits, vocab);
      args.loss.as<T>()[t] = largest - target + std::log(sum);
      if (args.dhidden.empty()) continue;
      Scale(static_cast<T>(args.grad_scale) / sum, logits, vocab);
      logits[label] -= static_cast<T>(args.grad_scale);
    }
    flops.Forward(FlopOp::kLoss, (end - begin) * (4 * vocab + 3));
    if (!args.dhidden.empty()) flops.Backward(FlopOp::kLoss, (end - begin) * (vocab + 2));
  });
}

template <typename T>
void RunChunk(const LinearCrossEntropyArgs& args, const Chunk<T>& chunk, ThreadPool& pool,
              FlopMeter flops) {
  const int64_t width = args.hidden.shape[1];
  for (int64_t r = 0; r < chunk.rows; ++r) {
    std::copy_n(args.hidden.as<T>() + chunk.tokens[r] * width, width, chunk.hidden + r * width);
  }
  const MatrixTerm<T> head = {&args.head, chunk.logits};
  MultiplyForward<T>(absl::MakeConstSpan(&head, 1), chunk.hidden, chunk.rows,
                     /*accumulate=*/false, chunk.scratch, pool, FlopOp::kHead, flops);
  LossRows(args, chunk, pool, flops);
  if (args.dhidden.empty()) return;
  const MatrixTerm<const T> gradient = {&args.head, chunk.logits};
  MultiplyBackward<T>(absl::MakeConstSpan(&gradient, 1), chunk.hidden, chunk.rows,
                      /*accumulate=*/false, chunk.scratch, pool, FlopOp::kHead, flops);
  for (int64_t r = 0; r < chunk.rows; ++r) {
    std::copy_n(chunk.hidden + r * width, width, args.dhidden.as<T>() + chunk.tokens[r] * width);
  }
}

}  // namespace

template <typename T>
int64_t LinearCrossEntropyWorkspaceBytes(const LinearCrossEntropyArgs& args,
                                         const ThreadPool& pool) {
  const int64_t row = args.head.in_features + args.head.out_features;
  return (ChunkRows(args) * row + MatrixScratch(pool)) * static_cast<int64_t>(sizeof(T));
}

template <typename T>
void LinearCrossEntropy(const LinearCrossEntropyArgs& args, ThreadPool& pool, FlopMeter flops) {
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
  T* scratch = logits + chunk_rows * args.head.out_features;
  for (int64_t begin = 0; begin < count; begin += chunk_rows) {
    const int64_t rows = std::min(chunk_rows, count - begin);
    RunChunk<T>(args, {tokens.data() + begin, rows, hidden, logits, scratch}, pool, flops);
  }
}

template int64_t LinearCrossEntropyWorkspaceBytes<float>(const LinearCrossEntropyArgs&,
                                                         const ThreadPool&);
template int64_t LinearCrossEntropyWorkspaceBytes<double>(const LinearCrossEntropyArgs&,
                                                          const ThreadPool&);
template void LinearCrossEntropy<float>(const LinearCrossEntropyArgs&, ThreadPool&, FlopMeter);
template void LinearCrossEntropy<double>(const LinearCrossEntropyArgs&, ThreadPool&, FlopMeter);

}  // namespace lorad::cpu
