#include "engine/infer/constraint/json_number.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lorad {
namespace {

constexpr int32_t kIntegerDigits = 18;
constexpr int32_t kFractionDigits = 15;
constexpr int32_t kExponentDigits = 2;

ExpressionPtr Digit(char low, char high) {
  return OneOf({{static_cast<char32_t>(low), static_cast<char32_t>(high)}});
}
ExpressionPtr Digits(int32_t min, int32_t max) {
  return Repeated(Digit('0', '9'), min, max, "the digits of a number");
}

// Digit strings as long as `low` that are not before it, or not after `high`.
ExpressionPtr AtLeast(std::string_view low) {
  if (low.empty()) return InOrder({});
  std::vector<ExpressionPtr> ways = {InOrder({Digit(low[0], low[0]), AtLeast(low.substr(1))})};
  const int32_t rest = static_cast<int32_t>(low.size()) - 1;
  if (low[0] < '9') ways.push_back(InOrder({Digit(low[0] + 1, '9'), Digits(rest, rest)}));
  return AnyOf(std::move(ways));
}

ExpressionPtr AtMost(std::string_view high) {
  if (high.empty()) return InOrder({});
  std::vector<ExpressionPtr> ways = {InOrder({Digit(high[0], high[0]), AtMost(high.substr(1))})};
  const int32_t rest = static_cast<int32_t>(high.size()) - 1;
  if (high[0] > '0') ways.push_back(InOrder({Digit('0', high[0] - 1), Digits(rest, rest)}));
  return AnyOf(std::move(ways));
}

// Digit strings of one length from `low` to `high`.
ExpressionPtr Between(std::string_view low, std::string_view high) {
  if (low.empty()) return InOrder({});
  if (low[0] == high[0])
    return InOrder({Digit(low[0], low[0]), Between(low.substr(1), high.substr(1))});
  std::vector<ExpressionPtr> ways = {InOrder({Digit(low[0], low[0]), AtLeast(low.substr(1))}),
                                     InOrder({Digit(high[0], high[0]), AtMost(high.substr(1))})};
  const int32_t rest = static_cast<int32_t>(low.size()) - 1;
  if (low[0] + 1 < high[0])
    ways.push_back(InOrder({Digit(low[0] + 1, high[0] - 1), Digits(rest, rest)}));
  return AnyOf(std::move(ways));
}

// The integers low..high without sign and leading zeros. REQUIRES: 0 <= low.
ExpressionPtr Natural(int64_t low, int64_t high) {
  std::vector<ExpressionPtr> ways;
  while (low <= high) {  // one round for each number of digits
    const std::string first = std::to_string(low);
    const std::string last = std::to_string(high);
    const std::string nines(first.size(), '9');
    ways.push_back(Between(first, last.size() == first.size() ? last : nines));
    if (last.size() == first.size()) break;
    low = std::stoll(nines) + 1;
  }
  return AnyOf(std::move(ways));
}

ExpressionPtr AnyFraction() {
  return Maybe(InOrder({Literal("."), Digits(1, kBoundedFractionDigits)}));
}
ExpressionPtr ZeroFraction() {
  return Maybe(InOrder(
      {Literal("."), Repeated(Literal("0"), 1, kBoundedFractionDigits, "the digits of a number")}));
}
ExpressionPtr NonZeroFraction() {
  std::vector<ExpressionPtr> ways;  // by the number of zeros before the first other digit
  for (int32_t zeros = 0; zeros < kBoundedFractionDigits; ++zeros)
    ways.push_back(InOrder({Literal("." + std::string(zeros, '0')), Digit('1', '9'),
                            Digits(0, kBoundedFractionDigits - 1 - zeros)}));
  return AnyOf(std::move(ways));
}

// Numbers without sign in the bounds. REQUIRES: 0 <= low.
ExpressionPtr Magnitude(const NumberBounds& bounds) {
  const auto [low, high, low_open, high_open] = bounds;
  std::vector<ExpressionPtr> ways;
  if (low == high && !low_open && !high_open)
    ways.push_back(InOrder({Natural(low, low), ZeroFraction()}));
  if (low >= high) return AnyOf(std::move(ways));
  ways.push_back(InOrder({Natural(low, low), low_open ? NonZeroFraction() : AnyFraction()}));
  if (low + 1 <= high - 1) ways.push_back(InOrder({Natural(low + 1, high - 1), AnyFraction()}));
  if (!high_open) ways.push_back(InOrder({Natural(high, high), ZeroFraction()}));
  return AnyOf(std::move(ways));
}

}  // namespace

ExpressionPtr JsonNumber() {
  const ExpressionPtr whole =
      AnyOf({Literal("0"), InOrder({Digit('1', '9'), Digits(0, kIntegerDigits - 1)})});
  const ExpressionPtr fraction = InOrder({Literal("."), Digits(1, kFractionDigits)});
  const ExpressionPtr exponent =
      InOrder({OneOf({{'E', 'E'}, {'e', 'e'}}), Maybe(OneOf({{'+', '+'}, {'-', '-'}})),
               Digits(1, kExponentDigits)});
  return InOrder({Maybe(Literal("-")), whole, Maybe(fraction), Maybe(exponent)});
}

ExpressionPtr JsonInteger(int64_t low, int64_t high) {
  std::vector<ExpressionPtr> ways;
  if (high >= 0) ways.push_back(Natural(std::max<int64_t>(low, 0), high));
  if (low < 0) ways.push_back(InOrder({Literal("-"), Natural(std::max<int64_t>(-high, 1), -low)}));
  return AnyOf(std::move(ways));
}

ExpressionPtr JsonNumberWithin(const NumberBounds& bounds) {
  std::vector<ExpressionPtr> ways;
  if (bounds.high >= 0) {
    NumberBounds positive = bounds;
    if (bounds.low < 0) {
      positive.low = 0;
      positive.low_open = false;
    }
    ways.push_back(Magnitude(positive));
  }
  if (bounds.low < 0) {
    NumberBounds negative = {.low = -bounds.high,
                             .high = -bounds.low,
                             .low_open = bounds.high_open,
                             .high_open = bounds.low_open};
    if (bounds.high >= 0) {
      negative.low = 0;
      negative.low_open = true;
    }
    ways.push_back(InOrder({Literal("-"), Magnitude(negative)}));
  }
  return AnyOf(std::move(ways));
}

}  // namespace lorad
