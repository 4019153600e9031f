// Linear layers: weights decoded in panels that stay in the cache, multiplied by OpenBLAS; or, for
// decoding, row by row over the packed codes.
#include <algorithm>

#include "engine/ops/cpu/gemm.h"
#include "engine/ops/cpu/kernels.h"
#include "engine/ops/cpu/lora_terms.h"
#include "engine/ops/cpu/panel.h"
#include "engine/ops/cpu/row_product.h"

namespace lorad::cpu {
namespace {

constexpr int kMaxThreads = 256;  // bounds the scratch of RowProduct

template <typename Terms>
int64_t LongestDropped(const Terms& terms) {
  int64_t longest = 0;
  for (const auto& term : terms) {
    for (const LoraSegment& segment : term.lora) {
      if (term.dropout.probability == 0) continue;
      longest = std::max(longest, (segment.row_end - segment.row_begin) * term.weight.in_features);
    }
  }
  return longest;
}

template <typename T>
void AddBias(const LinearTerm& term, int64_t rows) {
  if (term.bias.empty()) return;
  const int64_t out = term.weight.out_features;
  const float* bias = term.bias.as<float>();
  for (int64_t r = 0; r < rows; ++r) {
    T* y = term.y.as<T>() + r * out;
    for (int64_t o = 0; o < out; ++o) y[o] += bias[o];
  }
}

template <typename T>
void BaseProduct(const LinearTerm& term, const T* x, int64_t rows, bool accumulate, T* panel,
                 ThreadPool& pool) {
  const int64_t in = term.weight.in_features, out = term.weight.out_features;
  ForPanels(term.weight, panel, pool, [&](int64_t begin, int64_t end, const T* w) {
    Gemm(Op::kNone, Op::kTranspose, rows, end - begin, in, T{1}, x, in, w, in,
         accumulate ? T{1} : T{0}, term.y.as<T>() + begin, out);
  });
}

}  // namespace

template <typename T>
int64_t LinearWorkspaceBytes(const LinearArgs& args) {
  int64_t elements = 0;
  for (const LinearTerm& term : args.terms) {
    elements = std::max(elements, args.row_invariant
                                      ? RowProductScratch(term.weight, args.x.shape[0], kMaxThreads)
                                      : PanelElements(term.weight));
  }
  return (elements + LongestDropped(args.terms)) * static_cast<int64_t>(sizeof(T));
}

template <typename T>
void Linear(const LinearArgs& args, ThreadPool& pool) {
  const int64_t rows = args.x.shape[0];
  if (rows == 0) return;
  const T* x = args.x.as<T>();
  T* dropped = reinterpret_cast<T*>(args.workspace.data);
  T* scratch = dropped + LongestDropped(args.terms);
  for (LinearTerm& term : args.terms) {
    if (args.row_invariant) {
      RowProduct(term.weight, x, rows, args.accumulate, term.y.as<T>(), scratch, pool);
    } else {
      BaseProduct(term, x, rows, args.accumulate, scratch, pool);
    }
    AddBias<T>(term, rows);
    for (const LoraSegment& segment : term.lora) {
      LoraForward(segment, term.dropout, x, term.weight.in_features, term.y.as<T>(),
                  term.weight.out_features, args.row_invariant, dropped);
    }
  }
}

template <typename T>
int64_t LinearBackwardWorkspaceBytes(const LinearBackwardArgs& args) {
  int64_t panel = 0, lora = 0;
  for (const LinearBackwardTerm& term : args.terms) {
    panel = std::max(panel, PanelElements(term.weight));
    for (const LoraSegment& segment : term.lora) {
      const int64_t width =
          segment.a.shape[0] + (term.dropout.probability > 0 ? term.weight.in_features : 0);
      lora = std::max(lora, (segment.row_end - segment.row_begin) * width);
    }
  }
  return std::max(panel, lora) * static_cast<int64_t>(sizeof(T));
}

template <typename T>
void LinearBackward(const LinearBackwardArgs& args, ThreadPool& pool) {
  const int64_t rows = args.x.shape[0];
  if (rows == 0) return;
  T* scratch = reinterpret_cast<T*>(args.workspace.data);
  T* dx = args.dx.empty() ? nullptr : args.dx.as<T>();
  bool accumulate = args.accumulate;
  for (const LinearBackwardTerm& term : args.terms) {
    const int64_t in = term.weight.in_features, out = term.weight.out_features;
    const T* dy = term.dy.as<T>();
    if (dx != nullptr) {
      ForPanels(term.weight, scratch, pool, [&](int64_t begin, int64_t end, const T* w) {
        Gemm(Op::kNone, Op::kNone, rows, in, end - begin, T{1}, dy + begin, out, w, in,
             accumulate ? T{1} : T{0}, dx, in);
        accumulate = true;
      });
    }
    for (const LoraSegment& segment : term.lora) {
      LoraBackward(segment, term.dropout, args.x.as<T>(), in, dy, out, dx, scratch);
    }
  }
}

template int64_t LinearWorkspaceBytes<float>(const LinearArgs&);
template int64_t LinearWorkspaceBytes<double>(const LinearArgs&);
template int64_t LinearBackwardWorkspaceBytes<float>(const LinearBackwardArgs&);
template int64_t LinearBackwardWorkspaceBytes<double>(const LinearBackwardArgs&);
template void Linear<float>(const LinearArgs&, ThreadPool&);
template void Linear<double>(const LinearArgs&, ThreadPool&);
template void LinearBackward<float>(const LinearBackwardArgs&, ThreadPool&);
template void LinearBackward<double>(const LinearBackwardArgs&, ThreadPool&);

}  // namespace lorad::cpu
