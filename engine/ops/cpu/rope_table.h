#ifndef LORAD_ENGINE_OPS_CPU_ROPE_TABLE_H_
#define LORAD_ENGINE_OPS_CPU_ROPE_TABLE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace lorad::cpu {

// Cosines and sines of the rotary embedding, kept from call to call: every layer asks for the same
// positions, and a sine costs as much as the rotation of ten elements. Thread-compatible.
template <typename T>
class RopeTable {
 public:
  // Rows are kept for positions below this; 4 MiB for head dimension 128 in float.
  static constexpr int64_t kMaxKept = 8192;

  // Makes the rows of positions up to `largest` ready. Starts anew when the frequencies are others
  // than at the last call.
  void Prepare(const float* inv_freq, int64_t half, int64_t largest) {
    if (!std::equal(inv_freq_.begin(), inv_freq_.end(), inv_freq, inv_freq + half)) {
      inv_freq_.assign(inv_freq, inv_freq + half);
      rows_.clear();
    }
    const int64_t have = half == 0 ? 0 : static_cast<int64_t>(rows_.size()) / (2 * half);
    const int64_t want = std::min(largest + 1, kMaxKept);
    if (have >= want) return;
    rows_.resize(want * 2 * half);
    for (int64_t p = have; p < want; ++p) Fill(p, rows_.data() + p * 2 * half);
  }

  // cos [half], sin [half] of a position, in `spare` when it is not kept. Thread-safe between
  // Prepare calls.
  const T* Row(int64_t position, std::vector<T>& spare) const {
    const int64_t width = 2 * static_cast<int64_t>(inv_freq_.size());
    if ((position + 1) * width <= static_cast<int64_t>(rows_.size())) {
      return rows_.data() + position * width;
    }
    spare.resize(width);
    Fill(position, spare.data());
    return spare.data();
  }

 private:
  void Fill(int64_t position, T* row) const {
    const int64_t half = static_cast<int64_t>(inv_freq_.size());
    for (int64_t i = 0; i < half; ++i) {
      // The angle is rounded to fp32, as transformers computes it.
      const float angle = static_cast<float>(position) * inv_freq_[i];
      row[i] = std::cos(static_cast<T>(angle));
      row[half + i] = std::sin(static_cast<T>(angle));
    }
  }

  std::vector<float> inv_freq_;
  std::vector<T> rows_;  // [positions, 2, half]
};

}  // namespace lorad::cpu

#endif  // LORAD_ENGINE_OPS_CPU_ROPE_TABLE_H_
