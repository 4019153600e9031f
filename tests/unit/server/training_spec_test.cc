// Hyperparameters: defaults, ranges, and nothing lost on the way to the engine.
#include "server/jobs/training_spec.h"

#include <functional>
#include <string>

#include "google/protobuf/descriptor.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace lorad::server {
namespace {

constexpr int32_t kContext = 4096;

v1::TrainingSpec Filled() {
  v1::TrainingSpec spec;
  FillDefaults(spec, kContext, nullptr);
  return spec;
}

TEST(TrainingSpecTest, DefaultsFillEveryFieldAndPassTheChecks) {
  const v1::TrainingSpec spec = Filled();
  const auto* descriptor = v1::TrainingSpec::descriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const auto* field = descriptor->field(i);
    if (field->is_repeated()) {
      EXPECT_GT(spec.GetReflection()->FieldSize(spec, field), 0) << field->name();
    } else {
      EXPECT_TRUE(spec.GetReflection()->HasField(spec, field)) << field->name();
    }
  }
  EXPECT_OK(CheckTrainingSpec(spec, false, kContext, nullptr));
}

TEST(TrainingSpecTest, DefaultsAreTheEnginesOwn) {
  const TrainingSpec engine = ToEngine(Filled());
  const TrainingSpec own;
  EXPECT_EQ(engine.lora.r, own.lora.r);
  EXPECT_EQ(engine.lora.target_modules, own.lora.target_modules);
  EXPECT_EQ(engine.learning_rate, own.learning_rate);
  EXPECT_EQ(engine.lr_scheduler_type, own.lr_scheduler_type);
  EXPECT_EQ(engine.num_train_epochs, own.num_train_epochs);
  EXPECT_EQ(engine.micro_batch_size, own.micro_batch_size);
  EXPECT_EQ(engine.max_seq_length, own.max_seq_length);
  EXPECT_EQ(engine.adam_epsilon, own.adam_epsilon);
  EXPECT_EQ(engine.optim, own.optim);
  EXPECT_EQ(engine.packing, own.packing);
  EXPECT_EQ(engine.logging_steps, own.logging_steps);
}

TEST(TrainingSpecTest, AnExplicitZeroIsKept) {
  v1::TrainingSpec spec;
  spec.set_packing(false);
  spec.set_max_grad_norm(0);
  spec.set_warmup_steps(0);
  spec.set_shuffle(false);
  FillDefaults(spec, kContext, nullptr);
  const TrainingSpec engine = ToEngine(spec);
  EXPECT_FALSE(engine.packing);
  EXPECT_FALSE(engine.shuffle);
  EXPECT_EQ(engine.max_grad_norm, 0);
}

// Sets every field to a value unlike its default, by reflection, and looks for it in the engine's
// spec: a field that ToEngine forgets is silently not applied.
TEST(TrainingSpecTest, EveryFieldReachesTheEngine) {
  v1::TrainingSpec spec;
  spec.set_r(3);
  spec.set_lora_alpha(5);
  spec.set_lora_dropout(0.25);
  spec.add_target_modules("q_proj");
  spec.set_use_rslora(true);
  spec.set_learning_rate(0.5);
  spec.set_lr_scheduler_type("cosine");
  spec.set_warmup_steps(7);
  spec.set_warmup_ratio(0.125);
  spec.set_num_train_epochs(9);
  spec.set_max_steps(11);
  spec.set_micro_batch_size(2);
  spec.set_gradient_accumulation_steps(6);
  spec.set_max_seq_length(99);
  spec.set_packing(false);
  spec.set_shuffle(false);
  spec.set_max_grad_norm(0.75);
  spec.set_weight_decay(0.0625);
  spec.set_adam_beta1(0.5);
  spec.set_adam_beta2(0.625);
  spec.set_adam_epsilon(0.001);
  spec.set_optim("paged_adamw_8bit");
  spec.set_eval_steps(13);
  spec.set_save_steps(17);
  spec.set_serve_checkpoints(true);
  spec.set_logging_steps(19);
  spec.set_early_stopping_patience(23);
  spec.set_seed(29);
  spec.set_activation_checkpointing("every_k:3");
  const TrainingSpec e = ToEngine(spec);
  EXPECT_EQ(e.lora.r, 3);
  EXPECT_EQ(e.lora.lora_alpha, 5);
  EXPECT_EQ(e.lora.lora_dropout, 0.25);
  EXPECT_EQ(e.lora.target_modules, std::vector<std::string>{"q_proj"});
  EXPECT_TRUE(e.lora.use_rslora);
  EXPECT_EQ(e.learning_rate, 0.5);
  EXPECT_EQ(e.lr_scheduler_type, "cosine");
  EXPECT_EQ(e.warmup_steps, 7);
  EXPECT_EQ(e.warmup_ratio, 0.125);
  EXPECT_EQ(e.num_train_epochs, 9);
  EXPECT_EQ(e.max_steps, 11);
  EXPECT_EQ(e.micro_batch_size, 2);
  EXPECT_EQ(e.gradient_accumulation_steps, 6);
  EXPECT_EQ(e.max_seq_length, 99);
  EXPECT_FALSE(e.packing);
  EXPECT_FALSE(e.shuffle);
  EXPECT_EQ(e.max_grad_norm, 0.75);
  EXPECT_EQ(e.weight_decay, 0.0625);
  EXPECT_EQ(e.adam_beta1, 0.5);
  EXPECT_EQ(e.adam_beta2, 0.625);
  EXPECT_EQ(e.adam_epsilon, 0.001);
  EXPECT_EQ(e.optim, "paged_adamw_8bit");
  EXPECT_EQ(e.eval_steps, 13);
  EXPECT_EQ(e.save_steps, 17);
  EXPECT_TRUE(e.serve_checkpoints);
  EXPECT_EQ(e.logging_steps, 19);
  EXPECT_EQ(e.early_stopping_patience, 23);
  EXPECT_EQ(e.seed, 29u);
  EXPECT_EQ(e.activation_checkpointing, "every_k:3");
}

struct BadField {
  const char* field;
  std::function<void(v1::TrainingSpec&)> set;
};

class BadFieldTest : public ::testing::TestWithParam<BadField> {};

TEST_P(BadFieldTest, IsRefusedByName) {
  v1::TrainingSpec spec = Filled();
  GetParam().set(spec);
  EXPECT_THAT(CheckTrainingSpec(spec, false, kContext, nullptr),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       std::string("spec.training.") + GetParam().field + ":"));
}

INSTANTIATE_TEST_SUITE_P(
    Fields, BadFieldTest,
    ::testing::Values(
        BadField{"r", [](auto& s) { s.set_r(0); }}, BadField{"r", [](auto& s) { s.set_r(1025); }},
        BadField{"lora_alpha", [](auto& s) { s.set_lora_alpha(0); }},
        BadField{"lora_alpha", [](auto& s) { s.set_lora_alpha(NAN); }},
        BadField{"lora_dropout", [](auto& s) { s.set_lora_dropout(1); }},
        BadField{"target_modules", [](auto& s) { s.add_target_modules(""); }},
        BadField{"target_modules", [](auto& s) { s.add_target_modules("q_proj"); }},
        BadField{"learning_rate", [](auto& s) { s.set_learning_rate(0); }},
        BadField{"learning_rate", [](auto& s) { s.set_learning_rate(INFINITY); }},
        BadField{"lr_scheduler_type", [](auto& s) { s.set_lr_scheduler_type("polynomial"); }},
        BadField{"warmup_steps", [](auto& s) { s.set_warmup_steps(-1); }},
        BadField{"warmup_ratio", [](auto& s) { s.set_warmup_ratio(1.5); }},
        BadField{"num_train_epochs", [](auto& s) { s.set_num_train_epochs(0); }},
        BadField{"max_steps", [](auto& s) { s.set_max_steps(-1); }},
        BadField{"micro_batch_size", [](auto& s) { s.set_micro_batch_size(0); }},
        BadField{"gradient_accumulation_steps",
                 [](auto& s) { s.set_gradient_accumulation_steps(0); }},
        BadField{"max_seq_length", [](auto& s) { s.set_max_seq_length(1); }},
        BadField{"max_seq_length", [](auto& s) { s.set_max_seq_length(kContext + 1); }},
        BadField{"max_grad_norm", [](auto& s) { s.set_max_grad_norm(-0.5); }},
        BadField{"weight_decay", [](auto& s) { s.set_weight_decay(-1); }},
        BadField{"adam_beta1", [](auto& s) { s.set_adam_beta1(1); }},
        BadField{"adam_beta2", [](auto& s) { s.set_adam_beta2(-0.1); }},
        BadField{"adam_epsilon", [](auto& s) { s.set_adam_epsilon(0); }},
        BadField{"optim", [](auto& s) { s.set_optim("sgd"); }},
        BadField{"optim", [](auto& s) { s.set_optim(""); }},
        BadField{"eval_steps", [](auto& s) { s.set_eval_steps(5); }},  // without an eval dataset
        BadField{"save_steps", [](auto& s) { s.set_save_steps(-1); }},
        BadField{"logging_steps", [](auto& s) { s.set_logging_steps(0); }},
        BadField{"early_stopping_patience", [](auto& s) { s.set_early_stopping_patience(1); }},
        BadField{"activation_checkpointing",
                 [](auto& s) { s.set_activation_checkpointing("every_k:0"); }},
        BadField{"activation_checkpointing",
                 [](auto& s) { s.set_activation_checkpointing("all"); }}));

TEST(TrainingSpecTest, TakesEveryOptimAndNamesThemAll) {
  constexpr const char* kKnown[] = {"adamw_torch", "adamw_8bit", "paged_adamw_32bit",
                                    "paged_adamw_8bit"};
  v1::TrainingSpec spec = Filled();
  for (const char* optim : kKnown) {
    spec.set_optim(optim);
    EXPECT_OK(CheckTrainingSpec(spec, false, kContext, nullptr));
    EXPECT_EQ(ToEngine(spec).optim, optim);
  }
  spec.set_optim("adamw");
  EXPECT_THAT(CheckTrainingSpec(spec, false, kContext, nullptr),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "spec.training.optim: \"adamw\" is none of adamw_torch, adamw_8bit, "
                       "paged_adamw_32bit, paged_adamw_8bit"));
}

// A job that was stored before there was a choice goes on as it began.
TEST(TrainingSpecTest, AStoredJobWithoutOptimHasTheDefault) {
  v1::TrainingSpec spec = Filled();
  spec.clear_optim();
  EXPECT_EQ(ToEngine(spec).optim, TrainingSpec().optim);
}

TEST(WarmStartTest, FillsFromTheAdapterAndRefusesWhatDiffers) {
  v1::Adapter adapter;
  adapter.set_ref("base@1");
  adapter.set_r(7);
  adapter.set_lora_alpha(3);
  adapter.set_use_rslora(true);
  adapter.add_target_modules("q_proj");
  v1::TrainingSpec spec;
  spec.set_warm_start("base");
  FillDefaults(spec, kContext, &adapter);
  EXPECT_EQ(spec.r(), 7);
  EXPECT_EQ(spec.lora_alpha(), 3);
  EXPECT_TRUE(spec.use_rslora());
  EXPECT_EQ(spec.target_modules(0), "q_proj");
  EXPECT_OK(CheckTrainingSpec(spec, false, kContext, &adapter));
  spec.set_r(8);
  EXPECT_THAT(CheckTrainingSpec(spec, false, kContext, &adapter),
              StatusIs(absl::StatusCode::kInvalidArgument, "8 differs from 7 of base@1"));
}

}  // namespace
}  // namespace lorad::server
