// Typed reading of a JSON object's keys, with errors that name file, key, value and bound.
// Internal to engine/model and engine/lora; include nlohmann/json.hpp in the .cc file.
#ifndef LORAD_ENGINE_MODEL_JSON_OBJECT_H_
#define LORAD_ENGINE_MODEL_JSON_OBJECT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"

namespace lorad {

// A view of an object; keys that are absent and keys that are null read alike. Errors are
// kInvalidArgument.
class JsonObject {
 public:
  // `where` (a path) starts every error. `json` is not owned. kInvalidArgument unless an object.
  static absl::StatusOr<JsonObject> Of(const nlohmann::json& json, std::string where);

  const std::string& where() const { return where_; }
  // Null when absent or null.
  const nlohmann::json* Find(const char* key) const;
  // nullopt when absent; kInvalidArgument unless an object.
  absl::StatusOr<std::optional<JsonObject>> Object(const char* key) const;

  // A whole number in [min, max]; required without a fallback.
  absl::StatusOr<int64_t> Int(const char* key, int64_t min, int64_t max,
                              std::optional<int64_t> fallback = std::nullopt) const;
  // A finite number in [min, max].
  absl::StatusOr<double> Number(const char* key, double min, double max,
                                std::optional<double> fallback = std::nullopt) const;
  absl::StatusOr<bool> Bool(const char* key, bool fallback) const;
  absl::StatusOr<std::string> String(const char* key,
                                     std::optional<std::string> fallback = std::nullopt) const;
  // An array of strings; empty when absent.
  absl::StatusOr<std::vector<std::string>> Strings(const char* key) const;
  // A whole number or an array of them, each in [min, max]; empty when absent.
  absl::StatusOr<std::vector<int64_t>> IntOrInts(const char* key, int64_t min, int64_t max) const;

  // "<where>: key "<key>" is <value>, which must be <wanted>".
  absl::Status Wrong(const char* key, const std::string& wanted) const;

 private:
  JsonObject(const nlohmann::json& json, std::string where)
      : json_(&json), where_(std::move(where)) {}

  const nlohmann::json* json_;
  std::string where_;
};

// A value as error messages show it: at most 80 bytes of its JSON.
std::string ShortJson(const nlohmann::json& json);

}  // namespace lorad

#endif  // LORAD_ENGINE_MODEL_JSON_OBJECT_H_
