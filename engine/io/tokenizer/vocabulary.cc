#include "engine/io/tokenizer/vocabulary.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/io/json_check.h"
#include "engine/io/text.h"

namespace lorad {

absl::Status Vocabulary::Add(const std::string& token, int32_t id, const std::string& where) {
  if (token.empty())
    return absl::InvalidArgumentError(absl::StrCat(where, ": the token of id ", id, " is empty"));
  const auto [by_token, new_token] = staged_.emplace(token, id);
  if (!new_token && by_token->second != id)
    return absl::InvalidArgumentError(absl::StrCat(
        where, ": token \"", ClippedText(token), "\" has the ids ", by_token->second, " and ", id));
  const auto [by_id, new_id] = staged_tokens_.emplace(id, token);
  if (!new_id && by_id->second != token)
    return absl::InvalidArgumentError(absl::StrCat(where, ": id ", id, " belongs to the tokens \"",
                                                   ClippedText(by_id->second), "\" and \"",
                                                   ClippedText(token), "\""));
  return absl::OkStatus();
}

absl::Status Vocabulary::Seal(const std::string& where) {
  if (staged_.empty()) return absl::InvalidArgumentError(absl::StrCat(where, ": no tokens"));
  // As many distinct ids as tokens: they are 0..n-1 if and only if none of those is missing.
  const int32_t size = static_cast<int32_t>(staged_tokens_.size());
  tokens_.reserve(staged_tokens_.size());
  for (int32_t id = 0; id < size; ++id) {
    const auto found = staged_tokens_.find(id);
    if (found == staged_tokens_.end())
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": id ", id, " has no token, but there are ", size, " tokens"));
    tokens_.push_back(std::move(found->second));
  }
  special_.assign(tokens_.size(), false);
  ids_.reserve(tokens_.size());
  for (int32_t id = 0; id < size; ++id) ids_.emplace(tokens_[id], id);
  staged_ = {};
  staged_tokens_ = {};
  return absl::OkStatus();
}

std::optional<int32_t> Vocabulary::Find(std::string_view token) const {
  const auto found = ids_.find(AbslView(token));
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

}  // namespace lorad
