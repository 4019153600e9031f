#include "client/cli/inputs.h"

#include <algorithm>
#include <iostream>
#include <iterator>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/cli/errors.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "engine/io/json.h"
#include "nlohmann/json.hpp"

namespace lorad::client::cli {
namespace {

absl::Status Bad(const std::string& where, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
}

absl::StatusOr<std::vector<int32_t>> IdsOf(const nlohmann::json& json, const std::string& where) {
  std::vector<int32_t> ids;
  if (!json.is_array()) return Bad(where, "ids must be an array of whole numbers");
  for (const nlohmann::json& element : json) {
    const bool fits = element.is_number_integer() && element.get<int64_t>() >= 0 &&
                      element.get<int64_t>() <= std::numeric_limits<int32_t>::max();
    if (!fits) return Bad(where, absl::StrCat(element.dump(), " is not a token id"));
    ids.push_back(element.get<int32_t>());
  }
  return ids;
}

absl::Status CheckKeys(const nlohmann::json& line, const InputKinds& kinds,
                       const std::string& where) {
  for (const Option& option : kinds.options) {
    const auto& taken = kinds.line_keys;
    if (option.name == "adapter" || !line.contains(option.name) ||
        std::find(taken.begin(), taken.end(), option.name) != taken.end())
      continue;
    return Bad(where, absl::StrCat("\"", option.name, "\" is not taken from a line; give --",
                                   option.name));
  }
  return absl::OkStatus();
}

absl::StatusOr<Input> ReadLine(absl::string_view text, const InputKinds& kinds,
                               const std::string& where) {
  ASSIGN_OR_RETURN(const nlohmann::json line,
                   ParseJson(std::string_view(text.data(), text.size()), where));
  if (!line.is_object()) return Bad(where, "not a JSON object");
  RETURN_IF_ERROR(CheckKeys(line, kinds, where));
  Input input{.where = where};
  const bool has_ids = kinds.ids && line.contains("ids");
  const bool has_text = !kinds.text.empty() && line.contains(kinds.text);
  if (has_ids == has_text) {
    const std::string wanted =
        absl::StrCat(kinds.ids ? "\"ids\"" : "", kinds.ids && !kinds.text.empty() ? " or " : "",
                     kinds.text.empty() ? "" : absl::StrCat("\"", kinds.text, "\""));
    return Bad(where, absl::StrCat(has_ids ? "has more than one of " : "needs ", wanted));
  }
  if (has_ids) {
    ASSIGN_OR_RETURN(input.ids, IdsOf(line["ids"], where));
  } else if (!line[kinds.text].is_string()) {
    return Bad(where, absl::StrCat("\"", kinds.text, "\" must be text"));
  } else {
    input.text = line[kinds.text].get<std::string>();
  }
  if (const auto adapter = line.find("adapter"); adapter != line.end()) {
    if (!adapter->is_string() && !adapter->is_null()) return Bad(where, "\"adapter\" must be text");
    input.adapter = adapter->is_null() ? "" : adapter->get<std::string>();
  }
  if (!kinds.line_keys.empty()) {
    const auto ordered = nlohmann::ordered_json::parse(text.begin(), text.end());
    for (const std::string& key : kinds.line_keys) {
      if (ordered.contains(key) && !ordered[key].is_null()) input.values[key] = ordered[key].dump();
    }
  }
  return input;
}

absl::StatusOr<std::string> ReadAll(const std::string& path) {
  if (path != "-") return ReadFile(path);
  return std::string(std::istreambuf_iterator<char>(std::cin), {});
}

absl::StatusOr<std::vector<Input>> ReadJsonl(const std::string& path, const InputKinds& kinds) {
  ASSIGN_OR_RETURN(const std::string content, ReadAll(path));
  std::vector<Input> inputs;
  int64_t number = 0;
  for (const absl::string_view line : absl::StrSplit(content, '\n')) {
    ++number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    ASSIGN_OR_RETURN(Input input, ReadLine(line, kinds, absl::StrCat(path, ":", number)));
    inputs.push_back(std::move(input));
  }
  if (inputs.empty()) return Bad(path, "no lines");
  return inputs;
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> ParseIds(std::string_view text, const std::string& where) {
  const absl::string_view trimmed =
      absl::StripAsciiWhitespace(absl::string_view(text.data(), text.size()));
  const std::string array =
      absl::StartsWith(trimmed, "[") ? std::string(trimmed) : absl::StrCat("[", trimmed, "]");
  const auto json = nlohmann::json::parse(array, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return Bad(where, "not of the form [1,2,3]");
  return IdsOf(json, where);
}

std::vector<Option> InputOptions(const InputKinds& kinds) {
  std::vector<Option> options;
  if (kinds.ids) {
    options.push_back({"ids", OptionType::kText, "'[1,2,3]'", "token ids", ""});
  }
  if (!kinds.text.empty()) {
    options.push_back({kinds.text, OptionType::kText, "TEXT", "the text", ""});
  }
  const std::string keys =
      absl::StrCat(kinds.ids ? "\"ids\"" : "", kinds.ids && !kinds.text.empty() ? " or " : "",
                   kinds.text.empty() ? "" : absl::StrCat("\"", kinds.text, "\""));
  options.push_back(
      {"jsonl", OptionType::kText, "FILE",
       absl::StrCat("one JSON object per line with ", keys,
                    "; answers come in the order of the lines; \"-\" reads standard input"),
       ""});
  return options;
}

absl::StatusOr<std::vector<Input>> ReadInputs(const Arguments& arguments, const InputKinds& kinds) {
  std::vector<std::string> given;
  std::vector<std::string> known;
  for (const Option& option : InputOptions(kinds)) {
    known.push_back(absl::StrCat("--", option.name));
    if (arguments.Has(option.name)) given.push_back(option.name);
  }
  if (given.size() != 1) {
    return UsageError(absl::StrCat("exactly one of ", absl::StrJoin(known, ", "), " is needed"));
  }
  if (given[0] == "jsonl") return ReadJsonl(arguments.Text("jsonl"), kinds);
  Input input{.where = absl::StrCat("--", given[0])};
  if (given[0] == "ids") {
    auto ids = ParseIds(arguments.Text("ids"), input.where);
    if (!ids.ok()) return UsageError(std::string(ids.status().message()));
    input.ids = *std::move(ids);
  } else {
    input.text = arguments.Text(given[0]);
  }
  return std::vector<Input>{std::move(input)};
}

absl::Status AtInput(const Input& input, const absl::Status& status) {
  if (absl::StartsWith(input.where, "--")) return status;  // there is only one
  absl::Status out(status.code(), absl::StrCat(input.where, ": ", status.message()));
  status.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { out.SetPayload(url, payload); });
  return out;
}

}  // namespace lorad::client::cli
