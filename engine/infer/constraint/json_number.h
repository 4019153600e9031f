// Numbers of constrained JSON. Internal to engine/infer/constraint.
//
// They are as long as every reader can take: at most 18 digits before the point (an int64 holds
// them), 15 behind it, and an exponent of at most two digits (a double's range). Minus zero is not
// written where a number has bounds or is an integer.
#ifndef LORAD_ENGINE_INFER_CONSTRAINT_JSON_NUMBER_H_
#define LORAD_ENGINE_INFER_CONSTRAINT_JSON_NUMBER_H_

#include <cstdint>

#include "engine/infer/constraint/expression.h"

namespace lorad {

inline constexpr int64_t kLargestInteger = 999'999'999'999'999'999;
// Open bounds of numbers must be near enough to zero for a double to tell every number with
// kBoundedFractionDigits from them.
inline constexpr int64_t kLargestOpenBound = 999'999;
inline constexpr int32_t kBoundedFractionDigits = 9;

struct NumberBounds {
  int64_t low = -kLargestInteger;
  int64_t high = kLargestInteger;
  bool low_open = false, high_open = false;  // the bound itself is not in it; of numbers alone
};

ExpressionPtr JsonNumber();
// The integers low..high, in -kLargestInteger..kLargestInteger; nothing when low > high.
ExpressionPtr JsonInteger(int64_t low, int64_t high);
// Numbers without an exponent, with at most kBoundedFractionDigits behind the point.
ExpressionPtr JsonNumberWithin(const NumberBounds& bounds);

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_CONSTRAINT_JSON_NUMBER_H_
