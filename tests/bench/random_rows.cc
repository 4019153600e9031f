#include "tests/bench/random_rows.h"

#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace lorad::bench {

std::string RandomRows(int64_t rows, int64_t tokens, int64_t vocab_size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string lines;
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<uint64_t> ids(tokens);
    for (uint64_t& id : ids) id = random() % static_cast<uint64_t>(vocab_size);
    const std::string list = absl::StrJoin(ids, ",");
    absl::StrAppend(&lines, "{\"input_ids\":[", list, "],\"labels\":[", list, "]}\n");
  }
  return lines;
}

}  // namespace lorad::bench
