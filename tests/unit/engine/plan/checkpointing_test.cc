#include "engine/plan/checkpointing.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using absl::StatusCode;
using Kind = CheckpointingStep::Kind;

// Carries a schedule out on paper: what is held, the most of it, and forward passes. A layer may
// run forward when its input is held or was just made, backward when its activations and the
// gradient of its output are there.
class Machine {
 public:
  explicit Machine(const LayerChain& chain)
      : chain_(chain), input_(chain.num_layers + 1), kept_(chain.num_layers) {
    input_[0] = true;
  }

  void Run(const CheckpointingStep& step) {
    switch (step.kind) {
      case Kind::kForward:
        ASSERT_TRUE(Available(step.begin));
        Touch(1);  // a layer's activations at a time
        forwards_ += step.end - step.begin;
        input_[step.end] = true;
        break;
      case Kind::kKeep:
        ASSERT_TRUE(Available(step.begin));
        ASSERT_FALSE(kept_[step.begin]);
        ++forwards_;
        kept_[step.begin] = true;
        break;
      case Kind::kBackward:
        ASSERT_TRUE(kept_[step.begin]);
        ASSERT_EQ(step.begin, next_backward_);
        kept_[step.begin] = false;
        if (step.begin > 0) input_[step.begin] = false;
        --next_backward_;
        break;
    }
    Touch(0);
  }
  bool Done() const { return next_backward_ < 0; }
  int64_t forwards() const { return forwards_; }
  int64_t peak() const { return peak_; }

 private:
  // A kept layer's activations hold the next one's input.
  bool Available(int64_t layer) const { return input_[layer] || (layer > 0 && kept_[layer - 1]); }
  void Touch(int64_t transient) {
    const int64_t inputs = std::count(input_.begin(), input_.end(), true);
    const int64_t layers = std::count(kept_.begin(), kept_.end(), true) + transient;
    peak_ = std::max(
        peak_, chain_.fixed_bytes + inputs * chain_.input_bytes + layers * chain_.layer_bytes);
  }

  const LayerChain chain_;
  std::vector<bool> input_, kept_;
  int64_t next_backward_ = static_cast<int64_t>(kept_.size()) - 1;
  int64_t forwards_ = 0, peak_ = 0;
};

int64_t RunOnPaper(const LayerChain& chain, const CheckpointingSchedule& schedule) {
  Machine machine(chain);
  for (const CheckpointingStep& step : schedule.steps) machine.Run(step);
  EXPECT_TRUE(machine.Done());
  EXPECT_LE(machine.peak(), schedule.cost.peak_bytes);
  EXPECT_EQ(machine.forwards(), chain.num_layers + schedule.cost.recomputed_layers);
  return machine.peak();
}

int64_t Choose(int64_t n, int64_t k) {
  int64_t result = 1;
  for (int64_t i = 1; i <= k; ++i) result = result * (n - k + i) / i;
  return result;
}

// Griewank and Walther, "Algorithm 799: Revolve", 2000: forward steps beyond those next to a
// backward one, for l steps and c inputs held, are r l - C(c + r, r - 1) with the least r for which
// l <= C(c + r, r).
int64_t Revolve(int64_t l, int64_t c) {
  int64_t r = 0;
  while (Choose(c + r, r) < l) ++r;
  return r == 0 ? 0 : r * l - Choose(c + r, r - 1);
}

TEST(OptimalScheduleTest, IsRevolveWhereOnlyInputsFit) {
  for (int64_t layers = 1; layers <= 24; ++layers) {
    for (int64_t inputs = 1; inputs <= 6; ++inputs) {
      // Two layers' activations never fit.
      const LayerChain chain = {layers, 0, 1, 1000};
      // Here the input of the layer at hand counts too.
      ASSERT_OK_AND_ASSIGN(const CheckpointingSchedule schedule,
                           OptimalSchedule(chain, 1000 + inputs + 1));
      EXPECT_EQ(schedule.cost.recomputed_layers, Revolve(layers, inputs))
          << layers << " layers, " << inputs << " inputs";
      RunOnPaper(chain, schedule);
    }
  }
}

TEST(OptimalScheduleTest, KeepsAllWhereAllFitsAndNothingWhereNothingDoes) {
  const LayerChain chain = {12, 100, 3, 50};
  ASSERT_OK_AND_ASSIGN(const CheckpointingSchedule all, OptimalSchedule(chain, 100 + 3 + 12 * 50));
  EXPECT_EQ(all.cost.recomputed_layers, 0);
  ASSERT_OK_AND_ASSIGN(const CheckpointingSchedule one, OptimalSchedule(chain, 100 + 2 * 3 + 50));
  EXPECT_EQ(one.cost.recomputed_layers, KeepNothingCost(chain).recomputed_layers);
  EXPECT_EQ(one.cost.recomputed_layers, 66);
  EXPECT_THAT(OptimalSchedule(chain, 155),
              StatusIs(StatusCode::kResourceExhausted, "at least 156 bytes are needed, 155"));
}

// Over random chains and budgets: carried out on paper it is right, fits, and no policy with that
// memory computes less again.
TEST(OptimalScheduleTest, IsNeverWorseThanAnyPolicyAtEqualMemory) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 60; ++trial) {
    LayerChain chain;
    chain.num_layers = 1 + static_cast<int64_t>(random() % 40);
    chain.fixed_bytes = static_cast<int64_t>(random() % 1000);
    chain.input_bytes = static_cast<int64_t>(random() % 20);
    chain.layer_bytes = 1 + static_cast<int64_t>(random() % 200);
    std::vector<ActivationCheckpointing> policies;
    for (int64_t k = 1; k <= chain.num_layers; ++k) {
      policies.push_back({.layers_per_segment = k});
      policies.push_back({.layers_per_segment = 1, .kept_layers = k});
      policies.push_back({.layers_per_segment = (k + 1) / 2, .kept_layers = k});
    }
    ASSERT_OK_AND_ASSIGN(const ActivationPolicy sqrt,
                         ParseActivationPolicy("sqrt", chain.num_layers));
    policies.push_back(sqrt.checkpointing);
    for (size_t i = 0; i < policies.size(); i += 1 + random() % 4) {
      const CheckpointingCost cost = SegmentsCost(chain, policies[i]);
      ASSERT_OK_AND_ASSIGN(const CheckpointingSchedule schedule,
                           OptimalSchedule(chain, cost.peak_bytes));
      EXPECT_LE(schedule.cost.recomputed_layers, cost.recomputed_layers);
      EXPECT_LE(RunOnPaper(chain, schedule), cost.peak_bytes);
      ASSERT_OK_AND_ASSIGN(const ActivationCheckpointing best,
                           BestSegments(chain, cost.peak_bytes));
      EXPECT_LE(SegmentsCost(chain, best).recomputed_layers, cost.recomputed_layers);
      EXPECT_LE(SegmentsCost(chain, best).peak_bytes, cost.peak_bytes);
    }
  }
}

TEST(BestSegmentsTest, FindsTheLeastOfAllByTrying) {
  const LayerChain chain = {13, 7, 10, 90};
  for (int64_t budget = 7 + 100; budget < 1400; budget += 11) {
    int64_t least = INT64_MAX;
    for (int64_t kept = 1; kept <= 13; ++kept) {
      for (int64_t length = 1; length <= 13; ++length) {
        const CheckpointingCost cost =
            SegmentsCost(chain, {.layers_per_segment = length, .kept_layers = kept});
        if (cost.peak_bytes <= budget) least = std::min(least, cost.recomputed_layers);
      }
    }
    const auto best = BestSegments(chain, budget);
    if (least == INT64_MAX) {
      EXPECT_THAT(best, StatusIs(StatusCode::kResourceExhausted, "bytes are needed"));
    } else {
      ASSERT_OK(best);
      EXPECT_EQ(SegmentsCost(chain, *best).recomputed_layers, least) << budget;
    }
  }
}

TEST(CheckpointingCurveTest, FallsWithMemoryAndIsNeverAboveThePolicies) {
  const LayerChain chain = {80, 1 << 20, 100, 1500};
  ASSERT_OK_AND_ASSIGN(const CheckpointingCurve curve, DrawCheckpointingCurve(chain, 12));
  ASSERT_EQ(curve.optimal.size(), 12);
  EXPECT_EQ(curve.optimal.front().cost.recomputed_layers, 80 * 79 / 2);
  EXPECT_EQ(curve.optimal.back().cost.recomputed_layers, 0);
  for (size_t i = 1; i < curve.optimal.size(); ++i)
    EXPECT_LE(curve.optimal[i].cost.recomputed_layers, curve.optimal[i - 1].cost.recomputed_layers);
  for (const CheckpointingPoint& policy : curve.policies) {
    ASSERT_OK_AND_ASSIGN(const CheckpointingSchedule schedule,
                         OptimalSchedule(chain, policy.cost.peak_bytes));
    EXPECT_LE(schedule.cost.recomputed_layers, policy.cost.recomputed_layers) << policy.policy;
  }
  EXPECT_THAT(DrawCheckpointingCurve(chain, 1), StatusIs(StatusCode::kInvalidArgument, "[2, 64]"));
}

TEST(LayerChainTest, NonsenseIsRefused) {
  const auto refuses = [](const LayerChain& chain, const std::string& message) {
    EXPECT_THAT(BestSegments(chain, 1), StatusIs(StatusCode::kInvalidArgument, message));
    EXPECT_THAT(OptimalSchedule(chain, 1), StatusIs(StatusCode::kInvalidArgument, message));
  };
  refuses({0, 0, 1, 1}, "num_layers is 0; it must be in [1, 16384]");
  refuses({16385, 0, 1, 1}, "num_layers is 16385");
  EXPECT_THAT(OptimalSchedule({193, 0, 1, 1}, 500),
              StatusIs(StatusCode::kInvalidArgument, "num_layers is 193; an optimal schedule"));
  EXPECT_OK(BestSegments({193, 0, 1, 1}, 500));
  refuses({1, -1, 1, 1}, "fixed_bytes is -1");
  refuses({1, 0, INT64_MAX, 1}, "input_bytes is 9223372036854775807");
  refuses({1, 0, 1, 0}, "layer_bytes is 0; it must be in [1, ");
}

}  // namespace
}  // namespace lorad
