#include "client/cli/arguments.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "engine/core/status_macros.h"
#include "nlohmann/json.hpp"

namespace lorad::client::cli {
namespace {

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

// What a value of the type must be, or nullptr when `value` is one.
const char* Mismatch(OptionType type, std::string_view value) {
  int64_t integer;
  uint64_t natural;
  double real;
  bool truth;
  switch (type) {
    case OptionType::kText:
    case OptionType::kList:
      return nullptr;
    case OptionType::kInt:
      return absl::SimpleAtoi(View(value), &integer) ? nullptr : "a whole number";
    case OptionType::kUint:
      return absl::SimpleAtoi(View(value), &natural) ? nullptr : "a whole number of at least 0";
    case OptionType::kDouble:
      return absl::SimpleAtod(View(value), &real) && std::isfinite(real) ? nullptr : "a number";
    case OptionType::kBool:
      return absl::SimpleAtob(View(value), &truth) ? nullptr : "true or false";
    case OptionType::kDuration:
      return ParseDuration(value) ? nullptr : "a time such as 30, 1.5s or 2m";
  }
  return nullptr;
}

bool IsChoice(const Option& option, std::string_view value) {
  for (const std::string& choice : option.choices) {
    if (choice == value) return true;
  }
  return option.choices.empty();
}

}  // namespace

std::optional<absl::Duration> ParseDuration(std::string_view text) {
  double seconds;
  absl::Duration duration;
  if (absl::SimpleAtod(View(text), &seconds)) {
    if (!std::isfinite(seconds)) return std::nullopt;
    duration = absl::Seconds(seconds);
  } else if (!absl::ParseDuration(View(text), &duration)) {
    return std::nullopt;
  }
  if (duration < absl::ZeroDuration()) return std::nullopt;
  return duration;
}

absl::StatusOr<std::vector<std::string>> ParseList(std::string_view text) {
  if (text.starts_with("regex:")) return std::vector<std::string>{std::string(text)};
  if (!text.starts_with("[")) {
    return std::vector<std::string>(absl::StrSplit(View(text), ',', absl::SkipWhitespace()));
  }
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  std::vector<std::string> items;
  bool good = json.is_array();
  for (size_t i = 0; good && i < json.size(); ++i) {
    good = json[i].is_string();
    if (good) items.push_back(json[i].get<std::string>());
  }
  if (!good) return absl::InvalidArgumentError("not a JSON array of strings");
  return items;
}

absl::Status Arguments::Add(const Option& option, std::string_view value) {
  const std::string given = absl::StrCat("--", option.name, "=", View(value));
  if (const char* wanted = Mismatch(option.type, value)) {
    return absl::InvalidArgumentError(absl::StrCat(given, ": not ", wanted));
  }
  if (!IsChoice(option, value)) {
    return absl::InvalidArgumentError(
        absl::StrCat(given, ": not one of ", absl::StrJoin(option.choices, ", ")));
  }
  std::vector<std::string>& values = values_[option.name];
  if (option.type == OptionType::kList) {
    auto items = ParseList(value);
    if (!items.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(given, ": ", items.status().message()));
    }
    values.insert(values.end(), items->begin(), items->end());
  } else {
    if (!option.repeated) values.clear();
    values.emplace_back(value);
  }
  return absl::OkStatus();
}

const std::string* Arguments::Find(std::string_view name) const {
  const auto it = values_.find(name);
  return it == values_.end() || it->second.empty() ? nullptr : &it->second.back();
}

std::string Arguments::Text(std::string_view name, std::string_view otherwise) const {
  const std::string* value = Find(name);
  return value ? *value : std::string(otherwise);
}

int64_t Arguments::Int(std::string_view name, int64_t otherwise) const {
  const std::string* value = Find(name);
  if (value) (void)absl::SimpleAtoi(*value, &otherwise);
  return otherwise;
}

int32_t Arguments::Int32(std::string_view name) const {
  using Limits = std::numeric_limits<int32_t>;
  return static_cast<int32_t>(std::clamp<int64_t>(Int(name), Limits::min(), Limits::max()));
}

uint64_t Arguments::Uint(std::string_view name, uint64_t otherwise) const {
  const std::string* value = Find(name);
  if (value) (void)absl::SimpleAtoi(*value, &otherwise);
  return otherwise;
}

double Arguments::Double(std::string_view name, double otherwise) const {
  const std::string* value = Find(name);
  if (value) (void)absl::SimpleAtod(*value, &otherwise);
  return otherwise;
}

bool Arguments::Bool(std::string_view name, bool otherwise) const {
  const std::string* value = Find(name);
  if (value) (void)absl::SimpleAtob(*value, &otherwise);
  return otherwise;
}

absl::Duration Arguments::Duration(std::string_view name, absl::Duration otherwise) const {
  const std::string* value = Find(name);
  return value ? ParseDuration(*value).value_or(otherwise) : otherwise;
}

std::vector<std::string> Arguments::List(std::string_view name) const {
  const auto it = values_.find(name);
  return it == values_.end() ? std::vector<std::string>{} : it->second;
}

}  // namespace lorad::client::cli
