// Size arithmetic that cannot wrap: every byte count computed from a file or a request goes through
// these before anything is allocated.
#ifndef LORAD_ENGINE_CORE_CHECKED_MATH_H_
#define LORAD_ENGINE_CORE_CHECKED_MATH_H_

#include <cstdint>
#include <optional>

namespace lorad {

inline std::optional<int64_t> CheckedMul(int64_t a, int64_t b) {
  int64_t product;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}
inline std::optional<int64_t> CheckedAdd(int64_t a, int64_t b) {
  int64_t sum;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t RoundUp(int64_t a, int64_t multiple) { return CeilDiv(a, multiple) * multiple; }

}  // namespace lorad

#endif  // LORAD_ENGINE_CORE_CHECKED_MATH_H_
