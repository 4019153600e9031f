// Declares what a command of loractl takes. One declaration serves parsing, checking and --help.
#ifndef LORAD_CLIENT_CLI_OPTION_H_
#define LORAD_CLIENT_CLI_OPTION_H_

#include <string>
#include <vector>

namespace lorad::client::cli {

enum class OptionType {
  kText,
  kInt,       // int64
  kUint,      // uint64
  kDouble,    // finite
  kBool,      // --x, --x=true, --x=false, --x true
  kDuration,  // "90", "1.5s", "2m30s"; a plain number is seconds
  kList,      // repeated, comma-separated, or a JSON array of strings
};

struct Option {
  std::string name;  // "learning_rate"; "-" and "_" are the same on the command line
  OptionType type = OptionType::kText;
  std::string value = {};          // what --help calls the value: "N", "FILE"
  std::string help = {};           // one sentence, without a full stop
  std::string default_value = {};  // shown by --help; empty: nothing is shown
  std::vector<std::string> choices = {};
  bool repeated = false;  // kText: may be given several times
};

struct Positional {
  std::string name;  // "NAME"
  std::string help;
  bool required = true;
};

struct Example {
  std::string line;  // "loractl job ls"
  std::string what;
};

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_OPTION_H_
