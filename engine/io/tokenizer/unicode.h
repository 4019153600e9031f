// The character properties and normal forms that tokenizers rest on. Internal to engine/io.
#ifndef LORAD_ENGINE_IO_TOKENIZER_UNICODE_H_
#define LORAD_ENGINE_IO_TOKENIZER_UNICODE_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace lorad {

enum class NormalForm : uint8_t { kNfc, kNfd, kNfkc, kNfkd };

// Unicode normal form (UAX #15) of valid UTF-8. Linear but for sorting runs of combining marks,
// n log n. The Unicode version is that of the packaged utf8proc.
std::string Normalize(std::string_view text, NormalForm form);

bool IsWhitespace(char32_t c);  // property White_Space
bool IsNumeric(char32_t c);     // general category N
bool IsWordChar(char32_t c);    // what \w matches: letters, marks, decimal and letter numbers, Pc

// White_Space, and all else, as the inside of a PCRE2 character class.
extern const char kWhitespaceClass[];
extern const char kNonWhitespaceClass[];

// The printable stand-ins of bytes that byte-level BPE (GPT-2) spells its tokens with: printable
// Latin-1 stands for itself, the other bytes, in order, for U+0100 and on.
char32_t ByteLevelChar(uint8_t byte);
// Appends the bytes that `token` stands for; false, leaving `bytes` as it was, when a character of
// it stands for none.
bool AppendByteLevelBytes(std::string_view token, std::string* bytes);

}  // namespace lorad

#endif  // LORAD_ENGINE_IO_TOKENIZER_UNICODE_H_
