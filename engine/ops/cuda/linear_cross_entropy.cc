// Output head, softmax and loss over chunks of tokens:
//   logits = h W^T,   logits := grad_scale * (softmax(logits) - onehot) in place,   dh = logits W
// A head in 16 bits is multiplied where it lies. A packed one is decoded once a call; one that is
// too large for that, some rows of the vocabulary at a time for each chunk and product, and dh is
// then added up in bf16. Which tokens are ignored is known on the device alone, so their products
// are computed too, and multiplied by zeros.
#include "engine/ops/cuda/linear_cross_entropy.h"

#include <algorithm>

#include "engine/core/status_macros.h"
#include "engine/device/cuda/cuda_error.h"
#include "engine/ops/cuda/elementwise.h"

namespace lorad::cuda {
namespace {

constexpr int64_t kTokenAlign = 128;  // rows of a product's tile
constexpr int64_t kElementBytes = sizeof(BFloat16);

// What lies in the workspace: decoded weights [vocab_rows, WeightStride(hidden)], then logits
// [token_rows, logits_stride].
struct HeadLayout {
  int64_t token_rows;
  int64_t vocab_rows;
  int64_t logits_stride;
  int64_t logits;  // offset in elements
  int64_t end;

  HeadLayout(const LinearCrossEntropyArgs& args, const LinearLimits& limits) {
    const int64_t tokens = args.hidden.shape[0], vocab = args.head.out_features;
    const bool dense = args.head.spec.format == QuantFormat::kNone;
    logits_stride = RoundUp(vocab, 8);
    const int64_t fit = limits.logits_bytes / (logits_stride * kElementBytes);
    token_rows = std::min(std::max(fit / kTokenAlign * kTokenAlign, kTokenAlign), tokens);
    vocab_rows = dense ? vocab : ChunkRows(args.head, limits);
    logits = dense ? 0 : RoundUp(vocab_rows * WeightStride(args.head.in_features), kTokenAlign);
    end = logits + token_rows * logits_stride;
  }
};

class Head {
 public:
  Head(Matmul& matmul, const LinearCrossEntropyArgs& args, const LinearScratch& scratch,
       const LinearLimits& limits)
      : matmul_(matmul),
        args_(args),
        scratch_(scratch),
        layout_(args, limits),
        dense_(args.head.spec.format == QuantFormat::kNone),
        tokens_(args.hidden.shape[0]),
        width_(args.head.in_features),
        vocab_(args.head.out_features),
        weights_(static_cast<BFloat16*>(args.workspace.data)),
        logits_(weights_ + layout_.logits) {}

  absl::Status Run() {
    if (!dense_ && layout_.vocab_rows == vocab_) RETURN_IF_ERROR(Decode(0, vocab_));
    // Chunks of like size: a last one of a few rows costs nearly what a full one does.
    const int64_t chunks = CeilDiv(tokens_, layout_.token_rows);
    const int64_t rows =
        std::min(RoundUp(CeilDiv(tokens_, chunks), kTokenAlign), layout_.token_rows);
    for (int64_t begin = 0; begin < tokens_; begin += rows) {
      RETURN_IF_ERROR(RunChunk(begin, std::min(begin + rows, tokens_)));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Decode(int64_t begin, int64_t end) {
    const PackedWeight part = PackedRows(args_.head, begin, end, /*row_offset=*/0);
    return ToStatus(LaunchDequantize(&part, 1, weights_, WeightStride(width_), scratch_.stream),
                    "dequantize");
  }

  // Calls product(w, w_stride, begin, end) for parts of the vocabulary.
  template <typename Product>
  absl::Status ForEachPart(const Product& product) {
    if (dense_) {
      const ConstTensorView& dense = args_.head.dense;
      return product(dense.as<BFloat16>(), dense.stride(), 0, vocab_);
    }
    for (int64_t begin = 0; begin < vocab_; begin += layout_.vocab_rows) {
      const int64_t end = std::min(begin + layout_.vocab_rows, vocab_);
      if (layout_.vocab_rows < vocab_) RETURN_IF_ERROR(Decode(begin, end));
      RETURN_IF_ERROR(product(weights_, WeightStride(width_), begin, end));
    }
    return absl::OkStatus();
  }

  absl::Status RunChunk(int64_t begin, int64_t end) {
    const bool gradient = !args_.dhidden.empty();
    RETURN_IF_ERROR(ForEachPart([&](const BFloat16* w, int64_t w_stride, int64_t from, int64_t to) {
      return matmul_.Run({.m = end - begin,
                          .n = to - from,
                          .k = width_,
                          .a = args_.hidden.as<BFloat16>() + begin * args_.hidden.stride(),
                          .a_stride = args_.hidden.stride(),
                          .b = w,
                          .b_stride = w_stride,
                          .transpose_b = true,
                          .d = logits_ + from,
                          .d_stride = layout_.logits_stride},
                         scratch_);
    }));
    RETURN_IF_ERROR(ToStatus(
        LaunchSoftmaxCrossEntropy(logits_, args_.labels.as<int32_t>() + begin,
                                  args_.loss.as<float>() + begin, args_.grad_scale, gradient,
                                  end - begin, vocab_, layout_.logits_stride, scratch_.stream),
        "softmax and cross-entropy"));
    if (!gradient) return absl::OkStatus();
    return ForEachPart([&](const BFloat16* w, int64_t w_stride, int64_t from, int64_t to) {
      return matmul_.Run({.m = end - begin,
                          .n = width_,
                          .k = to - from,
                          .a = logits_ + from,
                          .a_stride = layout_.logits_stride,
                          .b = w,
                          .b_stride = w_stride,
                          .d = args_.dhidden.as<BFloat16>() + begin * args_.dhidden.stride(),
                          .d_stride = args_.dhidden.stride(),
                          .beta = from > 0 ? 1.0f : 0.0f},
                         scratch_);
    });
  }

  Matmul& matmul_;
  const LinearCrossEntropyArgs& args_;
  const LinearScratch& scratch_;
  const HeadLayout layout_;
  const bool dense_;
  const int64_t tokens_, width_, vocab_;
  BFloat16* const weights_;
  BFloat16* const logits_;
};

}  // namespace

absl::Status LinearCrossEntropy(Matmul& matmul, const LinearCrossEntropyArgs& args,
                                const LinearScratch& scratch, const LinearLimits& limits) {
  if (args.hidden.shape[0] == 0) return absl::OkStatus();
  return Head(matmul, args, scratch, limits).Run();
}

int64_t LinearCrossEntropyWorkspaceBytes(const LinearCrossEntropyArgs& args,
                                         const LinearLimits& limits) {
  return HeadLayout(args, limits).end * kElementBytes;
}

}  // namespace lorad::cuda
