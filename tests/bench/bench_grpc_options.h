// What bench_grpc is asked to measure.
#ifndef LORAD_TESTS_BENCH_BENCH_GRPC_OPTIONS_H_
#define LORAD_TESTS_BENCH_BENCH_GRPC_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/bench/load_options.h"

namespace lorad::bench {

// One load. Each member is the flag of its name, those of LoadOptions among them.
struct GrpcCase : LoadOptions {
  int64_t connections = 8;  // of TCP; requests take them in turn
  uint64_t seed = 0;        // of adapters, prompts and arrivals
  int64_t adapters = 0;     // imported before and deleted after; 0: base alone
  int32_t rank = 16;        // of each, on all linears
  std::string shape;        // of the daemon's model, see ShapeConfig; needed for adapters
};

struct GrpcOptions {
  std::string server = "127.0.0.1:7430";
  std::string token;   // as loractl's
  std::string output;  // file to append results to
  std::vector<GrpcCase> cases;
};

// Arguments as case_flags.h takes them. kInvalidArgument names the argument, its value and what it
// may be.
absl::StatusOr<GrpcOptions> ParseGrpcOptions(const std::vector<std::string>& arguments);

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_BENCH_GRPC_OPTIONS_H_
