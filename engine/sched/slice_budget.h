// How much time the slices of training may take between two tokens of the requests that run.
#ifndef LORAD_ENGINE_SCHED_SLICE_BUDGET_H_
#define LORAD_ENGINE_SCHED_SLICE_BUDGET_H_

#include <cstdint>

#include "absl/time/time.h"
#include "engine/sched/duration_estimate.h"
#include "engine/sched/pass_times.h"

namespace lorad {

struct SliceBudgetOptions {
  // What running requests should wait between two tokens, at most. Zero: no target; then training
  // takes in each step as long as serving did, and at most `most_without_target`, but always at
  // least one slice.
  absl::Duration itl_target = absl::ZeroDuration();
  absl::Duration most_without_target = absl::Milliseconds(10);
  // With a target: after so many served steps in a row for which no slice was short enough, one is
  // run however long it takes. So training never stands still, and serving alone decides the
  // inter-token latency of 99 of 100 tokens. Prompts that share the passes of decoding get more
  // rows as rarely. >= 1.
  int32_t patience_steps = 100;
  // Without a target: no prefill chunk is begun after this long while requests decode.
  absl::Duration prefill_without_target = absl::Milliseconds(50);
};

// The serving half of a step, as it went.
struct ServedStep {
  absl::Time began;         // with everything that was done since the last training slice
  absl::Time decoded;       // the decoding rows' tokens were delivered
  absl::Time ended;         // the prefill chunks, too
  int32_t decode_rows = 0;  // 0: no pass of decoding
  int32_t prompt_rows = 0;  // of prompts in the same pass
  int32_t chunks = 0;       // passes of their own, after it
  int32_t running = 0;      // requests with a slot, when it began
  int32_t slots = 0;        // 0: not known
  bool queue = false;       // requests waited beside those
  bool backlog = false;     // requests wait for a slot, or running ones for their first token
};

struct TrainingAllowance {
  absl::Time until;           // slices must be done by then
  bool at_least_one = false;  // even so
};

// The next token of a running request is due a target after its last. Until then there must be room
// for the pass that makes it, whose time is predicted from those before: a mean and deviations, and
// no less than the last two, so that a rise of the load is obeyed in the next step. The rest is
// training's, while no request waits: a backlog means that serving needs the device.
//
// Training makes every answer take longer, so more of them run at the same time, and for long after
// the load has fallen: at 30 ms a token and 256 tokens, for 8 s. So it takes less the more of the
// slots are taken, and when they have run out it waits until three quarters are free again, or
// nobody has waited for one for four seconds. On a model of serving (load_steps_test) training is
// back 4 s earlier. Under a steady load that takes less than half of the slots it loses at most 3
// points of its share; under one that takes nearly all of them it gives 8 to 14 to shorter answers.
// Knows no clock. Thread-compatible.
class SliceBudget {
 public:
  explicit SliceBudget(const SliceBudgetOptions& options);

  // While rows decode, no further chunk of a step is begun after this long.
  absl::Duration prefill_budget() const;

  // Rows of prompts, at most `most`, that share the pass of `decode_rows` decoding rows which
  // begins now: as many as a pass of the next size is expected to have done before the tokens are
  // due. A prompt goes on in every step from the second on, if by a few rows, as far as the pass
  // has room for them. Nobody waits for a token when no rows decode; then sizes that have not run
  // are tried first, so that their time is known.
  int64_t PromptRows(int32_t decode_rows, int64_t most, absl::Time now) const;

  // After the serving half of a step. True when there is a target and a request waited longer for
  // its token.
  bool OnServed(const ServedStep& step);
  // A step in which there was nothing to serve.
  void OnIdle() {
    served_ = false;
    crowded_ = false;
    starved_ = 0;
  }

  // For the training half of the step that OnServed told of. REQUIRES: OnServed came last.
  TrainingAllowance allowance() const;
  // So many slices were run in it.
  void OnTrained(int64_t slices) { starved_ = slices > 0 ? 0 : starved_ + 1; }

 private:
  bool has_target() const { return options_.itl_target > absl::ZeroDuration(); }
  // A time that a decoding pass seldom exceeds; half of the target before the first.
  absl::Duration NextDecode() const;
  // For what no measurement sees: waking up, admitting, a slice that is a little late.
  absl::Duration Margin() const;
  // What the target leaves beside the next decoding pass.
  absl::Duration Slack() const;
  // The share of that slack which training takes, by how many of the slots are taken.
  double ShareOfSlack() const;
  void LearnPass(const ServedStep& step);

  const SliceBudgetOptions options_;
  DurationEstimate decode_, chunk_;
  PassTimes passes_;
  absl::Duration last_decodes_[2] = {};
  ServedStep step_;       // the last one
  bool served_ = false;   // the last step served
  bool crowded_ = false;  // the slots have run out, lately, and most are not free again
  absl::Time queued_ = absl::InfinitePast();  // the end of the last step with a queue
  int64_t starved_ = 0;  // served steps in a row without a slice, while a job ran
  int64_t held_ = 0;     // passes with prompts beside decoding since a larger size was tried
};

}  // namespace lorad

#endif  // LORAD_ENGINE_SCHED_SLICE_BUDGET_H_
