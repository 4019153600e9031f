// Requests that arrive at the engine, beside training or without it.
#ifndef LORAD_TESTS_BENCH_BENCH_SERVE_LOAD_H_
#define LORAD_TESTS_BENCH_BENCH_SERVE_LOAD_H_

#include <memory>

#include "absl/status/status.h"
#include "engine/device/backend.h"
#include "engine/model/weights.h"
#include "tests/bench/bench_serve_options.h"
#include "tests/bench/json_lines.h"

namespace lorad::bench {

// Adds what the load showed to `json`: LoadJson's fields, and
//   preemptions, kv_cache_tokens
//   adapter_traffic   loads by source with their times, failed ones, evictions,
//                     loads begun before a request could run with them
//   adapter_memory    bytes of one, used at the end and at most, how many are where
//   churn             AdapterChurn's, with ServeCase::churn
//   training          TrainingJson's, with ServeCase::train
// Errors of the engine or the job.
absl::Status MeasureLoad(const ServeCase& options, std::shared_ptr<const Model> model,
                         std::shared_ptr<Backend> backend, Json& json);

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_BENCH_SERVE_LOAD_H_
