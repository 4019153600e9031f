// What was given on the command line, checked against the declared options.
#ifndef LORAD_CLIENT_CLI_ARGUMENTS_H_
#define LORAD_CLIENT_CLI_ARGUMENTS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cli/option.h"

namespace lorad::client::cli {

// Every value was checked against its option's type when it was added, so the typed getters cannot
// fail; they need an option of that type. Thread-compatible.
class Arguments {
 public:
  // Checks `value` against the type and choices of `option` and keeps it. A later value replaces an
  // earlier one unless the option is a list or repeated. InvalidArgument names option and value.
  absl::Status Add(const Option& option, std::string_view value);
  void AddPositional(std::string value) { positionals_.push_back(std::move(value)); }

  bool Has(std::string_view name) const { return values_.find(name) != values_.end(); }
  std::string Text(std::string_view name, std::string_view otherwise = "") const;
  int64_t Int(std::string_view name, int64_t otherwise = 0) const;
  // The nearest number that a field of 32 bits holds: the server refuses what is out of its range,
  // and what is out of the field's must not look as if in.
  int32_t Int32(std::string_view name) const;
  uint64_t Uint(std::string_view name, uint64_t otherwise = 0) const;
  double Double(std::string_view name, double otherwise = 0) const;
  bool Bool(std::string_view name, bool otherwise = false) const;
  absl::Duration Duration(std::string_view name, absl::Duration otherwise) const;
  // All values of a list or repeated option, in order.
  std::vector<std::string> List(std::string_view name) const;

  const std::vector<std::string>& positionals() const { return positionals_; }
  // Empty when there are fewer.
  std::string Positional(size_t index) const {
    return index < positionals_.size() ? positionals_[index] : "";
  }

 private:
  const std::string* Find(std::string_view name) const;

  std::map<std::string, std::vector<std::string>, std::less<>> values_;
  std::vector<std::string> positionals_;
};

// "90" or "1.5s": seconds when without a unit; nullopt when it is neither or negative.
std::optional<absl::Duration> ParseDuration(std::string_view text);

// "a,b", a JSON array of strings, or a single "regex:..." (whose commas separate nothing).
absl::StatusOr<std::vector<std::string>> ParseList(std::string_view text);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_ARGUMENTS_H_
