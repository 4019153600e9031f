// Command lines of benchmarks: --name=value sets a member of the options or of a case, and each
// --case="name=value name=value ..." is one case that differs from the other arguments in these.
#ifndef LORAD_TESTS_BENCH_CASE_FLAGS_H_
#define LORAD_TESTS_BENCH_CASE_FLAGS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/core/status_macros.h"

namespace lorad::bench {

// Text into a value; false: not understood.
inline bool ParseValue(const std::string& text, std::string& value) {
  value = text;
  return true;
}
inline bool ParseValue(const std::string& text, double& value) {
  return absl::SimpleAtod(text, &value);
}
inline bool ParseValue(const std::string& text, bool& value) {
  return absl::SimpleAtob(text, &value);
}
template <typename Integer>
bool ParseValue(const std::string& text, Integer& value) {
  return absl::SimpleAtoi(text, &value);
}
// Separated by commas; at least one.
template <typename Item>
bool ParseValue(const std::string& text, std::vector<Item>& values) {
  values.clear();
  for (const absl::string_view part : absl::StrSplit(text, ','))
    if (!ParseValue(std::string(part), values.emplace_back())) return false;
  return true;
}

// The members of T that can be set by name.
template <typename T>
class FlagSet {
 public:
  // `Owner` is T or a base of it.
  template <typename Member, typename Owner>
  FlagSet& Add(const std::string& name, Member Owner::*member) {
    setters_[name] = [member](const std::string& text, T& to) {
      return ParseValue(text, to.*member);
    };
    return *this;
  }

  bool Has(const std::string& name) const { return setters_.count(name) > 0; }
  // REQUIRES: Has(name).
  absl::Status Set(const std::string& name, const std::string& value, T& to) const {
    if (setters_.at(name)(value, to)) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("--", name, "=", value, ": the value is not understood"));
  }
  std::string Names() const {
    return absl::StrJoin(setters_, ", ", [](std::string* out, const auto& setter) {
      absl::StrAppend(out, setter.first);
    });
  }

 private:
  std::map<std::string, std::function<bool(const std::string&, T&)>> setters_;
};

// Without any --case the other arguments are the one case. kInvalidArgument names the argument and
// what is known.
template <typename Options, typename Case>
absl::Status ParseArguments(const std::vector<std::string>& arguments,
                            const FlagSet<Options>& of_options, const FlagSet<Case>& of_case,
                            Options& options, std::vector<Case>& cases) {
  const auto split = [](absl::string_view argument) {
    absl::ConsumePrefix(&argument, "--");
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(argument, absl::MaxSplits('=', 1));
    return parts;
  };
  const auto unknown = [&](const std::string& name) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--", name, ": known are case, ", of_options.Names(), ", and of a case ", of_case.Names()));
  };
  Case common;
  std::vector<std::string> all_differences;
  for (const std::string& argument : arguments) {
    const auto [name, value] = split(argument);
    if (name == "case") {
      all_differences.push_back(value);
    } else if (of_options.Has(name)) {
      RETURN_IF_ERROR(of_options.Set(name, value, options));
    } else if (of_case.Has(name)) {
      RETURN_IF_ERROR(of_case.Set(name, value, common));
    } else {
      return unknown(name);
    }
  }
  if (all_differences.empty()) all_differences.emplace_back();
  for (const std::string& differences : all_differences) {
    Case& one = cases.emplace_back(common);
    for (const absl::string_view part : absl::StrSplit(differences, ' ', absl::SkipEmpty())) {
      const auto [name, value] = split(part);
      if (!of_case.Has(name)) return unknown(name);
      RETURN_IF_ERROR(of_case.Set(name, value, one));
    }
  }
  return absl::OkStatus();
}

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_CASE_FLAGS_H_
