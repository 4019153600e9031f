#include "engine/train/spec_check.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

TrainingSpec ValidSpec() {
  TrainingSpec spec;
  spec.train_path = "train.jsonl";
  spec.output_dir = "out";
  return spec;
}

TEST(CheckTrainingSpecTest, TakesTheDefaults) { EXPECT_OK(CheckTrainingSpec(ValidSpec())); }

TEST(CheckTrainingSpecTest, NamesFieldValueAndBound) {
  const double nan = std::nan(""), infinity = std::numeric_limits<double>::infinity();
  using Change = std::function<void(TrainingSpec&)>;
  const std::pair<Change, const char*> cases[] = {
      {[](TrainingSpec& s) { s.train_path = ""; }, "train_path is empty"},
      {[](TrainingSpec& s) { s.learning_rate = 0; }, "learning_rate is 0; it must be > 0"},
      {[=](TrainingSpec& s) { s.learning_rate = nan; }, "learning_rate is nan"},
      {[=](TrainingSpec& s) { s.learning_rate = infinity; }, "learning_rate is inf"},
      {[](TrainingSpec& s) { s.max_grad_norm = -1; }, "max_grad_norm is -1; it must be >= 0"},
      {[](TrainingSpec& s) { s.weight_decay = -0.1; }, "weight_decay is -0.1"},
      {[](TrainingSpec& s) { s.adam_beta1 = 1; }, "adam_beta1 is 1; it must be in [0, 1)"},
      {[](TrainingSpec& s) { s.adam_beta2 = -0.5; }, "adam_beta2 is -0.5"},
      {[](TrainingSpec& s) { s.adam_epsilon = 0; }, "adam_epsilon is 0; it must be > 0"},
      {[](TrainingSpec& s) { s.optim = "sgd"; },
       "optim is \"sgd\"; known are adamw_torch, adamw_8bit, paged_adamw_32bit, paged_adamw_8bit"},
      {[](TrainingSpec& s) { s.optim = ""; }, "optim is \"\""},
      {[](TrainingSpec& s) { s.max_steps = -1; }, "max_steps is -1"},
      {[](TrainingSpec& s) { s.num_train_epochs = 0; }, "num_train_epochs is 0; it must be > 0"},
      {[](TrainingSpec& s) { s.num_train_epochs = 1e9; }, "num_train_epochs is 1e+09"},
      {[](TrainingSpec& s) { s.micro_batch_size = 0; }, "micro_batch_size is 0; it must be >= 1"},
      {[](TrainingSpec& s) { s.micro_batch_size = 1 << 30; },
       "times max_seq_length is 1099511627776"},
      {[](TrainingSpec& s) { s.gradient_accumulation_steps = 0; },
       "gradient_accumulation_steps is 0"},
      {[](TrainingSpec& s) { s.max_seq_length = 1; }, "max_seq_length is 1; it must be >= 2"},
      {[](TrainingSpec& s) { s.eval_steps = -1; }, "eval_steps is -1"},
      {[](TrainingSpec& s) { s.save_steps = -1; }, "save_steps is -1"},
      {[](TrainingSpec& s) { s.logging_steps = 0; }, "logging_steps is 0; it must be >= 1"},
      {[](TrainingSpec& s) { s.early_stopping_patience = -1; }, "early_stopping_patience is -1"},
      {[](TrainingSpec& s) { s.early_stopping_patience = 1; }, "0 without an eval dataset"},
      {[](TrainingSpec& s) { s.eval_steps = 10; }, "eval_steps is 10; it must be 0 without"},
  };
  for (const auto& [change, message] : cases) {
    TrainingSpec spec = ValidSpec();
    change(spec);
    EXPECT_THAT(CheckTrainingSpec(spec), StatusIs(absl::StatusCode::kInvalidArgument, message));
  }
}

TEST(CheckTrainingSpecTest, TakesEveryOptim) {
  for (const char* optim : {"adamw_torch", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit"}) {
    TrainingSpec spec = ValidSpec();
    spec.optim = optim;
    EXPECT_OK(CheckTrainingSpec(spec)) << optim;
  }
}

TEST(CheckTrainingSpecTest, MaxStepsMakesEpochsIdle) {
  TrainingSpec spec = ValidSpec();
  spec.max_steps = 1;
  spec.num_train_epochs = 0;
  EXPECT_OK(CheckTrainingSpec(spec));
}

}  // namespace
}  // namespace lorad
