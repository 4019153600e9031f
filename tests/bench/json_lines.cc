#include "tests/bench/json_lines.h"

#include <algorithm>
#include <cstdio>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace lorad::bench {

double Percentile(std::vector<double> values, double p) {
  const auto at = static_cast<size_t>(p * static_cast<double>(values.size() - 1) + 0.5);
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(at), values.end());
  return values[at];
}

absl::Status PrintLine(const Json& json, const std::string& output) {
  const std::string line = json.dump();
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
  if (output.empty()) return absl::OkStatus();
  std::ofstream file(output, std::ios::app);
  file << line << "\n" << std::flush;
  if (file.good()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cannot write ", output));
}

std::string CommandLine(const std::vector<std::string>& words) {
  return absl::StrJoin(words, " ", [](std::string* out, const std::string& word) {
    const bool plain = word.find(' ') == std::string::npos;
    absl::StrAppend(out, plain ? word : absl::StrCat("'", word, "'"));
  });
}

}  // namespace lorad::bench
