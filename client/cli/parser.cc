#include "client/cli/parser.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "client/cli/errors.h"
#include "client/cli/suggest.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

struct GivenOption {
  std::string name;
  std::string value;
};

// The command line, split by kind; which command takes what is not looked at yet.
struct Split {
  std::vector<std::string> words;
  std::vector<GivenOption> options;
  bool help = false;
  bool version = false;
};

using OptionTable = std::map<std::string, const Option*>;

OptionTable AllOptions(const std::vector<Command>& commands, const std::vector<Option>& globals) {
  OptionTable table;
  for (const Option& option : globals) table[option.name] = &option;
  for (const Command& command : commands) {
    for (const Option& option : command.options) table.emplace(option.name, &option);
  }
  return table;
}

std::string DidYouMean(const std::string& word, const std::vector<std::string>& known,
                       const char* prefix) {
  const std::string nearest = Nearest(word, known);
  return nearest.empty() ? "" : absl::StrCat("; did you mean ", prefix, nearest, "?");
}

absl::Status UnknownOption(const std::string& name, const OptionTable& table) {
  std::vector<std::string> known;
  for (const auto& [key, option] : table) known.push_back(key);
  return UsageError(absl::StrCat("unknown option --", name, DidYouMean(name, known, "--")));
}

// The value of option `name` that stands in the next word, if one does.
absl::StatusOr<std::string> NextValue(const Option& option, const std::vector<std::string>& words,
                                      size_t& i) {
  const bool more = i + 1 < words.size();
  if (option.type == OptionType::kBool) {
    const bool value = more && (words[i + 1] == "true" || words[i + 1] == "false");
    return value ? words[++i] : "true";
  }
  if (!more || words[i + 1].starts_with("--")) {
    return UsageError(absl::StrCat("--", option.name, " needs a value: --", option.name, "=",
                                   option.value.empty() ? "VALUE" : option.value));
  }
  return words[++i];
}

absl::StatusOr<Split> SplitWords(const std::vector<std::string>& words, const OptionTable& table) {
  Split split;
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "--") {
      split.words.insert(split.words.end(), words.begin() + i + 1, words.end());
      break;
    }
    if (word == "-h" || word == "--help") {
      split.help = true;
    } else if (word == "--version") {
      split.version = true;
    } else if (word.starts_with("--")) {
      const size_t equals = word.find('=');
      const std::string name = absl::StrReplaceAll(
          word.substr(2, equals == std::string::npos ? equals : equals - 2), {{"-", "_"}});
      const auto it = table.find(name);
      if (it == table.end()) return UnknownOption(name, table);
      std::string value;
      if (equals != std::string::npos) {
        value = word.substr(equals + 1);
      } else {
        ASSIGN_OR_RETURN(value, NextValue(*it->second, words, i));
      }
      split.options.push_back({name, std::move(value)});
    } else if (word.size() > 1 && word[0] == '-') {
      return UsageError(absl::StrCat("unknown option ", word, "; options begin with --"));
    } else {
      split.words.push_back(word);
    }
  }
  return split;
}

bool BeginsWith(const std::vector<std::string>& words, const std::vector<std::string>& prefix) {
  return prefix.size() <= words.size() && std::equal(prefix.begin(), prefix.end(), words.begin());
}

std::vector<std::string> PathWords(const Command& command) {
  return absl::StrSplit(command.path, ' ');
}

absl::Status UnknownCommand(const std::vector<std::string>& words,
                            const std::vector<Command>& commands) {
  std::set<std::string> first, second;
  for (const Command& command : commands) {
    const auto path = PathWords(command);
    first.insert(path[0]);
    if (path.size() > 1 && path[0] == words[0]) second.insert(path[1]);
  }
  if (second.empty()) {
    const std::vector<std::string> known(first.begin(), first.end());
    return UsageError(absl::StrCat("unknown command \"", words[0], "\"",
                                   DidYouMean(words[0], known, ""), " (",
                                   absl::StrJoin(known, ", "), ")"));
  }
  const std::vector<std::string> known(second.begin(), second.end());
  if (words.size() == 1) {
    return UsageError(
        absl::StrCat("\"", words[0], "\" needs one of: ", absl::StrJoin(known, ", ")));
  }
  return UsageError(absl::StrCat("unknown command \"", words[0], " ", words[1], "\"",
                                 DidYouMean(words[1], known, absl::StrCat(words[0], " ").c_str()),
                                 " (", absl::StrJoin(known, ", "), ")"));
}

bool IsGroup(const std::vector<std::string>& words, const std::vector<Command>& commands) {
  return std::any_of(commands.begin(), commands.end(),
                     [&](const Command& command) { return BeginsWith(PathWords(command), words); });
}

absl::Status CheckPositionals(const Command& command, const Arguments& arguments) {
  const size_t given = arguments.positionals().size();
  for (size_t i = given; i < command.positionals.size(); ++i) {
    if (!command.positionals[i].required) break;
    return UsageError(absl::StrCat("\"", command.path, "\" needs ", command.positionals[i].name,
                                   ": ", command.positionals[i].help));
  }
  if (given > command.positionals.size()) {
    return UsageError(absl::StrCat("\"", command.path, "\" does not take \"",
                                   arguments.Positional(command.positionals.size()), "\""));
  }
  return absl::OkStatus();
}

absl::Status AddOptions(const Command& command, const std::vector<Option>& globals,
                        const std::vector<GivenOption>& given, Arguments& arguments) {
  OptionTable table;
  for (const Option& option : globals) table[option.name] = &option;
  for (const Option& option : command.options) table[option.name] = &option;
  for (const GivenOption& option : given) {
    const auto it = table.find(option.name);
    if (it == table.end()) {
      std::vector<std::string> known;
      for (const auto& [name, declared] : table) known.push_back(name);
      return UsageError(absl::StrCat("\"", command.path, "\" does not take --", option.name,
                                     DidYouMean(option.name, known, "--")));
    }
    if (absl::Status status = arguments.Add(*it->second, option.value); !status.ok()) {
      return UsageError(std::string(status.message()));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Invocation> Parse(const std::vector<std::string>& words,
                                 const std::vector<Command>& commands,
                                 const std::vector<Option>& global_options) {
  ASSIGN_OR_RETURN(Split split, SplitWords(words, AllOptions(commands, global_options)));
  Invocation invocation{.help = split.help, .version = split.version};
  if (!split.words.empty() && split.words[0] == "help") {
    invocation.help = true;
    split.words.erase(split.words.begin());
  }
  if (split.version) return invocation;
  for (const Command& command : commands) {
    if (BeginsWith(split.words, PathWords(command))) invocation.command = &command;
  }
  if (invocation.command == nullptr) {
    const bool overview =
        split.words.empty() || (invocation.help && IsGroup(split.words, commands));
    if (!overview) return UnknownCommand(split.words, commands);
    if (!invocation.help) return UsageError("no command");
    invocation.group = split.words;
    return invocation;
  }
  if (invocation.help) return invocation;
  for (size_t i = PathWords(*invocation.command).size(); i < split.words.size(); ++i) {
    invocation.arguments.AddPositional(split.words[i]);
  }
  RETURN_IF_ERROR(
      AddOptions(*invocation.command, global_options, split.options, invocation.arguments));
  RETURN_IF_ERROR(CheckPositionals(*invocation.command, invocation.arguments));
  return invocation;
}

}  // namespace lorad::client::cli
