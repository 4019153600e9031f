#include "engine/model/json_object.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "nlohmann/json.hpp"

namespace lorad {
namespace {

std::optional<int64_t> WholeNumber(const nlohmann::json& json) {
  if (json.is_number_unsigned()) {
    const uint64_t value = json.get<uint64_t>();
    if (value > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
    return static_cast<int64_t>(value);
  }
  if (json.is_number_integer()) return json.get<int64_t>();
  return std::nullopt;
}

}  // namespace

std::string ShortJson(const nlohmann::json& json) {
  constexpr size_t kMaxBytes = 80;
  std::string text =
      json.dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace);
  if (text.size() > kMaxBytes) text = text.substr(0, kMaxBytes) + "...";
  return text;
}

absl::StatusOr<JsonObject> JsonObject::Of(const nlohmann::json& json, std::string where) {
  if (!json.is_object())
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": ", ShortJson(json), " is not a JSON object"));
  return JsonObject(json, std::move(where));
}

const nlohmann::json* JsonObject::Find(const char* key) const {
  const auto found = json_->find(key);
  return found == json_->end() || found->is_null() ? nullptr : &*found;
}

absl::Status JsonObject::Wrong(const char* key, const std::string& wanted) const {
  const nlohmann::json* value = Find(key);
  return absl::InvalidArgumentError(absl::StrCat(where_, ": key \"", key, "\" ",
                                                 value ? "is " + ShortJson(*value) : "is missing",
                                                 "; it must be ", wanted));
}

absl::StatusOr<std::optional<JsonObject>> JsonObject::Object(const char* key) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return std::optional<JsonObject>();
  if (!value->is_object()) return Wrong(key, "an object");
  return std::optional<JsonObject>(JsonObject(*value, absl::StrCat(where_, ": ", key)));
}

absl::StatusOr<int64_t> JsonObject::Int(const char* key, int64_t min, int64_t max,
                                        std::optional<int64_t> fallback) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr && fallback.has_value()) return *fallback;
  const std::optional<int64_t> number = value ? WholeNumber(*value) : std::nullopt;
  if (!number.has_value() || *number < min || *number > max)
    return Wrong(key, absl::StrCat("a whole number from ", min, " to ", max));
  return *number;
}

absl::StatusOr<double> JsonObject::Number(const char* key, double min, double max,
                                          std::optional<double> fallback) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr && fallback.has_value()) return *fallback;
  const double number = value && value->is_number() ? value->get<double>() : NAN;
  if (!(number >= min && number <= max))
    return Wrong(key, absl::StrCat("a number from ", min, " to ", max));
  return number;
}

absl::StatusOr<bool> JsonObject::Bool(const char* key, bool fallback) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) return Wrong(key, "true or false");
  return value->get<bool>();
}

absl::StatusOr<std::string> JsonObject::String(const char* key,
                                               std::optional<std::string> fallback) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr && fallback.has_value()) return *std::move(fallback);
  if (value == nullptr || !value->is_string()) return Wrong(key, "a string");
  return value->get<std::string>();
}

absl::StatusOr<std::vector<std::string>> JsonObject::Strings(const char* key) const {
  const nlohmann::json* value = Find(key);
  std::vector<std::string> strings;
  if (value == nullptr) return strings;
  if (!value->is_array()) return Wrong(key, "an array of strings");
  for (const nlohmann::json& item : *value) {
    if (!item.is_string()) return Wrong(key, "an array of strings");
    strings.push_back(item.get<std::string>());
  }
  return strings;
}

absl::StatusOr<std::vector<int64_t>> JsonObject::IntOrInts(const char* key, int64_t min,
                                                           int64_t max) const {
  const nlohmann::json* value = Find(key);
  std::vector<int64_t> numbers;
  if (value == nullptr) return numbers;
  const nlohmann::json list = value->is_array() ? *value : nlohmann::json::array({*value});
  for (const nlohmann::json& item : list) {
    const std::optional<int64_t> number = WholeNumber(item);
    if (!number.has_value() || *number < min || *number > max)
      return Wrong(key,
                   absl::StrCat("a whole number from ", min, " to ", max, " or a list of them"));
    numbers.push_back(*number);
  }
  return numbers;
}

}  // namespace lorad
