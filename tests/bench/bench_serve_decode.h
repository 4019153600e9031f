// Decoding in a closed batch: how long a step takes when B sequences have a context of the same
// length, and what memory allows.
#ifndef LORAD_TESTS_BENCH_BENCH_SERVE_DECODE_H_
#define LORAD_TESTS_BENCH_BENCH_SERVE_DECODE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/device/backend.h"
#include "engine/model/weights.h"
#include "tests/bench/bench_serve_options.h"

namespace lorad::bench {

// What a step reads at least, each byte once: the packed weights of all layers and the head, the
// keys and values of every sequence's context, the adapters of the batch.
struct DecodeBytes {
  int64_t weights = 0, kv = 0, adapters = 0;
  int64_t total() const { return weights + kv + adapters; }
};

struct DecodePoint {
  int64_t batch = 0;
  int64_t distinct_adapters = 0;  // in the batch: row i uses adapter i modulo ServeCase::adapters
  std::vector<double> step_seconds;  // of the measured steps, in order
  double context = 0;                // mean over rows and measured steps
  DecodeBytes bytes;                 // at that context
  int64_t adapter_parameters = 0;
  int64_t adapter_bytes_each = 0;  // what a step reads of it
};

// Thread-compatible.
class DecodeBench {
 public:
  virtual ~DecodeBench() = default;
  // A batch of `batch` rows. REQUIRES: one of ServeCase::batch.
  virtual absl::StatusOr<DecodePoint> Measure(int64_t batch) = 0;
};

// Forward passes of the runner alone, with the engine's memory plan. The contexts are real: random
// prompts, prefilled once for the largest batch; each measurement goes on where they end.
// `backend` is not owned.
absl::StatusOr<std::unique_ptr<DecodeBench>> DecodeThroughRunner(const ServeCase& options,
                                                                 std::shared_ptr<const Model> model,
                                                                 Backend& backend);

// Requests to the engine: scheduling, sampling and delivery are part of a step. Measured from the
// step after the one in which the last request gave its first token.
absl::StatusOr<std::unique_ptr<DecodeBench>> DecodeThroughScheduler(
    const ServeCase& options, std::shared_ptr<const Model> model, std::shared_ptr<Backend> backend);

// Sets bytes from the other members.
void CountBytes(const Model& model, const Backend& backend, DecodePoint& point);

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_BENCH_SERVE_DECODE_H_
