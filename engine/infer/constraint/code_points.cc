#include "engine/infer/constraint/code_points.h"

#include <algorithm>
#include <string>

#include "engine/io/utf8.h"

namespace lorad {
namespace {

constexpr CodePointRange kSurrogates = {0xD800, 0xDFFF};
// The last character of 1, 2, 3 and 4 bytes.
constexpr char32_t kLastOfLength[] = {0x7F, 0x7FF, 0xFFFF, kLastCodePoint};

// A range whose characters have equally many bytes is cut until it is a product: all of its bytes
// after the first that differs between its ends go from 80 to BF.
void AddSequences(char32_t low, char32_t high, std::vector<ByteSequence>* sequences) {
  for (int bits = 6; bits <= 18 && high > kLastOfLength[0]; bits += 6) {
    const char32_t tail = (char32_t{1} << bits) - 1;
    if ((low & ~tail) == (high & ~tail)) break;
    if ((low & tail) != 0) {
      AddSequences(low, low | tail, sequences);
      AddSequences((low | tail) + 1, high, sequences);
      return;
    }
    if ((high & tail) != tail) {
      AddSequences(low, (high & ~tail) - 1, sequences);
      AddSequences(high & ~tail, high, sequences);
      return;
    }
  }
  std::string first, last;
  AppendUtf8(low, &first);
  AppendUtf8(high, &last);
  ByteSequence sequence;
  for (size_t i = 0; i < first.size(); ++i)
    sequence.push_back({static_cast<uint8_t>(first[i]), static_cast<uint8_t>(last[i])});
  sequences->push_back(std::move(sequence));
}

}  // namespace

CodePoints Normalized(CodePoints set) {
  CodePoints scalar;
  for (const CodePointRange& range : set) {
    const CodePointRange before = {range.low, std::min<char32_t>(range.high, kSurrogates.low - 1)};
    const CodePointRange after = {std::max<char32_t>(range.low, kSurrogates.high + 1), range.high};
    if (before.low <= before.high) scalar.push_back(before);
    if (after.low <= after.high) scalar.push_back(after);
  }
  std::sort(scalar.begin(), scalar.end(),
            [](const CodePointRange& a, const CodePointRange& b) { return a.low < b.low; });
  CodePoints merged;
  for (const CodePointRange& range : scalar) {
    if (!merged.empty() && range.low <= merged.back().high + 1)
      merged.back().high = std::max(merged.back().high, range.high);
    else
      merged.push_back(range);
  }
  return merged;
}

CodePoints Union(const CodePoints& a, const CodePoints& b) {
  CodePoints both = a;
  both.insert(both.end(), b.begin(), b.end());
  return Normalized(std::move(both));
}

CodePoints Complement(const CodePoints& set) {
  CodePoints rest;
  char32_t next = 0;
  for (const CodePointRange& range : Normalized(set)) {
    if (range.low > next) rest.push_back({next, range.low - 1});
    next = range.high + 1;
  }
  if (next <= kLastCodePoint) rest.push_back({next, kLastCodePoint});
  return Normalized(std::move(rest));
}

CodePoints Without(const CodePoints& set, const CodePoints& taken) {
  return Complement(Union(Complement(set), taken));
}

CodePoints AllCodePoints() { return Complement({}); }

std::vector<ByteSequence> Utf8Sequences(const CodePoints& set) {
  std::vector<ByteSequence> sequences;
  for (const CodePointRange& range : Normalized(set)) {
    char32_t low = range.low;
    for (const char32_t last : kLastOfLength) {
      if (low > range.high) break;
      if (low > last) continue;
      AddSequences(low, std::min(range.high, last), &sequences);
      low = last + 1;
    }
  }
  return sequences;
}

}  // namespace lorad
