#include "engine/io/tokenizer/added_tokens.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/io/json_check.h"
#include "engine/io/tokenizer/json_fields.h"
#include "engine/io/tokenizer/unicode.h"
#include "engine/io/utf8.h"

namespace lorad {
namespace {

// First byte of the character that ends before `at`. REQUIRES: at > 0, valid UTF-8.
size_t PreviousChar(std::string_view text, size_t at) {
  --at;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

size_t WhitespaceBegin(std::string_view text, size_t end, size_t floor) {
  while (end > floor) {
    const size_t previous = PreviousChar(text, end);
    if (!IsWhitespace(NextUtf8(text.substr(previous)).code_point)) break;
    end = previous;
  }
  return std::max(end, floor);
}

size_t WhitespaceEnd(std::string_view text, size_t begin) {
  while (begin < text.size()) {
    const Utf8Step step = NextUtf8(text.substr(begin));
    if (!IsWhitespace(step.code_point)) break;
    begin += step.length;
  }
  return begin;
}

bool IsSingleWord(std::string_view text, size_t begin, size_t end) {
  const bool word_before =
      begin > 0 && IsWordChar(NextUtf8(text.substr(PreviousChar(text, begin))).code_point);
  const bool word_after = end < text.size() && IsWordChar(NextUtf8(text.substr(end)).code_point);
  return !word_before && !word_after;
}

}  // namespace

void TokenTrie::Add(std::string_view text, int32_t value) {
  int32_t node = 0;
  for (const char c : text) {
    const uint8_t byte = static_cast<uint8_t>(c);
    auto& children = nodes_[node].children;
    auto at = std::lower_bound(children.begin(), children.end(), std::make_pair(byte, int32_t{0}));
    if (at == children.end() || at->first != byte) {
      at = children.insert(at, {byte, static_cast<int32_t>(nodes_.size())});
      node = at->second;
      nodes_.emplace_back();
    } else {
      node = at->second;
    }
  }
  nodes_[node].value = value;
}

TokenTrie::Hit TokenTrie::Longest(std::string_view text) const {
  Hit hit;
  int32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const uint8_t byte = static_cast<uint8_t>(text[i]);
    const auto& children = nodes_[node].children;
    const auto at =
        std::lower_bound(children.begin(), children.end(), std::make_pair(byte, int32_t{0}));
    if (at == children.end() || at->first != byte) break;
    node = at->second;
    if (nodes_[node].value >= 0) hit = {nodes_[node].value, i + 1};
  }
  return hit;
}

absl::Status AddedTokens::AddTokens(const nlohmann::json* json, const std::string& where,
                                    Vocabulary* vocabulary) {
  if (json == nullptr) return absl::OkStatus();
  if (!json->is_array()) return absl::InvalidArgumentError(absl::StrCat(where, ": not an array"));
  for (size_t i = 0; i < json->size(); ++i) {
    const nlohmann::json& item = (*json)[i];
    const std::string place = absl::StrCat(where, ", entry ", i);
    RETURN_IF_ERROR(CheckFields(
        item, {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"},
        place));
    ASSIGN_OR_RETURN(const int32_t id, IntField(item, "id", place));
    ASSIGN_OR_RETURN(const std::string content, StringField(item, "content", place));
    if (content.size() > kMaxAddedTokenBytes)
      return absl::InvalidArgumentError(absl::StrCat(place, ": the content has ", content.size(),
                                                     " bytes, the limit is ", kMaxAddedTokenBytes));
    RETURN_IF_ERROR(vocabulary->Add(content, id, place));
  }
  return absl::OkStatus();
}

absl::StatusOr<AddedTokens> AddedTokens::FromJson(const nlohmann::json* json,
                                                  const Normalizer& normalizer,
                                                  const std::string& where,
                                                  Vocabulary* vocabulary) {
  AddedTokens added;
  if (json == nullptr) return added;
  for (size_t i = 0; i < json->size(); ++i) {
    const nlohmann::json& item = (*json)[i];
    const std::string place = absl::StrCat(where, ", entry ", i);
    Token token;
    ASSIGN_OR_RETURN(token.id, IntField(item, "id", place));
    ASSIGN_OR_RETURN(token.single_word, BoolField(item, "single_word", false, place));
    ASSIGN_OR_RETURN(token.strip_left, BoolField(item, "lstrip", false, place));
    ASSIGN_OR_RETURN(token.strip_right, BoolField(item, "rstrip", false, place));
    ASSIGN_OR_RETURN(token.special, BoolField(item, "special", false, place));
    ASSIGN_OR_RETURN(const bool normalized, BoolField(item, "normalized", !token.special, place));
    ASSIGN_OR_RETURN(std::string content, StringField(item, "content", place));
    // What is looked for in normalised text is itself normalised.
    if (normalized) {
      const std::string spelled = content;
      RETURN_IF_ERROR(normalizer.Apply(&content));
      if (content != spelled) added.decoded_as_[token.id] = content;
    }
    if (content.empty())
      return absl::InvalidArgumentError(
          absl::StrCat(place, ": nothing is left of the content after normalisation"));
    (normalized ? added.normalized_ : added.raw_)
        .Add(content, static_cast<int32_t>(added.tokens_.size()));
    added.tokens_.push_back(token);
    if (token.special) vocabulary->MarkSpecial(token.id);
  }
  return added;
}

const std::string* AddedTokens::DecodedAs(int32_t id) const {
  const auto found = decoded_as_.find(id);
  return found == decoded_as_.end() ? nullptr : &found->second;
}

std::vector<AddedTokenPart> AddedTokens::Split(std::string_view text, bool normalized,
                                               bool allow_special) const {
  const TokenTrie& trie = normalized ? normalized_ : raw_;
  std::vector<AddedTokenPart> parts;
  size_t done = 0;
  for (size_t at = 0; at < text.size() && !trie.empty();) {
    const TokenTrie::Hit hit = trie.Longest(text.substr(at));
    if (hit.length == 0) {
      ++at;
      continue;
    }
    const Token& token = tokens_[hit.value];
    size_t begin = at, end = at + hit.length;
    at = end;  // a match that does not count still covers its text
    if (token.special && !allow_special) continue;
    if (token.single_word && !IsSingleWord(text, begin, end)) continue;
    if (token.strip_left) begin = WhitespaceBegin(text, begin, std::min(done, begin));
    if (token.strip_right) end = WhitespaceEnd(text, end);
    if (begin > done) parts.push_back({done, begin, -1});
    parts.push_back({begin, end, token.id});
    done = std::max(done, end);
  }
  if (done < text.size()) parts.push_back({done, text.size(), -1});
  return parts;
}

}  // namespace lorad
