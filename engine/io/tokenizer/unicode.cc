#include "engine/io/tokenizer/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <vector>

#include "engine/core/check.h"
#include "engine/io/utf8.h"

namespace lorad {
namespace {

struct ByteLevelTable {
  std::array<char32_t, 256> char_of{};
  std::array<int16_t, 512> byte_of{};

  ByteLevelTable() {
    byte_of.fill(-1);
    char32_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xFF);
      char_of[byte] = printable && byte != 0xAD ? static_cast<char32_t>(byte) : next++;
      byte_of[char_of[byte]] = static_cast<int16_t>(byte);
    }
  }
};

const ByteLevelTable& ByteLevel() {
  static const ByteLevelTable table;
  return table;
}

int CombiningClass(utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; }

// Canonical (or compatibility) decomposition of each character, marks not yet in order.
std::vector<utf8proc_int32_t> Decompose(std::string_view text, utf8proc_option_t options) {
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size());
  int boundary_class = 0;
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    text.remove_prefix(step.length);
    utf8proc_int32_t parts[32];  // the longest decomposition has 18
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(step.code_point), parts,
                                std::size(parts), options, &boundary_class);
    LORAD_CHECK(count >= 0 && count <= static_cast<utf8proc_ssize_t>(std::size(parts)));
    points.insert(points.end(), parts, parts + count);
  }
  return points;
}

// Canonical ordering. Done here because utf8proc_decompose sorts by exchanging neighbours: a
// million marks would keep it busy for hours.
void SortMarks(std::vector<utf8proc_int32_t>* points) {
  auto run = points->begin();
  while (run != points->end()) {
    if (CombiningClass(*run) == 0) {
      ++run;
      continue;
    }
    auto end = std::find_if(run, points->end(), [](auto c) { return CombiningClass(c) == 0; });
    std::stable_sort(run, end,
                     [](auto a, auto b) { return CombiningClass(a) < CombiningClass(b); });
    run = end;
  }
}

}  // namespace

const char kWhitespaceClass[] =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
const char kNonWhitespaceClass[] =
    R"(\x{0}-\x{8}\x{e}-\x{1f}\x{21}-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027}\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";

std::string Normalize(std::string_view text, NormalForm form) {
  const bool compose = form == NormalForm::kNfc || form == NormalForm::kNfkc;
  const bool compat = form == NormalForm::kNfkc || form == NormalForm::kNfkd;
  // ASCII is in every normal form.
  if (std::all_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x80; }))
    return std::string(text);
  const int options = UTF8PROC_STABLE | (compat ? UTF8PROC_COMPAT : 0);
  std::vector<utf8proc_int32_t> points =
      Decompose(text, static_cast<utf8proc_option_t>(options | UTF8PROC_DECOMPOSE));
  SortMarks(&points);
  if (compose) {
    const utf8proc_ssize_t length =
        utf8proc_normalize_utf32(points.data(), static_cast<utf8proc_ssize_t>(points.size()),
                                 static_cast<utf8proc_option_t>(options | UTF8PROC_COMPOSE));
    LORAD_CHECK(length >= 0);
    points.resize(static_cast<size_t>(length));
  }
  std::string normal;
  normal.reserve(text.size());
  for (const utf8proc_int32_t point : points) AppendUtf8(static_cast<char32_t>(point), &normal);
  return normal;
}

bool IsWhitespace(char32_t c) {
  return (c >= 0x9 && c <= 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool IsNumeric(char32_t c) {
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

bool IsWordChar(char32_t c) {
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) ||
         category == UTF8PROC_CATEGORY_PC || c == 0x200C || c == 0x200D;  // the two Join_Control
}

char32_t ByteLevelChar(uint8_t byte) { return ByteLevel().char_of[byte]; }

bool AppendByteLevelBytes(std::string_view token, std::string* bytes) {
  const size_t before = bytes->size();
  while (!token.empty()) {
    const Utf8Step step = NextUtf8(token);
    const int16_t byte = step.kind == Utf8Step::Kind::kCharacter && step.code_point < 512
                             ? ByteLevel().byte_of[step.code_point]
                             : int16_t{-1};
    if (byte < 0) {
      bytes->resize(before);
      return false;
    }
    bytes->push_back(static_cast<char>(byte));
    token.remove_prefix(step.length);
  }
  return true;
}

}  // namespace lorad
