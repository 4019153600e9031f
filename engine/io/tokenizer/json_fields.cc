#include "engine/io/tokenizer/json_fields.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/io/json_check.h"
#include "engine/io/utf8.h"

namespace lorad {
namespace {

absl::Status WrongType(const char* key, const char* wanted, const std::string& where) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": field \"", key, "\" must be ", wanted));
}

}  // namespace

absl::Status CheckFields(const nlohmann::json& json, std::initializer_list<const char*> known,
                         const std::string& where) {
  if (!json.is_object()) return absl::InvalidArgumentError(absl::StrCat(where, ": not an object"));
  for (const auto& item : json.items()) {
    const bool found = std::any_of(known.begin(), known.end(),
                                   [&](const char* name) { return item.key() == name; });
    if (!found)
      return absl::UnimplementedError(
          absl::StrCat(where, ": field \"", ClippedText(item.key()), "\" is not supported"));
  }
  return absl::OkStatus();
}

const nlohmann::json* FindField(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

absl::StatusOr<std::string> StringField(const nlohmann::json& object, const char* key,
                                        const std::string& where) {
  const nlohmann::json* field = FindField(object, key);
  if (field == nullptr || !field->is_string()) return WrongType(key, "a string", where);
  return field->get<std::string>();
}

absl::StatusOr<bool> BoolField(const nlohmann::json& object, const char* key, bool fallback,
                               const std::string& where) {
  const nlohmann::json* field = FindField(object, key);
  if (field == nullptr) return fallback;
  if (!field->is_boolean()) return WrongType(key, "true or false", where);
  return field->get<bool>();
}

absl::StatusOr<int32_t> IntValue(const nlohmann::json& value, const std::string& where) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > INT32_MAX)
    return absl::InvalidArgumentError(absl::StrCat(where, ": ", ClippedText(value.dump()),
                                                   " is not a whole number from 0 to ", INT32_MAX));
  return value.get<int32_t>();
}

absl::StatusOr<int32_t> IntField(const nlohmann::json& object, const char* key,
                                 const std::string& where) {
  const nlohmann::json* field = FindField(object, key);
  if (field == nullptr) return WrongType(key, "a whole number", where);
  return IntValue(*field, absl::StrCat(where, ": field \"", key, "\""));
}

absl::StatusOr<char32_t> CharField(const nlohmann::json& object, const char* key,
                                   const std::string& where) {
  ASSIGN_OR_RETURN(const std::string text, StringField(object, key, where));
  if (text.empty()) return WrongType(key, "one character", where);
  const Utf8Step step = NextUtf8(text);
  if (step.kind != Utf8Step::Kind::kCharacter || step.length != text.size())
    return WrongType(key, "one character", where);
  return step.code_point;
}

absl::StatusOr<const nlohmann::json*> ArrayField(const nlohmann::json& object, const char* key,
                                                 const std::string& where) {
  const nlohmann::json* field = FindField(object, key);
  if (field == nullptr || !field->is_array()) return WrongType(key, "an array", where);
  return field;
}

}  // namespace lorad
