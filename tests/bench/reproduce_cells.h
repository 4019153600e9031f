// The cells of the tables that reproduce_lora fills.
#ifndef LORAD_TESTS_BENCH_REPRODUCE_CELLS_H_
#define LORAD_TESTS_BENCH_REPRODUCE_CELLS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace lorad::bench {

// One fine-tuning of the demo base. What is not here is as in deploy/demo/*.flags.
struct LoraCell {
  std::string task;     // sql or tickets
  std::string method;   // qlora, lora or full_rank
  std::string base;     // nf4 (with double quantisation) or none: bf16, as the file has it
  std::string weights;  // the table's name of `targets`
  std::vector<std::string> targets;
  int32_t rank = 0;  // 0: of each module the smaller side, which spans every update of it
  double learning_rate = 0;
  uint64_t seed = 0;  // of A, of the order of the samples
};

struct ReproduceOptions {
  // rank: rank by weight type on an nf4 base. full_rank: qlora, lora and full_rank on all linears.
  std::string table;
  std::vector<std::string> task = {"sql"};
  int64_t steps = 100;      // optimiser steps
  int32_t batch = 8;        // samples of a step
  int64_t eval_rows = 0;    // of the eval file's beginning; 0: all
  int32_t num_threads = 1;  // of the backend; 0: all cores
  std::vector<uint64_t> seeds = {0, 1};
  std::vector<double> learning_rates = {2e-3};
  // Every rank has this alpha, so that the first steps move W alike (Hu 2021, 4.1).
  double alpha = 32;
  std::vector<int32_t> ranks = {1, 2, 4, 8, 64};              // of table rank
  std::vector<std::string> weights = {"q", "k", "v", "all"};  // of table rank; all: q, k, v, o
  std::vector<std::string> methods = {"qlora", "lora", "full_rank"};  // of table full_rank
  std::string output;                                                 // file to append results to
};

// Arguments are --name=value; the names are the members'. kInvalidArgument names the argument, the
// value and what is known.
absl::StatusOr<ReproduceOptions> ParseReproduceOptions(const std::vector<std::string>& arguments);

// In the order of the table; seeds innermost, then learning rates.
// REQUIRES: options of ParseReproduceOptions.
std::vector<LoraCell> MakeCells(const ReproduceOptions& options);

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_REPRODUCE_CELLS_H_
