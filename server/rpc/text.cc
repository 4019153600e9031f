#include "server/rpc/text.h"

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "server/base/errors.h"

namespace lorad::server {

absl::StatusOr<const Tokenizer*> RequireTokenizer(const Engine& engine, absl::string_view need) {
  if (engine.tokenizer() != nullptr) return engine.tokenizer();
  return WithReason(absl::FailedPreconditionError(absl::StrCat(
                        "model ", engine.model().name, " has no tokenizer.json, which ", need,
                        " needs; give and take token ids instead")),
                    "NO_TOKENIZER", {{"model", engine.model().name}});
}

absl::StatusOr<std::vector<int32_t>> TextToIds(const Engine& engine, absl::string_view field,
                                               const std::string& text, bool add_special_tokens) {
  ASSIGN_OR_RETURN(const Tokenizer* tokenizer, RequireTokenizer(engine, field));
  absl::StatusOr<std::vector<int32_t>> ids =
      tokenizer->Encode(text, {.add_special_tokens = add_special_tokens});
  if (!ids.ok()) return AtField(field, ids.status());
  return ids;
}

absl::Status CheckIds(const Engine& engine, absl::string_view field,
                      absl::Span<const int32_t> ids) {
  const int32_t vocab_size = engine.model().vocab_size;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    return FieldError(
        field, absl::StrCat("id ", ids[i], " at position ", i, " is not in 0..", vocab_size - 1));
  }
  return absl::OkStatus();
}

}  // namespace lorad::server
