// A tokenizer whose ids are the bytes of the text, and 256 the end of it.
#ifndef LORAD_TESTS_SUPPORT_BYTE_TOKENIZER_H_
#define LORAD_TESTS_SUPPORT_BYTE_TOKENIZER_H_

#include <memory>
#include <string>

#include "engine/io/tokenizer.h"

namespace lorad {

std::unique_ptr<const Tokenizer> MakeByteTokenizer();
// Its tokenizer.json.
std::string ByteTokenizerJson();

}  // namespace lorad

#endif  // LORAD_TESTS_SUPPORT_BYTE_TOKENIZER_H_
