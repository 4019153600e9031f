// How soon after its last optimiser step a job's adapter serves.
#ifndef LORAD_TESTS_BENCH_BENCH_SERVE_PUBLISH_H_
#define LORAD_TESTS_BENCH_BENCH_SERVE_PUBLISH_H_

#include <memory>

#include "absl/status/status.h"
#include "engine/device/backend.h"
#include "engine/model/weights.h"
#include "tests/bench/bench_serve_options.h"
#include "tests/bench/json_lines.h"

namespace lorad::bench {

// Runs ServeCase::rounds jobs of a few steps, one after another, and asks each adapter for a token
// as soon as it is published. Adds to `json`, as of TimesJson over the rounds:
//   step_to_publication_ms   from the report of the last step, which comes when its update is
//                            queued, until the adapter may be asked for
//   publication_ms           of it, what PublicationReport::seconds says: without the wait for the
//                            update, and for the loop to notice
//   publication_to_token_ms  from there to the first token: it comes onto the device, and its
//                            prompt of prompt_tokens is run
//   step_to_token_ms         the whole
// Errors of the engine or of a job.
absl::Status MeasurePublication(const ServeCase& options, std::shared_ptr<const Model> model,
                                std::shared_ptr<Backend> backend, Json& json);

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_BENCH_SERVE_PUBLISH_H_
