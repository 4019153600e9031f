// What benchmarks print: one JSON object a line.
#ifndef LORAD_TESTS_BENCH_JSON_LINES_H_
#define LORAD_TESTS_BENCH_JSON_LINES_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace lorad::bench {

using Json = nlohmann::ordered_json;

// The value that p of the others are not above, by nearest rank. REQUIRES: values is not empty; p
// in [0, 1].
double Percentile(std::vector<double> values, double p);

// To stdout, and to the end of the file `output` unless that is empty. kUnavailable names the file.
absl::Status PrintLine(const Json& json, const std::string& output);

// The command as a shell takes it, but for quotes within.
std::string CommandLine(const std::vector<std::string>& words);

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_JSON_LINES_H_
