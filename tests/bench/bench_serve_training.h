// A training job beside the requests of a load, and how fast it went when.
#ifndef LORAD_TESTS_BENCH_BENCH_SERVE_TRAINING_H_
#define LORAD_TESTS_BENCH_BENCH_SERVE_TRAINING_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "engine/engine.h"
#include "tests/bench/bench_serve_options.h"
#include "tests/bench/json_lines.h"
#include "tests/bench/load_driver.h"
#include "tests/bench/load_options.h"
#include "tests/bench/scratch_dir.h"

namespace lorad::bench {

// Tokens trained up to some moments: the ends of optimiser steps. Between two of them the rate is
// taken to be even.
class TrainingProgress {
 public:
  struct Mark {
    Clock::time_point at;
    int64_t tokens = 0;  // in all
  };
  // Ascending in both.
  explicit TrainingProgress(std::vector<Mark> marks) : marks_(std::move(marks)) {}

  // Tokens a second from `begin` to `end`; what lies beyond the marks counts as nothing trained.
  double Rate(Clock::time_point begin, Clock::time_point end) const;
  // The first moment from `from` to `last` from which the rate over `window` is at least `rate`.
  std::optional<Clock::time_point> FirstAt(double rate, Clock::duration window,
                                           Clock::time_point from, Clock::time_point last) const;

 private:
  double TokensAt(Clock::time_point at) const;

  const std::vector<Mark> marks_;
};

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

// What training did beside a load, next to what it does alone:
//   solo_tokens_per_s
//   tokens_per_s, share_of_solo   while requests arrived, the warm-up left out
//   phases                        tokens_per_s of each, when there are several
//   recovery_s    when the last phase has a lower rate of requests than the one before it and the
//                 same as an earlier one: from its beginning until training goes, over the second
//                 that follows, at 95 % of its rate in the earlier phase; null: it never did
Json TrainingJson(double solo, const TrainingProgress& progress, const LoadPlan& plan,
                  Clock::time_point began);

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_BENCH_SERVE_TRAINING_H_
