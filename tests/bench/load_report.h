// What a load showed, in the same fields for the engine and for a daemon.
#ifndef LORAD_TESTS_BENCH_LOAD_REPORT_H_
#define LORAD_TESTS_BENCH_LOAD_REPORT_H_

#include <vector>

#include "tests/bench/json_lines.h"
#include "tests/bench/load_driver.h"
#include "tests/bench/load_options.h"

namespace lorad::bench {

// {"count", "mean", "p50", "p90", "p99", "max"} of `seconds` in milliseconds; null when there are
// none.
Json TimesJson(const std::vector<double>& seconds);

// Of the requests that were due in [begin, end):
//   requests     offered = completed + refused + failed + unfinished; the first error of each kind
//   ttft_ms      from when a request was due to its first token
//   e2e_ms       from there to the end, of completed ones
//   completed_tokens
// and of the tokens that came in [begin, end), of whatever request:
//   tokens, tokens_per_s
//   itl_ms       from a request's token to its next, by the time of the next
//   within_itl_target   the share of these that took itl_target_ms or less; null without a target
Json WindowJson(const std::vector<RequestRecord>& records, double begin, double end,
                double itl_target_ms);

// The parameters of the load.
Json PlanJson(const LoadOptions& options);

// WindowJson from the warm-up's end to the last arrival's time; and with several phases "phases",
// one for each, the warm-up included.
Json LoadJson(const LoadPlan& plan, const std::vector<RequestRecord>& records);

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_LOAD_REPORT_H_
