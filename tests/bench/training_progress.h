// How fast training went when, beside a load.
#ifndef LORAD_TESTS_BENCH_TRAINING_PROGRESS_H_
#define LORAD_TESTS_BENCH_TRAINING_PROGRESS_H_

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "tests/bench/json_lines.h"
#include "tests/bench/load_driver.h"
#include "tests/bench/load_options.h"

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

#endif  // LORAD_TESTS_BENCH_TRAINING_PROGRESS_H_
