#include "client/cli/help.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace lorad::client::cli {
namespace {

constexpr size_t kWidth = 100;
constexpr size_t kColumn = 34;  // where the second column begins

// `left` in the first column, `right` wrapped in the second.
void AppendRow(std::string& out, const std::string& left, const std::string& right) {
  std::string line = absl::StrCat("  ", left);
  if (line.size() + 2 > kColumn) {
    absl::StrAppend(&out, line, "\n");
    line.clear();
  }
  line.resize(kColumn, ' ');
  bool first = true;
  for (const absl::string_view word : absl::StrSplit(right, ' ')) {
    if (!first && line.size() + 1 + word.size() > kWidth) {
      absl::StrAppend(&out, line, "\n");
      line.assign(kColumn, ' ');
      first = true;
    }
    absl::StrAppend(&line, first ? "" : " ", word);
    first = false;
  }
  absl::StrAppend(&out, line, "\n");
}

const char* DefaultValueName(OptionType type) {
  switch (type) {
    case OptionType::kInt:
    case OptionType::kUint:
      return "N";
    case OptionType::kDouble:
      return "X";
    case OptionType::kDuration:
      return "TIME";
    case OptionType::kList:
      return "A,B,...";
    default:
      return "VALUE";
  }
}

void AppendOption(std::string& out, const Option& option) {
  std::string left = absl::StrCat("--", option.name);
  if (!option.choices.empty() && option.value.empty()) {
    absl::StrAppend(&left, "=", absl::StrJoin(option.choices, "|"));
  } else if (option.type == OptionType::kBool) {
    if (option.default_value == "true") absl::StrAppend(&left, "=true|false");
  } else {
    absl::StrAppend(&left, "=",
                    option.value.empty() ? DefaultValueName(option.type) : option.value);
  }
  std::string right = option.help;
  if (option.repeated) absl::StrAppend(&right, "; may be repeated");
  if (!option.default_value.empty())
    absl::StrAppend(&right, " (default ", option.default_value, ")");
  AppendRow(out, left, right);
}

void AppendOptions(std::string& out, const char* title, const std::vector<Option>& options) {
  if (options.empty()) return;
  absl::StrAppend(&out, "\n", title, ":\n");
  for (const Option& option : options) AppendOption(out, option);
}

}  // namespace

std::string CommandHelp(const Command& command, const std::vector<Option>& global_options) {
  std::string usage = absl::StrCat("loractl ", command.path);
  for (const Positional& argument : command.positionals) {
    absl::StrAppend(&usage, argument.required ? " " : " [", argument.name,
                    argument.required ? "" : "]");
  }
  std::string out = absl::StrCat(command.summary, ".\n\nUsage: ", usage,
                                 command.options.empty() ? "" : " [--OPTION=VALUE ...]", "\n");
  if (!command.positionals.empty()) absl::StrAppend(&out, "\n");
  for (const Positional& argument : command.positionals) {
    AppendRow(out, argument.name, argument.help);
  }
  AppendOptions(out, "Options", command.options);
  AppendOptions(out, "Options of every command", global_options);
  if (!command.examples.empty()) absl::StrAppend(&out, "\nExamples:\n");
  for (const Example& example : command.examples) {
    absl::StrAppend(&out, "  ", example.line, "\n");
    if (!example.what.empty()) absl::StrAppend(&out, "      ", example.what, "\n");
  }
  return out;
}

std::string Overview(const std::vector<std::string>& group, const std::vector<Command>& commands,
                     const std::vector<Option>& global_options) {
  const std::string prefix = group.empty() ? "" : absl::StrCat(absl::StrJoin(group, " "), " ");
  std::string out =
      absl::StrCat("loractl drives lorad: fine-tunes, serves and swaps LoRA adapters.\n",
                   "\nUsage: loractl ", prefix.empty() ? "COMMAND" : prefix,
                   prefix.empty() ? "" : "COMMAND", " [--OPTION=VALUE ...]\n", "\nCommands:\n");
  for (const Command& command : commands) {
    if (!command.path.starts_with(prefix)) continue;
    AppendRow(out, command.path, command.summary);
  }
  AppendOptions(out, "Options of every command", global_options);
  absl::StrAppend(&out, "\n\"loractl COMMAND --help\" tells more and gives examples.\n");
  return out;
}

}  // namespace lorad::client::cli
