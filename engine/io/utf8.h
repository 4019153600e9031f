// UTF-8 as Unicode 15, section 3.9 defines it: no overlong forms, no surrogates, at most U+10FFFF.
#ifndef LORAD_ENGINE_IO_UTF8_H_
#define LORAD_ENGINE_IO_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace lorad {

// What the bytes at the start of a text are.
struct Utf8Step {
  enum class Kind : uint8_t { kCharacter, kInvalid, kIncomplete };
  Kind kind = Kind::kInvalid;
  uint8_t length = 0;       // bytes; of the maximal ill-formed subpart when not a character
  char32_t code_point = 0;  // of a character
};

// The first character of `text`. kIncomplete: the text ends in the middle of what could become
// one. REQUIRES: text is not empty.
Utf8Step NextUtf8(std::string_view text);

// Offset of the first byte that is not part of a character; text.size() when all is well-formed.
size_t FirstInvalidUtf8(std::string_view text);

void AppendUtf8(char32_t code_point, std::string* text);

// Turns bytes that arrive in pieces into valid UTF-8: each maximal ill-formed subpart becomes one
// U+FFFD (Unicode 15, table 3-8). Thread-compatible.
class Utf8Assembler {
 public:
  // Appends to `out` the characters that are settled.
  void Push(std::string_view bytes, std::string* out);
  // The bytes held back, as U+FFFD.
  void Finish(std::string* out);

 private:
  std::string held_;  // at most 3 bytes, the start of a character
};

}  // namespace lorad

#endif  // LORAD_ENGINE_IO_UTF8_H_
