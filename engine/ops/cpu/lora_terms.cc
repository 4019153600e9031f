#include "engine/ops/cpu/lora_terms.h"

#include "engine/ops/cpu/dropout.h"
#include "engine/ops/cpu/gemm.h"
#include "engine/ops/cpu/vector_math.h"

namespace lorad::cpu {
namespace {

// drop(x) of the segment's rows, in scratch; x itself when there is no dropout.
template <typename T>
const T* Dropped(const LoraSegment& segment, const LoraDropout& dropout, const T* x, int64_t in,
                 T* scratch) {
  if (dropout.probability == 0) return x + segment.row_begin * in;
  for (int64_t t = segment.row_begin; t < segment.row_end; ++t) {
    DropRow(dropout, t, x + t * in, in, /*accumulate=*/false,
            scratch + (t - segment.row_begin) * in);
  }
  return scratch;
}

}  // namespace

template <typename T>
void LoraForward(const LoraSegment& segment, const LoraDropout& dropout, const T* x, int64_t in,
                 T* y, int64_t out, bool row_invariant, T* scratch) {
  const int64_t rows = segment.row_end - segment.row_begin, rank = segment.a.shape[0];
  if (rows == 0) return;
  const T* dropped = Dropped(segment, dropout, x, in, scratch);
  const T* a = segment.a.as<T>();
  const T* b = segment.b.as<T>();
  T* xa = segment.xa.as<T>();
  T* y_rows = y + segment.row_begin * out;
  if (row_invariant) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t k = 0; k < rank; ++k) xa[r * rank + k] = Dot(dropped + r * in, a + k * in, in);
      for (int64_t o = 0; o < out; ++o) {
        y_rows[r * out + o] += segment.scaling * Dot(xa + r * rank, b + o * rank, rank);
      }
    }
    return;
  }
  Gemm(Op::kNone, Op::kTranspose, rows, rank, in, T{1}, dropped, in, a, in, T{0}, xa, rank);
  Gemm(Op::kNone, Op::kTranspose, rows, out, rank, static_cast<T>(segment.scaling), xa, rank, b,
       rank, T{1}, y_rows, out);
}

template <typename T>
void LoraBackward(const LoraSegment& segment, const LoraDropout& dropout, const T* x, int64_t in,
                  const T* dy, int64_t out, T* dx, T* scratch) {
  const int64_t rows = segment.row_end - segment.row_begin, rank = segment.a.shape[0];
  if (rows == 0) return;
  const T scaling = segment.scaling;
  const T* dy_rows = dy + segment.row_begin * out;
  const T* a = segment.a.as<T>();
  T* s = scratch;
  T* wide = scratch + rows * rank;
  Gemm(Op::kTranspose, Op::kNone, out, rank, rows, scaling, dy_rows, out, segment.xa.as<T>(), rank,
       T{1}, segment.db.as<T>(), rank);
  Gemm(Op::kNone, Op::kNone, rows, rank, out, scaling, dy_rows, out, segment.b.as<T>(), rank, T{0},
       s, rank);
  const T* dropped = Dropped(segment, dropout, x, in, wide);
  Gemm(Op::kTranspose, Op::kNone, rank, in, rows, T{1}, s, rank, dropped, in, T{1},
       segment.da.as<T>(), in);
  if (dx == nullptr) return;
  T* dx_rows = dx + segment.row_begin * in;
  if (dropout.probability == 0) {
    Gemm(Op::kNone, Op::kNone, rows, in, rank, T{1}, s, rank, a, in, T{1}, dx_rows, in);
    return;
  }
  Gemm(Op::kNone, Op::kNone, rows, in, rank, T{1}, s, rank, a, in, T{0}, wide, in);
  for (int64_t r = 0; r < rows; ++r) {
    DropRow(dropout, segment.row_begin + r, wide + r * in, in, /*accumulate=*/true,
            dx_rows + r * in);
  }
}

template void LoraForward(const LoraSegment&, const LoraDropout&, const float*, int64_t, float*,
                          int64_t, bool, float*);
template void LoraForward(const LoraSegment&, const LoraDropout&, const double*, int64_t, double*,
                          int64_t, bool, double*);
template void LoraBackward(const LoraSegment&, const LoraDropout&, const float*, int64_t,
                           const float*, int64_t, float*, float*);
template void LoraBackward(const LoraSegment&, const LoraDropout&, const double*, int64_t,
                           const double*, int64_t, double*, double*);

}  // namespace lorad::cpu
