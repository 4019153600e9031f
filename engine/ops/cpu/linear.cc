// Linear layers: matrix products over weights decoded in tiles, or, for decoding, row by row over
// the packed codes; then bias and LoRA.
#include <algorithm>
#include <vector>

#include "engine/core/checked_math.h"
#include "engine/ops/cpu/kernels.h"
#include "engine/ops/cpu/lora_terms.h"
#include "engine/ops/cpu/matrix_product.h"
#include "engine/ops/cpu/row_product.h"

namespace lorad::cpu {
namespace {

constexpr int64_t kRowPart = 128;     // rows of one piece of LoRA work
constexpr int64_t kColumnPart = 256;  // gradient columns of one piece of LoRA work

// Elements that hold drop(x) of the widest term with dropout.
template <typename Terms>
int64_t DroppedElements(const Terms& terms, int64_t num_tokens) {
  int64_t widest = 0;
  for (const auto& term : terms) {
    if (term.dropout.probability > 0 && !term.lora.empty()) {
      widest = std::max(widest, term.weight.in_features);
    }
  }
  return widest * num_tokens;
}

template <typename T>
void AddBias(const LinearTerm& term, int64_t begin, int64_t end, FlopMeter flops) {
  if (term.bias.empty()) return;
  const int64_t out = term.weight.out_features;
  const float* bias = term.bias.as<float>();
  for (int64_t r = begin; r < end; ++r) {
    T* y = term.y.as<T>() + r * out;
    for (int64_t o = 0; o < out; ++o) y[o] += bias[o];
  }
  flops.Forward(FlopOp::kLinear, (end - begin) * out);
}

// Bias and LoRA of one term.
template <typename T>
void FinishTerm(const LinearTerm& term, const LinearArgs& args, T* dropped, ThreadPool& pool,
                FlopMeter flops) {
  if (term.bias.empty() && term.lora.empty()) return;
  const int64_t rows = args.x.shape[0];
  pool.ForEach(CeilDiv(rows, kRowPart), [&](int64_t i, int) {
    const int64_t begin = i * kRowPart, end = std::min(begin + kRowPart, rows);
    AddBias<T>(term, begin, end, flops);
    for (const LoraSegment& segment : term.lora) {
      LoraForward(segment, term.dropout, args.x.as<T>(), term.weight.in_features, term.y.as<T>(),
                  term.weight.out_features, begin, end, args.row_invariant, dropped, flops);
    }
  });
}

// s of all segments of a term.
int64_t SElements(const LinearBackwardTerm& term) {
  int64_t elements = 0;
  for (const LoraSegment& segment : term.lora) {
    elements += (segment.row_end - segment.row_begin) * segment.a.shape[0];
  }
  return elements;
}

// Sums over rows: one writer for each column.
template <typename T>
void LoraBackwardColumns(const std::vector<LoraGradient<T>>& gradients, int64_t in, int64_t out,
                         ThreadPool& pool) {
  const int64_t b_parts = CeilDiv(out, kColumnPart), parts = b_parts + CeilDiv(in, kColumnPart);
  pool.ForEach(parts * static_cast<int64_t>(gradients.size()), [&](int64_t i, int) {
    const LoraGradient<T>& gradient = gradients[i / parts];
    const int64_t part = i % parts;
    if (part < b_parts) {
      LoraBackwardB(gradient, part * kColumnPart, std::min((part + 1) * kColumnPart, out));
    } else {
      const int64_t begin = (part - b_parts) * kColumnPart;
      LoraBackwardA(gradient, begin, std::min(begin + kColumnPart, in));
    }
  });
}

template <typename T>
void LoraBackward(const LinearBackwardTerm& term, const LinearBackwardArgs& args, T* dropped, T* s,
                  ThreadPool& pool, FlopMeter flops) {
  const int64_t rows = args.x.shape[0];
  const int64_t in = term.weight.in_features, out = term.weight.out_features;
  std::vector<LoraGradient<T>> gradients;
  for (const LoraSegment& segment : term.lora) {
    if (segment.row_begin == segment.row_end) continue;
    gradients.push_back({&segment, &term.dropout, args.x.as<T>(), in, term.dy.as<T>(), out,
                         args.dx.empty() ? nullptr : args.dx.as<T>(), s, dropped, flops});
    s += (segment.row_end - segment.row_begin) * segment.a.shape[0];
  }
  pool.ForEach(CeilDiv(rows, kRowPart), [&](int64_t i, int) {
    for (const LoraGradient<T>& gradient : gradients) {
      LoraBackwardRows(gradient, i * kRowPart, std::min((i + 1) * kRowPart, rows));
    }
  });
  LoraBackwardColumns(gradients, in, out, pool);
}

}  // namespace

template <typename T>
int64_t LinearWorkspaceBytes(const LinearArgs& args, const ThreadPool& pool) {
  const int64_t rows = args.x.shape[0];
  int64_t elements = args.row_invariant ? 0 : MatrixScratch(pool);
  for (const LinearTerm& term : args.terms) {
    if (args.row_invariant) elements = std::max(elements, RowProductScratch(term.weight, rows));
  }
  return (elements + DroppedElements(args.terms, rows)) * static_cast<int64_t>(sizeof(T));
}

template <typename T>
void Linear(const LinearArgs& args, ThreadPool& pool, FlopMeter flops) {
  const int64_t rows = args.x.shape[0];
  if (rows == 0) return;
  T* dropped = reinterpret_cast<T*>(args.workspace.data);
  T* scratch = dropped + DroppedElements(args.terms, rows);
  bool accumulate = args.accumulate;
  if (!args.residual.empty()) {
    const T* residual = args.residual.as<T>();
    T* y = args.terms[0].y.as<T>();
    if (y != residual) std::copy_n(residual, args.residual.num_elements(), y);
    accumulate = true;
  }
  if (args.row_invariant) {
    for (const LinearTerm& term : args.terms) {
      RowProduct(term.weight, args.x.as<T>(), rows, accumulate, term.y.as<T>(), scratch, pool,
                 flops);
    }
  } else {
    std::vector<MatrixTerm<T>> products;
    for (const LinearTerm& term : args.terms) products.push_back({&term.weight, term.y.as<T>()});
    MultiplyForward<T>(products, args.x.as<T>(), rows, accumulate, scratch, pool, FlopOp::kLinear,
                       flops);
  }
  for (const LinearTerm& term : args.terms) FinishTerm(term, args, dropped, pool, flops);
}

template <typename T>
int64_t LinearBackwardWorkspaceBytes(const LinearBackwardArgs& args, const ThreadPool& pool) {
  int64_t s = 0;
  for (const LinearBackwardTerm& term : args.terms) s = std::max(s, SElements(term));
  const int64_t lora = s + DroppedElements(args.terms, args.x.shape[0]);
  return std::max(MatrixScratch(pool), lora) * static_cast<int64_t>(sizeof(T));
}

template <typename T>
void LinearBackward(const LinearBackwardArgs& args, ThreadPool& pool, FlopMeter flops) {
  const int64_t rows = args.x.shape[0];
  if (rows == 0 || args.terms.empty()) return;
  T* scratch = reinterpret_cast<T*>(args.workspace.data);
  if (!args.dx.empty()) {
    std::vector<MatrixTerm<const T>> products;
    for (const LinearBackwardTerm& term : args.terms) {
      products.push_back({&term.weight, term.dy.as<T>()});
    }
    MultiplyBackward<T>(products, args.dx.as<T>(), rows, args.accumulate, scratch, pool,
                        FlopOp::kLinear, flops);
  }
  T* s = scratch + DroppedElements(args.terms, rows);
  for (const LinearBackwardTerm& term : args.terms) {
    if (!term.lora.empty()) LoraBackward(term, args, scratch, s, pool, flops);
  }
}

template int64_t LinearWorkspaceBytes<float>(const LinearArgs&, const ThreadPool&);
template int64_t LinearWorkspaceBytes<double>(const LinearArgs&, const ThreadPool&);
template int64_t LinearBackwardWorkspaceBytes<float>(const LinearBackwardArgs&, const ThreadPool&);
template int64_t LinearBackwardWorkspaceBytes<double>(const LinearBackwardArgs&, const ThreadPool&);
template void Linear<float>(const LinearArgs&, ThreadPool&, FlopMeter);
template void Linear<double>(const LinearArgs&, ThreadPool&, FlopMeter);
template void LinearBackward<float>(const LinearBackwardArgs&, ThreadPool&, FlopMeter);
template void LinearBackward<double>(const LinearBackwardArgs&, ThreadPool&, FlopMeter);

}  // namespace lorad::cpu
