// Tokens that are found in a text before anything else is done to it. Internal to engine/io.
#ifndef LORAD_ENGINE_IO_TOKENIZER_ADDED_TOKENS_H_
#define LORAD_ENGINE_IO_TOKENIZER_ADDED_TOKENS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/io/tokenizer/normalizer.h"
#include "engine/io/tokenizer/vocabulary.h"
#include "nlohmann/json_fwd.hpp"

namespace lorad {

inline constexpr size_t kMaxAddedTokenBytes = 4096;

// Part of a text: an added token, or text between them.
struct AddedTokenPart {
  size_t begin, end;
  int32_t id;  // -1 for text
};

// A set of strings that finds, at each place, the longest that is there.
class TokenTrie {
 public:
  TokenTrie() : nodes_(1) {}
  void Add(std::string_view text, int32_t value);
  // Value and length of the longest string at the start of `text`; length 0 when there is none.
  struct Hit {
    int32_t value = -1;
    size_t length = 0;
  };
  Hit Longest(std::string_view text) const;
  bool empty() const { return nodes_.size() == 1; }

 private:
  struct Node {
    std::vector<std::pair<uint8_t, int32_t>> children;  // sorted by byte
    int32_t value = -1;
  };
  std::vector<Node> nodes_;
};

// Immutable once loaded. Thread-safe.
class AddedTokens {
 public:
  // Adds the tokens to `vocabulary`, before it is sealed. `json` may be null. kInvalidArgument
  // names a bad entry.
  static absl::Status AddTokens(const nlohmann::json* json, const std::string& where,
                                Vocabulary* vocabulary);
  // `vocabulary` is sealed; the special tokens are marked in it.
  static absl::StatusOr<AddedTokens> FromJson(const nlohmann::json* json,
                                              const Normalizer& normalizer,
                                              const std::string& where, Vocabulary* vocabulary);

  // What decoding makes of the token `id`, null when that is the token itself: a token looked for
  // in normalised text stands for normalised text (tokenizers 0.23; earlier ones gave the content).
  const std::string* DecodedAs(int32_t id) const;

  // Cuts `text` at the tokens that are looked for in the text as it came (`normalized` false) or
  // after the normaliser (true). Special tokens count only if `allow_special`.
  std::vector<AddedTokenPart> Split(std::string_view text, bool normalized,
                                    bool allow_special) const;

 private:
  struct Token {
    int32_t id;
    bool single_word;  // only where no word character is next to it
    bool strip_left;   // takes the white space before it along
    bool strip_right;  // and after it
    bool special;
  };
  std::vector<Token> tokens_;
  absl::flat_hash_map<int32_t, std::string> decoded_as_;
  TokenTrie raw_, normalized_;  // values are indices of tokens_
};

}  // namespace lorad

#endif  // LORAD_ENGINE_IO_TOKENIZER_ADDED_TOKENS_H_
