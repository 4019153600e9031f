#include "engine/io/tokenizer/normalizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/io/json_check.h"
#include "engine/io/tokenizer/json_fields.h"

namespace lorad {

absl::StatusOr<Normalizer> Normalizer::FromJson(const nlohmann::json* json,
                                                const std::string& where) {
  Normalizer normalizer;
  if (json != nullptr) RETURN_IF_ERROR(normalizer.Add(*json, where));
  return normalizer;
}

absl::Status Normalizer::Add(const nlohmann::json& json, const std::string& where) {
  ASSIGN_OR_RETURN(const std::string type, StringField(json, "type", where));
  const std::string place = absl::StrCat(where, ": ", ClippedText(type));
  if (type == "Sequence") {
    RETURN_IF_ERROR(CheckFields(json, {"type", "normalizers"}, place));
    ASSIGN_OR_RETURN(const nlohmann::json* steps, ArrayField(json, "normalizers", place));
    for (const nlohmann::json& step : *steps) RETURN_IF_ERROR(Add(step, place));
    return absl::OkStatus();
  }
  if (type == "Prepend") {
    RETURN_IF_ERROR(CheckFields(json, {"type", "prepend"}, place));
    ASSIGN_OR_RETURN(std::string prefix, StringField(json, "prepend", place));
    steps_.emplace_back(PrependStep{std::move(prefix)});
    return absl::OkStatus();
  }
  if (type == "Replace") {
    RETURN_IF_ERROR(CheckFields(json, {"type", "pattern", "content"}, place));
    const nlohmann::json* pattern_json = FindField(json, "pattern");
    if (pattern_json == nullptr)
      return absl::InvalidArgumentError(absl::StrCat(place, ": has no pattern"));
    ASSIGN_OR_RETURN(Pattern pattern, Pattern::FromJson(*pattern_json, place));
    ASSIGN_OR_RETURN(std::string content, StringField(json, "content", place));
    if (!pattern.is_literal() && content.find('$') != std::string::npos)
      return absl::UnimplementedError(
          absl::StrCat(place, ": groups ($1) in the replacement are not supported"));
    steps_.emplace_back(ReplaceStep{std::move(pattern), std::move(content)});
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(CheckFields(json, {"type"}, place));
  if (type == "NFC") {
    steps_.push_back(NormalForm::kNfc);
  } else if (type == "NFD") {
    steps_.push_back(NormalForm::kNfd);
  } else if (type == "NFKC") {
    steps_.push_back(NormalForm::kNfkc);
  } else if (type == "NFKD") {
    steps_.push_back(NormalForm::kNfkd);
  } else {
    return absl::UnimplementedError(absl::StrCat(place, " is not supported"));
  }
  return absl::OkStatus();
}

absl::Status Normalizer::Apply(std::string* text) const {
  for (const Step& step : steps_) {
    if (const auto* form = std::get_if<NormalForm>(&step)) {
      *text = Normalize(*text, *form);
    } else if (const auto* prepend = std::get_if<PrependStep>(&step)) {
      if (!text->empty()) text->insert(0, prepend->prefix);
    } else {
      const auto& replace = std::get<ReplaceStep>(step);
      ASSIGN_OR_RETURN(*text, ReplaceAll(*text, replace.pattern, replace.content));
    }
  }
  return absl::OkStatus();
}

}  // namespace lorad
