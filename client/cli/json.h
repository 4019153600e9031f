// Protobuf messages as JSON, one object per line.
#ifndef LORAD_CLIENT_CLI_JSON_H_
#define LORAD_CLIENT_CLI_JSON_H_

#include <string>

#include "google/protobuf/message.h"
#include "nlohmann/json.hpp"

namespace lorad::client::cli {

// The protobuf JSON of `message` with the field names of the .proto and without absent fields;
// fields at their default are there. 64-bit integers are JSON numbers, not strings (every protobuf
// parser takes both).
nlohmann::ordered_json ToJson(const google::protobuf::Message& message);

// One line, without the newline; text that is not UTF-8 gets U+FFFD.
std::string JsonLine(const nlohmann::ordered_json& json);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_JSON_H_
