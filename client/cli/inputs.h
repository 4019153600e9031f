// The inputs of generate, score, tokenize and detokenize: one from the command line, or many from a
// JSONL file.
#ifndef LORAD_CLIENT_CLI_INPUTS_H_
#define LORAD_CLIENT_CLI_INPUTS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/arguments.h"
#include "client/cli/command.h"

namespace lorad::client::cli {

struct Input {
  std::string where;  // "--text", or "eval.jsonl:3"
  std::optional<std::vector<int32_t>> ids = {};
  std::string text = {};                    // when there are no ids
  std::optional<std::string> adapter = {};  // of the line; empty: the base model
  // What the line has of InputKinds::line_keys: JSON text, members in the order of the line.
  std::map<std::string, std::string> values = {};
};

struct InputKinds {
  std::string text = {};  // option and key of text: "text" or "prompt"; empty: ids alone are taken
  bool ids = true;        // ids are taken
  // Keys that a line must not have, because they would have no effect there.
  std::vector<Option> options = {};
  std::vector<std::string> line_keys = {};  // options that a line may have as keys, too
};

// The options --ids, --text (or --prompt) and --jsonl, as `kinds` takes them.
std::vector<Option> InputOptions(const InputKinds& kinds);

// Exactly one of these options must be given (usage error). A line of the file must have exactly
// one of the keys, and may have "adapter" and `line_keys`; other keys are ignored, unless they are
// options. Blank lines are skipped. Errors name file and line. --jsonl=- is standard input.
absl::StatusOr<std::vector<Input>> ReadInputs(const Arguments& arguments, const InputKinds& kinds);

// "[1,2,3]" or "1,2,3"; each id is at least 0. InvalidArgument names `where`.
absl::StatusOr<std::vector<int32_t>> ParseIds(std::string_view text, const std::string& where);

// `status` with the place of the input in front of its message; its details are kept.
absl::Status AtInput(const Input& input, const absl::Status& status);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_INPUTS_H_
