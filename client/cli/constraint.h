// What the text of an answer must be, from options and from lines of a JSONL file.
#ifndef LORAD_CLIENT_CLI_CONSTRAINT_H_
#define LORAD_CLIENT_CLI_CONSTRAINT_H_

#include <vector>

#include "absl/status/status.h"
#include "client/cli/arguments.h"
#include "client/cli/inputs.h"
#include "client/cli/option.h"
#include "lorad/v1/inference_service.pb.h"

namespace lorad::client::cli {

// --regex, --json_schema and --json_object.
std::vector<Option> ConstraintOptions();

// Usage error when more than one is given. --json_schema is the schema itself when it begins with
// "{", else a file that holds it; errors of ReadFile.
absl::Status SetConstraint(const Arguments& arguments, v1::GenerateRequest* request);
// The same keys of a line, which win over the options: "regex" is text, "json_schema" the schema as
// JSON or as text, "json_object" true or false. InvalidArgument names file, line and key.
absl::Status SetConstraint(const Input& input, v1::GenerateRequest* request);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_CONSTRAINT_H_
