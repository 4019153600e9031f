#include "client/cli/constraint.h"

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/cli/errors.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "nlohmann/json.hpp"

namespace lorad::client::cli {
namespace {

absl::Status BadLine(const Input& input, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(input.where, ": ", what));
}

absl::Status SetFromLine(const Input& input, const std::string& key, const nlohmann::json& value,
                         v1::GenerateRequest* request) {
  if (key == "json_object") {
    if (!value.is_boolean()) return BadLine(input, "\"json_object\" must be true or false");
    request->set_json_object(value.get<bool>());
  } else if (key == "regex") {
    if (!value.is_string()) return BadLine(input, "\"regex\" must be text");
    request->set_regex(value.get<std::string>());
  } else {
    // As the line has it: the order of its members counts.
    request->set_json_schema(value.is_string() ? value.get<std::string>() : input.values.at(key));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<Option> ConstraintOptions() {
  return {{"regex", OptionType::kText, "PATTERN", "the answer matches this, all of it", ""},
          {"json_schema", OptionType::kText, "FILE|'{...}'",
           "the answer is JSON that satisfies this schema", ""},
          {"json_object", OptionType::kBool, "", "the answer is a JSON object", "false"}};
}

absl::Status SetConstraint(const Arguments& arguments, v1::GenerateRequest* request) {
  const bool json_object = arguments.Bool("json_object");
  if (arguments.Has("regex") + arguments.Has("json_schema") + json_object > 1) {
    return UsageError("only one of --regex, --json_schema and --json_object can be given");
  }
  if (arguments.Has("regex")) request->set_regex(arguments.Text("regex"));
  if (json_object) request->set_json_object(true);
  if (!arguments.Has("json_schema")) return absl::OkStatus();
  std::string schema = arguments.Text("json_schema");
  if (!absl::StartsWith(absl::StripLeadingAsciiWhitespace(schema), "{")) {
    ASSIGN_OR_RETURN(schema, ReadFile(schema));
  }
  request->set_json_schema(std::move(schema));
  return absl::OkStatus();
}

absl::Status SetConstraint(const Input& input, v1::GenerateRequest* request) {
  if (input.values.size() > 1) {
    return BadLine(input,
                   "only one of \"regex\", \"json_schema\" and \"json_object\" can be given");
  }
  for (const auto& [key, text] : input.values) {
    RETURN_IF_ERROR(SetFromLine(input, key, nlohmann::json::parse(text), request));
  }
  return absl::OkStatus();
}

}  // namespace lorad::client::cli
