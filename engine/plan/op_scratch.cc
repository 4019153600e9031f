#include "engine/plan/op_scratch.h"

#include <algorithm>

#include "engine/core/checked_math.h"
#include "engine/model/modules.h"

namespace lorad {
namespace {

struct GroupShape {
  int64_t in = 0, largest_rank = 0;

  GroupShape(const MemoryRequest& request, int group) {
    in = InFeatures(request.model, kAllProjections[kPlanGroups[group]]);
    // As the engine asks: the largest rank of all for each linear.
    largest_rank = *std::max_element(request.ranks.begin(), request.ranks.end());
  }
};

// engine/ops/cpu: linear.cc, matrix_product.cc, cross_entropy.cc.
class CpuScratch final : public OpScratch {
 public:
  explicit CpuScratch(const MemoryRequest& request) : request_(request) {}

  DType activation_dtype() const override { return DType::kF32; }
  bool side_by_side() const override { return false; }
  int64_t spare_column_align() const override { return 0; }
  bool reuses_workspace() const override { return false; }
  int64_t backend_bytes() const override { return 0; }

  int64_t Linear(int group, int64_t tokens, bool backward) const override {
    const GroupShape shape(request_, group);
    const int64_t dropped = request_.dropout && shape.largest_rank > 0 ? shape.in * tokens : 0;
    const int64_t forward = Tiles() + dropped;
    const int64_t lora = shape.largest_rank * tokens + dropped;
    return (backward ? std::max(forward, lora) : forward) * kFloat;
  }
  int64_t Attention(int64_t, bool) const override { return 0; }
  int64_t Loss(int64_t rows) const override {
    const int64_t vocab = request_.model.vocab_size;
    const int64_t chunk = std::clamp<int64_t>(kChunkLogits / vocab, kLeastChunk, kMostChunk);
    return (std::min(chunk, std::max<int64_t>(1, rows)) * (request_.model.hidden_size + vocab) +
            Tiles()) *
           kFloat;
  }

 private:
  static constexpr int64_t kFloat = 4;
  static constexpr int64_t kTileElements = 256 * 1024;  // of decoded weights, for each thread
  static constexpr int64_t kChunkLogits = 8 << 20, kLeastChunk = 64, kMostChunk = 512;

  int64_t Tiles() const { return kTileElements * request_.cpu_threads; }

  const MemoryRequest request_;
};

// engine/ops/cuda: linear_group.cc, cudnn_attention_layout.cc, linear_cross_entropy.cc.
class CudaScratch final : public OpScratch {
 public:
  explicit CudaScratch(const MemoryRequest& request)
      : request_(request), dense_(QuantOf(request).format == QuantFormat::kNone) {}

  DType activation_dtype() const override { return DType::kBF16; }
  bool side_by_side() const override { return true; }
  int64_t spare_column_align() const override { return kRankAlign; }
  bool reuses_workspace() const override { return true; }
  // For the stream of the job and that of serving: cuBLASLt's, and the row products' counters.
  int64_t backend_bytes() const override { return 2 * ((int64_t{32} << 20) + 257 * 4); }

  // Of the largest batch of linears that are decoded, and multiplied, as one matrix.
  int64_t Linear(int group, int64_t tokens, bool) const override {
    const GroupShape shape(request_, group);
    const int64_t row = RoundUp(shape.in, 8) * kBf16;
    int64_t bytes = 0, outs = 0, linears = 0;
    for (int p = kPlanGroups[group]; p < kPlanGroups[group + 1]; ++p) {
      const int64_t out = OutFeatures(request_.model, kAllProjections[p]);
      if (!dense_ && linears > 0 && (outs + out) * row > kMostWeightBytes) outs = linears = 0;
      outs += out;
      ++linears;
      bytes = std::max(bytes, Batch(shape.in, outs, linears * shape.largest_rank, tokens));
    }
    return bytes;
  }

  int64_t Attention(int64_t tokens, bool backward) const override {
    const ModelConfig& model = request_.model;
    const int64_t rows = tokens * model.num_heads;
    int64_t bytes = rows * kFloat + kPlanSlack;  // log-sum-exp
    if (!backward) return bytes;
    bytes += rows * kFloat + model.num_kv_heads * 256;  // delta
    // dk and dv of each query head, until they are summed over a group.
    if (model.num_heads > model.num_kv_heads) bytes += 2 * rows * model.head_dim * kBf16;
    // Each token against as many keys as the longest sequence has, in parts of heads.
    const int64_t all = rows * std::min(tokens, request_.sequence) * kBf16;
    const int64_t part = all / model.num_kv_heads;
    return bytes + std::min(all, std::max(kScoreBytes, std::min(part, 2 * kScoreBytes)));
  }

  int64_t Loss(int64_t rows) const override {
    const int64_t stride = RoundUp(request_.model.vocab_size, 8);
    const int64_t fit = kMostLogitsBytes / (stride * kBf16) / kTokenAlign * kTokenAlign;
    return std::min(std::max(fit, kTokenAlign), rows) * stride * kBf16;
  }

 private:
  int64_t Batch(int64_t in, int64_t outs, int64_t ranks, int64_t tokens) const {
    const int64_t stride = RoundUp(in, 8), columns = RoundUp(ranks, kRankAlign);
    const bool whole = outs * stride * kBf16 <= kMostWeightBytes;
    const int64_t decoded = dense_ ? 0 : whole ? outs * stride : kMostWeightBytes / kBf16;
    const int64_t b = RoundUp(decoded + columns * stride, kPartAlign);
    const int64_t s = RoundUp(b + outs * columns, kPartAlign);
    int64_t end = RoundUp(s + tokens * columns, kPartAlign);
    if (request_.dropout && ranks > 0) end += tokens * stride;
    // Weights and adapters as one matrix.
    if (!dense_ && whole) end = std::max(end, (outs + columns) * (stride + columns));
    return end * kBf16;
  }

  static constexpr int64_t kBf16 = 2, kFloat = 4, kRankAlign = 64, kPartAlign = 128,
                           kTokenAlign = 128;
  static constexpr int64_t kMostWeightBytes = int64_t{600} << 20;
  static constexpr int64_t kMostLogitsBytes = int64_t{256} << 20;
  static constexpr int64_t kScoreBytes = int64_t{256} << 20, kPlanSlack = 1 << 20;

  const MemoryRequest request_;
  const bool dense_;
};

}  // namespace

std::unique_ptr<OpScratch> OpScratch::For(const MemoryRequest& request) {
  if (request.device == PlanDevice::kCpu) return std::make_unique<CpuScratch>(request);
  return std::make_unique<CudaScratch>(request);
}

}  // namespace lorad
