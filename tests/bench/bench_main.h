// main() of a benchmark that is given cases.
#ifndef LORAD_TESTS_BENCH_BENCH_MAIN_H_
#define LORAD_TESTS_BENCH_BENCH_MAIN_H_

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/bench/json_lines.h"

namespace lorad::bench {

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
