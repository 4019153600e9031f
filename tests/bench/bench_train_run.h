// One case of bench_train: a job's preparation, memory and steps.
#ifndef LORAD_TESTS_BENCH_BENCH_TRAIN_RUN_H_
#define LORAD_TESTS_BENCH_BENCH_TRAIN_RUN_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/device/backend.h"
#include "engine/model/weights.h"
#include "engine/train/spec.h"
#include "tests/bench/bench_train_flops.h"
#include "tests/bench/bench_train_memory.h"
#include "tests/bench/bench_train_options.h"

namespace lorad::bench {

// The device of a run, and what the driver says of it.
struct BenchDevice {
  Backend* backend = nullptr;  // not owned
  int gpu = -1;                // -1: the CPU
  int64_t free_at_start = -1;  // FreeDeviceBytes before anything was allocated; -1: not known
};

// What the engine says before the first step.
struct PredictedMemory {
  int64_t weights = 0;      // ModelWeightBytes
  int64_t other = 0;        // on the device already: the ops' own workspace
  int64_t from_shapes = 0;  // all of it by the planner, which knows shapes alone
  TrainingPlan training;    // PrepareJob's

  int64_t device_peak() const { return weights + other + training.peak_bytes; }
};

struct CaseResult {
  PredictedMemory predicted;
  int64_t tokens = 0, target_tokens = 0;  // of a step
  StepFlops flops;                        // likewise
  std::vector<double> step_seconds;       // measured ones, in order
  double first_loss = 0, last_loss = 0;   // of all steps, the warm-up among them
  std::vector<int64_t> peak_bytes;        // by MemoryTag
  int64_t device_peak_bytes = 0;          // of all tags on the device
  int64_t arena_peak_bytes = 0;           // what the steps used of the training block
  int64_t driver_peak_bytes = -1;         // what the device lost since the start; -1: not known
};

// Plans as a job does, allocates, runs warm-up and measured steps on one random micro-batch of
// which every token but each row's first is a target. A step is timed as a whole, from making its
// batch to the end of the update on the device. kResourceExhausted: the plan exceeds the memory;
// kInternal: a loss or a gradient is not finite.
absl::StatusOr<CaseResult> RunCase(const TrainCase& options, std::shared_ptr<const Model> model,
                                   const BenchDevice& device);

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_BENCH_TRAIN_RUN_H_
