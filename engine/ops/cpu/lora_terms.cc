#include "engine/ops/cpu/lora_terms.h"

#include <algorithm>

#include "engine/ops/cpu/dropout.h"
#include "engine/ops/cpu/gemm.h"
#include "engine/ops/cpu/row_product.h"
#include "engine/ops/cpu/vector_math.h"

namespace lorad::cpu {
namespace {

// drop(x) of rows [begin, end), in `dropped`; x itself when there is no dropout.
template <typename T>
const T* Dropped(const LoraDropout& dropout, const T* x, int64_t in, int64_t begin, int64_t end,
                 T* dropped, FlopPass pass, FlopMeter flops) {
  if (dropout.probability == 0) return x;
  flops.Add(FlopOp::kDropout, pass, 2 * (end - begin) * in);
  for (int64_t t = begin; t < end; ++t) {
    DropRow(dropout, t, x + t * in, in, /*accumulate=*/false, dropped + t * in);
  }
  return dropped;
}

}  // namespace

template <typename T>
void LoraForward(const LoraSegment& segment, const LoraDropout& dropout, const T* x, int64_t in,
                 T* y, int64_t out, int64_t begin, int64_t end, bool row_invariant, T* dropped,
                 FlopMeter flops) {
  begin = std::max(begin, segment.row_begin);
  end = std::min(end, segment.row_end);
  if (begin >= end) return;
  const int64_t rank = segment.a.shape[0];
  const T* input = Dropped(dropout, x, in, begin, end, dropped, FlopPass::kForward, flops);
  const T* a = segment.a.as<T>();
  const T* b = segment.b.as<T>();
  const T scaling = static_cast<T>(segment.scaling);
  T* xa = segment.xa.as<T>() + (begin - segment.row_begin) * rank;
  flops.Forward(FlopOp::kLora, (end - begin) * (2 * rank * (in + out) + out));
  if (!row_invariant) {
    Gemm(Op::kNone, Op::kTranspose, end - begin, rank, in, T{1}, input + begin * in, in, a, in,
         T{0}, xa, rank);
    Gemm(Op::kNone, Op::kTranspose, end - begin, out, rank, scaling, xa, rank, b, rank, T{1},
         y + begin * out, out);
    return;
  }
  for (int64_t t = begin; t < end; ++t, xa += rank) {
    for (int64_t k = 0; k < rank; ++k) xa[k] = Dot(input + t * in, a + k * in, in);
    AddLoraRow(b, xa, rank, scaling, y + t * out, out);
  }
}

template <typename T>
void LoraBackwardRows(const LoraGradient<T>& g, int64_t begin, int64_t end) {
  const LoraSegment& segment = *g.segment;
  begin = std::max(begin, segment.row_begin);
  end = std::min(end, segment.row_end);
  if (begin >= end) return;
  const int64_t rank = segment.a.shape[0], rows = end - begin, in = g.in;
  const T* a = segment.a.as<T>();
  T* s = g.s + (begin - segment.row_begin) * rank;
  Gemm(Op::kNone, Op::kNone, rows, rank, g.out, static_cast<T>(segment.scaling),
       g.dy + begin * g.out, g.out, segment.b.as<T>(), rank, T{0}, s, rank);
  g.flops.Backward(FlopOp::kLora, rows * (2 * rank * g.out + rank));
  if (g.dx != nullptr) g.flops.Backward(FlopOp::kLora, 2 * rows * rank * in);
  if (g.dropout->probability == 0) {
    if (g.dx == nullptr) return;
    Gemm(Op::kNone, Op::kNone, rows, in, rank, T{1}, s, rank, a, in, T{1}, g.dx + begin * in, in);
    return;
  }
  if (g.dx != nullptr) {
    T* wide = g.dropped + begin * in;
    Gemm(Op::kNone, Op::kNone, rows, in, rank, T{1}, s, rank, a, in, T{0}, wide, in);
    for (int64_t t = begin; t < end; ++t) {
      DropRow(*g.dropout, t, g.dropped + t * in, in, /*accumulate=*/true, g.dx + t * in);
    }
    g.flops.Backward(FlopOp::kDropout, 3 * rows * in);
  }
  Dropped(*g.dropout, g.x, in, begin, end, g.dropped, FlopPass::kBackward, g.flops);
}

template <typename T>
void LoraBackwardB(const LoraGradient<T>& g, int64_t begin, int64_t end) {
  const LoraSegment& segment = *g.segment;
  const int64_t rank = segment.a.shape[0], rows = segment.row_end - segment.row_begin;
  Gemm(Op::kTranspose, Op::kNone, end - begin, rank, rows, static_cast<T>(segment.scaling),
       g.dy + segment.row_begin * g.out + begin, g.out, segment.xa.as<T>(), rank, T{1},
       segment.db.as<T>() + begin * rank, rank);
  g.flops.Backward(FlopOp::kLora, (end - begin) * rank * (2 * rows + 1));
}

template <typename T>
void LoraBackwardA(const LoraGradient<T>& g, int64_t begin, int64_t end) {
  const LoraSegment& segment = *g.segment;
  const int64_t rank = segment.a.shape[0], rows = segment.row_end - segment.row_begin;
  const T* input = g.dropout->probability == 0 ? g.x : g.dropped;
  Gemm(Op::kTranspose, Op::kNone, rank, end - begin, rows, T{1}, g.s, rank,
       input + segment.row_begin * g.in + begin, g.in, T{1}, segment.da.as<T>() + begin, g.in);
  g.flops.Backward(FlopOp::kLora, 2 * rank * (end - begin) * rows);
}

template void LoraForward(const LoraSegment&, const LoraDropout&, const float*, int64_t, float*,
                          int64_t, int64_t, int64_t, bool, float*, FlopMeter);
template void LoraForward(const LoraSegment&, const LoraDropout&, const double*, int64_t, double*,
                          int64_t, int64_t, int64_t, bool, double*, FlopMeter);
template void LoraBackwardRows(const LoraGradient<float>&, int64_t, int64_t);
template void LoraBackwardRows(const LoraGradient<double>&, int64_t, int64_t);
template void LoraBackwardB(const LoraGradient<float>&, int64_t, int64_t);
template void LoraBackwardB(const LoraGradient<double>&, int64_t, int64_t);
template void LoraBackwardA(const LoraGradient<float>&, int64_t, int64_t);
template void LoraBackwardA(const LoraGradient<double>&, int64_t, int64_t);

}  // namespace lorad::cpu
