#ifndef LORAD_ENGINE_OPS_CPU_PANEL_H_
#define LORAD_ENGINE_OPS_CPU_PANEL_H_

#include <algorithm>
#include <cstdint>

#include "engine/ops/cpu/kernels.h"

namespace lorad::cpu {

// Weights decoded at once: 4 MiB of floats, so that the product that follows reads them from cache.
inline constexpr int64_t kPanelElements = 1 << 20;
inline constexpr int64_t kMinPanelRows = 64;  // fewer make the product slow

inline int64_t PanelRows(const WeightView& weight) {
  return std::min(
      weight.out_features,
      std::max(kMinPanelRows, kPanelElements / std::max<int64_t>(1, weight.in_features)));
}
inline int64_t PanelElements(const WeightView& weight) {
  return PanelRows(weight) * weight.in_features;
}

// body(row_begin, row_end, w) for consecutive panels of the decoded weight; w [rows, in] in
// `panel`.
template <typename T, typename Body>
void ForPanels(const WeightView& weight, T* panel, ThreadPool& pool, Body body) {
  const int64_t panel_rows = PanelRows(weight), in = weight.in_features;
  for (int64_t begin = 0; begin < weight.out_features; begin += panel_rows) {
    const int64_t end = std::min(begin + panel_rows, weight.out_features);
    pool.For(end - begin, 16, [&](int64_t first, int64_t last) {
      DequantizeRows(weight, begin + first, begin + last, panel + first * in);
    });
    body(begin, end, panel);
  }
}

}  // namespace lorad::cpu

#endif  // LORAD_ENGINE_OPS_CPU_PANEL_H_
