// main() of a benchmark that is given cases.
#ifndef LORAD_TESTS_BENCH_BENCH_MAIN_H_
#define LORAD_TESTS_BENCH_BENCH_MAIN_H_

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/core/status_macros.h"
#include "tests/bench/json_lines.h"

namespace lorad::bench {

// A line for each case to stdout, and to the end of `output`: describe(case), and what
// measure(case, line) adds, or its "error". False: a case failed.
template <typename Case, typename Describe, typename Measure>
absl::StatusOr<bool> RunCases(const std::vector<Case>& cases, const std::string& output,
                              const std::string& command_line, const Describe& describe,
                              const Measure& measure) {
  bool all = true;
  for (const Case& one : cases) {
    Json json = describe(one);
    if (const absl::Status status = measure(one, json); !status.ok()) {
      json["error"] = status.ToString();
      all = false;
    }
    json["command_line"] = command_line;
    RETURN_IF_ERROR(PrintLine(json, output));
  }
  return all;
}

// Bench(options, command line).Run() says whether all cases went well. The exit status is 1 where
// one did not, or the arguments do not parse.
template <typename Bench, typename Parse>
int BenchMain(int argc, char** argv, const Parse& parse) {
  const std::vector<std::string> words(argv, argv + argc);
  auto options = parse(std::vector<std::string>(words.begin() + 1, words.end()));
  const absl::StatusOr<bool> all =
      options.ok() ? Bench(*std::move(options), CommandLine(words)).Run() : options.status();
  if (!all.ok()) std::fprintf(stderr, "%s\n", all.status().ToString().c_str());
  return all.ok() && *all ? 0 : 1;
}

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_BENCH_MAIN_H_
