// Training beside a load that rises from 1 to 20 requests a second and falls back, on a clock that
// stands still in between: a model of serving around the real controller and pacer.
#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "engine/sched/slice_budget.h"
#include "engine/sched/training_pacer.h"
#include "gtest/gtest.h"
#include "tests/unit/engine/sched/fake_sliced_job.h"
#include "tests/unit/engine/sched/recording_training_sink.h"

namespace lorad {
namespace {

absl::Duration Ms(double value) { return absl::Milliseconds(value); }

struct Costs {
  double pass_ms, row_ms, chunk_ms;  // of decoding, of each row in it, of a prompt
};
struct Phase {
  double rate, seconds;
};

class LoadSteps {
 public:
  static constexpr int kSlots = 64;
  static constexpr int kAnswer = 256;

  explicit LoadSteps(const Costs& costs) : costs_(costs) {
    // A micro-batch of 2048 tokens.
    std::vector<FakeSlice> slices = EightBillionStep();
    for (FakeSlice& slice : slices) slice.took /= 4;
    auto job = std::make_unique<FakeSlicedJob>(clock_, std::move(slices));
    job_ = job.get();
    slot_.Start(*slot_.Claim(), std::move(job), std::make_shared<RecordingTrainingSink>(),
                /*publish=*/nullptr);
    pacer_.RunAlone(absl::Seconds(2), [] { return false; });
  }

  void Run(const std::vector<Phase>& phases, uint64_t seed) {
    const absl::Time start = clock_.now();
    std::vector<absl::Time> arrivals;
    std::mt19937_64 random(seed);
    std::exponential_distribution<double> gap(1);
    absl::Time begin = start;
    for (const Phase& phase : phases) {
      absl::Time at = begin;
      begins_.push_back(begin);
      begin += absl::Seconds(phase.seconds);
      while ((at += absl::Seconds(gap(random) / phase.rate)) < begin) arrivals.push_back(at);
    }
    end_ = begin;
    auto next = arrivals.begin();
    while (clock_.now() < end_) {
      while (next != arrivals.end() && *next <= clock_.now()) waiting_.push_back(*next++);
      while (!waiting_.empty() && static_cast<int>(running_.size()) < kSlots) {
        running_.push_back({waiting_.front(), 0, {}});
        waiting_.erase(waiting_.begin());
      }
      if (running_.empty()) {
        budget_.OnIdle();
        pacer_.RunAlone(Ms(20), [&] { return next != arrivals.end() && *next <= clock_.now(); });
      } else {
        Step();
      }
      marks_.push_back({clock_.now(), job_->busy()});
    }
  }

  // What training had of the time.
  double Share(absl::Time from, absl::Time to) const {
    return absl::FDivDuration(BusyAt(to) - BusyAt(from), to - from);
  }
  double PhaseShare(size_t i) const {
    return Share(begins_[i], i + 1 < begins_.size() ? begins_[i + 1] : end_);
  }
  // From the beginning of the last phase until training has, over a second, 95 % of its share in
  // the first.
  absl::Duration Recovery() const {
    for (absl::Time at = begins_.back(); at + absl::Seconds(1) <= end_; at += Ms(10))
      if (Share(at, at + absl::Seconds(1)) >= 0.95 * PhaseShare(0)) return at - begins_.back();
    return absl::InfiniteDuration();
  }
  double ShareLate() const {
    const auto late = std::count_if(gaps_.begin(), gaps_.end(),
                                    [&](absl::Duration gap) { return gap > target_; });
    return static_cast<double>(late) / static_cast<double>(gaps_.size());
  }
  absl::Duration MedianFirstToken() {
    std::nth_element(first_tokens_.begin(), first_tokens_.begin() + first_tokens_.size() / 2,
                     first_tokens_.end());
    return first_tokens_[first_tokens_.size() / 2];
  }

 private:
  struct Request {
    absl::Time arrived;
    int tokens = 0;
    absl::Time last;
  };
  void Token(Request& request) {
    if (request.tokens++ == 0)
      first_tokens_.push_back(clock_.now() - request.arrived);
    else
      gaps_.push_back(clock_.now() - request.last);
    request.last = clock_.now();
  }
  void Step() {
    ServedStep step{.began = clock_.now(), .decoded = {}, .ended = {}};
    step.running = static_cast<int32_t>(running_.size());
    step.slots = kSlots;
    step.queue = !waiting_.empty();
    for (const Request& request : running_) step.decode_rows += request.tokens > 0;
    if (step.decode_rows > 0)
      clock_.Advance(Ms(costs_.pass_ms + costs_.row_ms * step.decode_rows) + job_->ahead());
    step.decoded = clock_.now();
    std::vector<Request*> prompts;
    for (Request& request : running_) {
      if (request.tokens > 0)
        Token(request);
      else
        prompts.push_back(&request);
    }
    const absl::Duration most = budget_.prefill_budget();
    for (Request* prompt : prompts) {
      if (step.chunks > 0 && step.decode_rows > 0 && clock_.now() - step.decoded > most) break;
      clock_.Advance(Ms(costs_.chunk_ms));
      ++step.chunks;
      Token(*prompt);
    }
    step.ended = clock_.now();
    std::erase_if(running_, [](const Request& request) { return request.tokens == kAnswer; });
    step.backlog = !waiting_.empty() || std::any_of(running_.begin(), running_.end(),
                                                    [](const auto& r) { return r.tokens == 0; });
    budget_.OnServed(step);
    const TrainingAllowance allowance = budget_.allowance();
    budget_.OnTrained(pacer_.RunWithin(allowance));
  }
  absl::Duration BusyAt(absl::Time at) const {
    const auto after = std::upper_bound(marks_.begin(), marks_.end(), at,
                                        [](absl::Time t, const auto& m) { return t < m.first; });
    return after == marks_.begin() ? marks_.front().second : std::prev(after)->second;
  }

  const Costs costs_;
  const absl::Duration target_ = Ms(30);
  FakeClock clock_;
  TrainingSlot slot_;
  TrainingPacer pacer_{slot_, [this] { return clock_.now(); }, nullptr};
  SliceBudget budget_{SliceBudgetOptions{.itl_target = target_}};
  FakeSlicedJob* job_ = nullptr;
  std::vector<absl::Time> waiting_;
  std::vector<Request> running_;
  std::vector<absl::Time> begins_;
  absl::Time end_;
  std::vector<std::pair<absl::Time, absl::Duration>> marks_;
  std::vector<absl::Duration> gaps_, first_tokens_;
};

// An H200 and an 8B model: with prompts as matrices, and with kernels twice as fast.
constexpr Costs kCosts[] = {{3.2, 0.13, 14}, {2.2, 0.05, 14}, {2.2, 0.05, 8}};

// Without regard for how many requests run it takes up to 9.3 s.
TEST(LoadStepsTest, FromOneToTwentyRequestsASecondAndBack) {
  for (const Costs& costs : kCosts) {
    for (uint64_t seed = 1; seed <= 8; ++seed) {
      LoadSteps load(costs);
      load.Run({{1, 8}, {20, 8}, {1, 14}}, seed);
      EXPECT_LE(load.Recovery(), absl::Seconds(5)) << costs.row_ms << " ms a row, seed " << seed;
      EXPECT_LE(load.ShareLate(), 0.01);
    }
  }
}

TEST(LoadStepsTest, ASteadyLoadCostsTrainingItsOwnTimeAlone) {
  LoadSteps load(kCosts[2]);
  load.Run({{5, 60}}, 1);
  EXPECT_GT(load.PhaseShare(0), 0.78);
  EXPECT_LE(load.ShareLate(), 0.01);
  EXPECT_LE(load.MedianFirstToken(), Ms(40));
}

// Nearly all slots are taken, time and again all: answers go first, training goes on.
TEST(LoadStepsTest, AHeavySteadyLoadDoesNotKeepTrainingOut) {
  LoadSteps load(kCosts[2]);
  load.Run({{20, 60}}, 1);
  EXPECT_GT(load.PhaseShare(0), 0.3);
  EXPECT_LE(load.ShareLate(), 0.01);
}

}  // namespace
}  // namespace lorad
