// Training data for benchmarks.
#ifndef LORAD_TESTS_BENCH_RANDOM_ROWS_H_
#define LORAD_TESTS_BENCH_RANDOM_ROWS_H_

#include <cstdint>
#include <string>

namespace lorad::bench {

// JSONL of `rows` samples of `tokens` random ids in [0, vocab_size), all of them in the loss.
std::string RandomRows(int64_t rows, int64_t tokens, int64_t vocab_size, uint64_t seed);

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_RANDOM_ROWS_H_
