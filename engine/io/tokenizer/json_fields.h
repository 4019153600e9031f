// Reading the fields of a JSON object with errors that name the place. Internal to engine/io.
#ifndef LORAD_ENGINE_IO_TOKENIZER_JSON_FIELDS_H_
#define LORAD_ENGINE_IO_TOKENIZER_JSON_FIELDS_H_

#include <cstdint>
#include <initializer_list>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"

namespace lorad {

// kInvalidArgument unless `json` is an object; kUnimplemented names a field outside `known`: an
// unknown field could change what the file means.
absl::Status CheckFields(const nlohmann::json& json, std::initializer_list<const char*> known,
                         const std::string& where);

// The field, null when it is absent or null.
const nlohmann::json* FindField(const nlohmann::json& object, const char* key);

// kInvalidArgument when the field has another type, or is absent without a fallback.
absl::StatusOr<std::string> StringField(const nlohmann::json& object, const char* key,
                                        const std::string& where);
absl::StatusOr<bool> BoolField(const nlohmann::json& object, const char* key, bool fallback,
                               const std::string& where);
// An id or a count, in [0, 2^31).
absl::StatusOr<int32_t> IntField(const nlohmann::json& object, const char* key,
                                 const std::string& where);
// A value that is itself an id, in [0, 2^31).
absl::StatusOr<int32_t> IntValue(const nlohmann::json& value, const std::string& where);
// A string of exactly one character.
absl::StatusOr<char32_t> CharField(const nlohmann::json& object, const char* key,
                                   const std::string& where);
// An array that must be there.
absl::StatusOr<const nlohmann::json*> ArrayField(const nlohmann::json& object, const char* key,
                                                 const std::string& where);

}  // namespace lorad

#endif  // LORAD_ENGINE_IO_TOKENIZER_JSON_FIELDS_H_
