// One cell of a table of reproduce_lora: a training job and its eval loss.
#ifndef LORAD_TESTS_BENCH_REPRODUCE_RUN_H_
#define LORAD_TESTS_BENCH_REPRODUCE_RUN_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/device/backend.h"
#include "engine/io/tokenizer.h"
#include "engine/model/weights.h"
#include "tests/bench/reproduce_cells.h"

namespace lorad::bench {

struct CellResult {
  int64_t trainable_parameters = 0;
  int64_t adapted_modules = 0;
  int64_t steps = 0;
  int64_t tokens = 0;       // trained, prompts among them
  double train_loss = 0;    // of the last step, nats per target token
  double eval_loss = 0;     // after it, over all eval samples, nats per target token
  int64_t eval_tokens = 0;  // of the eval samples
  double seconds = 0;       // from the first step to the end of the evaluation
  double cpu_seconds = 0;   // of the process, likewise
};

// Runs the cell through TrainingJob: data deploy/demo/data/<task>_{train,eval}.jsonl, linear decay
// after 10 warm-up steps (a tenth of fewer than 100), AdamW without weight decay. Errors are the
// job's. kInvalidArgument: eval_rows exceeds the file. `model` is in the cell's base format.
absl::StatusOr<CellResult> RunCell(const LoraCell& cell, const ReproduceOptions& options,
                                   std::shared_ptr<const Model> model, const Tokenizer& tokenizer,
                                   Backend& backend);

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_REPRODUCE_RUN_H_
