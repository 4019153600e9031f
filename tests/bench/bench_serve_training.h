// A training job beside the requests of a load.
#ifndef LORAD_TESTS_BENCH_BENCH_SERVE_TRAINING_H_
#define LORAD_TESTS_BENCH_BENCH_SERVE_TRAINING_H_

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "tests/bench/bench_serve_options.h"
#include "tests/bench/scratch_dir.h"
#include "tests/bench/training_progress.h"

namespace lorad::bench {

// A job that goes on for long, as ServeCase::train and its like say; its data are written to `dir`.
absl::StatusOr<TrainingSpec> MakeTrainingSpec(const ServeCase& options, const ScratchDir& dir,
                                              const Engine& engine);

// Runs from Start until it is stopped. Thread-compatible.
class TrainingBeside {
 public:
  // Plans and starts the job, and returns when its second step is done. Errors of the job.
  static absl::StatusOr<std::unique_ptr<TrainingBeside>> Start(const ServeCase& options,
                                                               Engine& engine);
  // Stops the job.
  ~TrainingBeside();

  // Lets it train for so long, at least one step, and returns tokens a second of the steps that
  // ended meanwhile. Errors of the job.
  absl::StatusOr<double> MeasureAlone(double seconds);
  // Up to now: returns when the step that runs is done, so that its share counts.
  absl::StatusOr<TrainingProgress> Progress();

  int64_t peak_bytes() const { return peak_bytes_; }

 private:
  class Sink;
  explicit TrainingBeside(Engine& engine) : engine_(engine) {}

  Engine& engine_;
  const ScratchDir dir_;
  std::shared_ptr<Sink> sink_;
  std::optional<TrainingId> id_;
  int64_t peak_bytes_ = 0;
};

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_BENCH_SERVE_TRAINING_H_
