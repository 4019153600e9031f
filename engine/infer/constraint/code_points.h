// Sets of Unicode characters, and their UTF-8 as ranges of bytes.
#ifndef LORAD_ENGINE_INFER_CONSTRAINT_CODE_POINTS_H_
#define LORAD_ENGINE_INFER_CONSTRAINT_CODE_POINTS_H_

#include <cstdint>
#include <vector>

namespace lorad {

struct CodePointRange {
  char32_t low, high;  // both belong to it
  bool operator==(const CodePointRange&) const = default;
};

// Ascending, apart from each other, never surrogates. The functions here return it in this form and
// take ranges in any.
using CodePoints = std::vector<CodePointRange>;

inline constexpr char32_t kLastCodePoint = 0x10FFFF;

CodePoints Normalized(CodePoints set);
CodePoints Union(const CodePoints& a, const CodePoints& b);
// All characters that are not in `set`.
CodePoints Complement(const CodePoints& set);
CodePoints Without(const CodePoints& set, const CodePoints& taken);
CodePoints AllCodePoints();

struct ByteRange {
  uint8_t low, high;
};
using ByteSequence = std::vector<ByteRange>;  // 1 to 4 long: one range for each byte

// The UTF-8 of exactly these characters. Every sequence stands for the product of its ranges.
std::vector<ByteSequence> Utf8Sequences(const CodePoints& set);

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_CONSTRAINT_CODE_POINTS_H_
