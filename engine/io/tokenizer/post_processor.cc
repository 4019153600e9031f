#include "engine/io/tokenizer/post_processor.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/io/json_check.h"
#include "engine/io/tokenizer/json_fields.h"

namespace lorad {
namespace {

// The ids that the template's special token `name` stands for.
absl::StatusOr<std::vector<int32_t>> SpecialIds(const nlohmann::json& json, const std::string& name,
                                                int32_t vocab_size, const std::string& where) {
  const std::string place = absl::StrCat(where, ", special token \"", ClippedText(name), "\"");
  const nlohmann::json* specials = FindField(json, "special_tokens");
  const nlohmann::json* special =
      specials == nullptr || !specials->is_object() ? nullptr : FindField(*specials, name.c_str());
  if (special == nullptr)
    return absl::InvalidArgumentError(absl::StrCat(place, ": not among special_tokens"));
  RETURN_IF_ERROR(CheckFields(*special, {"id", "ids", "tokens"}, place));
  ASSIGN_OR_RETURN(const nlohmann::json* ids, ArrayField(*special, "ids", place));
  std::vector<int32_t> result;
  for (const nlohmann::json& value : *ids) {
    ASSIGN_OR_RETURN(const int32_t id, IntValue(value, place));
    if (id >= vocab_size)
      return absl::InvalidArgumentError(
          absl::StrCat(place, ": id ", id, " is outside the vocabulary of ", vocab_size));
    result.push_back(id);
  }
  return result;
}

}  // namespace

absl::StatusOr<PostProcessor> PostProcessor::FromJson(const nlohmann::json* json,
                                                      int32_t vocab_size,
                                                      const std::string& where) {
  PostProcessor processor;
  if (json != nullptr) RETURN_IF_ERROR(processor.Add(*json, vocab_size, where));
  return processor;
}

absl::Status PostProcessor::Add(const nlohmann::json& json, int32_t vocab_size,
                                const std::string& where) {
  ASSIGN_OR_RETURN(const std::string type, StringField(json, "type", where));
  const std::string place = absl::StrCat(where, ": ", ClippedText(type));
  if (type == "Sequence") {
    RETURN_IF_ERROR(CheckFields(json, {"type", "processors"}, place));
    ASSIGN_OR_RETURN(const nlohmann::json* steps, ArrayField(json, "processors", place));
    for (const nlohmann::json& step : *steps) RETURN_IF_ERROR(Add(step, vocab_size, place));
    return absl::OkStatus();
  }
  if (type == "TemplateProcessing") return AddTemplate(json, vocab_size, place);
  if (type == "ByteLevel")
    return CheckFields(json, {"type", "add_prefix_space", "trim_offsets", "use_regex"}, place);
  return absl::UnimplementedError(absl::StrCat(place, " is not supported"));
}

absl::Status PostProcessor::AddTemplate(const nlohmann::json& json, int32_t vocab_size,
                                        const std::string& where) {
  RETURN_IF_ERROR(CheckFields(json, {"type", "single", "pair", "special_tokens"}, where));
  ASSIGN_OR_RETURN(const nlohmann::json* parts, ArrayField(json, "single", where));
  std::vector<int32_t> before, after;
  bool text_seen = false;
  for (const nlohmann::json& part : *parts) {
    RETURN_IF_ERROR(CheckFields(part, {"SpecialToken", "Sequence"}, where));
    const nlohmann::json* special = FindField(part, "SpecialToken");
    const nlohmann::json* text = FindField(part, "Sequence");
    if ((special == nullptr) == (text == nullptr))
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": each part needs one of SpecialToken and Sequence"));
    const nlohmann::json& fields = special != nullptr ? *special : *text;
    RETURN_IF_ERROR(CheckFields(fields, {"id", "type_id"}, where));
    ASSIGN_OR_RETURN(const std::string id, StringField(fields, "id", where));
    if (text != nullptr) {
      if (id != "A" || text_seen)
        return absl::InvalidArgumentError(
            absl::StrCat(where, ": \"single\" must hold the sequence A exactly once"));
      text_seen = true;
      continue;
    }
    ASSIGN_OR_RETURN(const std::vector<int32_t> ids, SpecialIds(json, id, vocab_size, where));
    std::vector<int32_t>& side = text_seen ? after : before;
    side.insert(side.end(), ids.begin(), ids.end());
  }
  if (!text_seen)
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": \"single\" must hold the sequence A exactly once"));
  // A template works on what the one before it made: it goes around.
  before_.insert(before_.begin(), before.begin(), before.end());
  after_.insert(after_.end(), after.begin(), after.end());
  return absl::OkStatus();
}

}  // namespace lorad
