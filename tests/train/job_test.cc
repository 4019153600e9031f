// Whole jobs: the same result from the same inputs, whatever happens on the way.
#include "engine/train/job.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "engine/io/file.h"
#include "engine/lora/peft.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/train/training_fixture.h"

namespace lorad {
namespace {

namespace fs = std::filesystem;

class JobTest : public testing::Test {
 protected:
  std::string AdapterOf(const TrainingSpec& spec) {
    const auto sink = fixture_.Run(spec);
    EXPECT_TRUE(sink->result.has_value()) << sink->error;
    return sink->result ? sink->result->adapter_id : "";
  }

  // SmallSpec with an eval set, dropout and a checkpoint after every step.
  TrainingSpec ResumableSpec() {
    TrainingSpec spec = fixture_.SmallSpec();
    spec.eval_path = fixture_.WriteRandomRows("eval.jsonl", 6, 2);
    spec.eval_steps = 2;
    spec.lora.lora_dropout = 0.2;
    spec.save_steps = 1;
    spec.checkpoint_dir = fixture_.NewDir("checkpoints");
    return spec;
  }

  TrainingFixture fixture_{"llama-gqa"};
};

// Slices that are waited for one by one give the same adapter as those that are not, and each is of
// the kind that it was said to be.
TEST_F(JobTest, SlicesAreNamedAndTimed) {
  const std::string expected = AdapterOf(ResumableSpec());
  ASSERT_OK_AND_ASSIGN(
      const std::unique_ptr<TrainingJob> job,
      TrainingJob::Create(ResumableSpec(), fixture_.model(), nullptr, fixture_.backend()));
  const auto sink = std::make_shared<RecordingSink>();
  ASSERT_OK(job->Start(sink, /*publish=*/nullptr));
  std::array<int64_t, kNumSliceKinds> counts{};
  absl::Duration total;
  int64_t updates_before_a_step = 0;
  const absl::Time began = absl::Now();
  while (job->state() == TrainingState::kRunning) {
    if (job->waiting()) {
      job->Advance();
      absl::SleepFor(absl::Microseconds(100));
      continue;
    }
    const Slice slice = job->next_slice();
    EXPECT_GE(slice.tokens, 1);
    ++counts[static_cast<int>(slice.kind)];
    // The last update of a step is what makes it done.
    if (slice.kind == SliceKind::kUpdate)
      updates_before_a_step = static_cast<int64_t>(sink->steps.size());
    job->Advance();
    const absl::Duration took = job->AwaitSlice();
    EXPECT_GE(took, absl::ZeroDuration());
    total += took;
  }
  ASSERT_TRUE(sink->result.has_value()) << sink->error;
  EXPECT_EQ(sink->result->adapter_id, expected);
  EXPECT_EQ(updates_before_a_step, sink->result->steps - 1);
  for (int kind = 0; kind < kNumSliceKinds; ++kind) EXPECT_GT(counts[kind], 0) << kind;
  EXPECT_EQ(counts[static_cast<int>(SliceKind::kUpdate)], sink->result->steps);
  EXPECT_EQ(counts[static_cast<int>(SliceKind::kSnapshot)],
            static_cast<int64_t>(sink->checkpoints.size()) +
                std::count_if(sink->evals.begin(), sink->evals.end(),
                              [](const EvalReport& eval) { return eval.best; }));
  EXPECT_LE(total, absl::Now() - began);
  double in_steps = 0;
  for (const StepReport& step : sink->steps) in_steps += step.seconds;
  EXPECT_LE(in_steps, absl::ToDoubleSeconds(absl::Now() - began));
}

TEST_F(JobTest, ReportsWhatHappens) {
  TrainingSpec spec = ResumableSpec();
  spec.save_steps = 0;
  const auto sink = fixture_.Run(spec);
  ASSERT_TRUE(sink->result.has_value()) << sink->error;
  EXPECT_EQ(sink->ends, 1);
  EXPECT_EQ(sink->resumed_from, 0);
  const int64_t steps = sink->result->steps;
  ASSERT_GT(steps, 4);
  ASSERT_EQ(static_cast<int64_t>(sink->steps.size()), steps);
  for (int64_t i = 0; i < steps; ++i) {
    EXPECT_EQ(sink->steps[i].step, i + 1);
    EXPECT_EQ(sink->steps[i].steps, steps);
    EXPECT_GT(sink->steps[i].grad_norm, 0);
    EXPECT_GT(sink->steps[i].seconds, 0);
    EXPECT_GT(sink->steps[i].tokens_per_second, 0);
  }
  EXPECT_EQ(sink->steps[0].learning_rate, 0);  // warm-up
  EXPECT_EQ(sink->steps[1].learning_rate, 1e-3);
  EXPECT_EQ(sink->steps.back().epoch, 2);
  EXPECT_EQ(sink->checkpoints.size(), 2u);  // one an epoch
  EXPECT_EQ(sink->evals.back().step, steps);
  EXPECT_LT(sink->steps.back().loss, sink->steps.front().loss);
  EXPECT_TRUE(sink->warnings.empty());
}

TEST_F(JobTest, SeedDecidesTheAdapter) {
  TrainingSpec spec = fixture_.SmallSpec();
  const std::string first = AdapterOf(spec);
  spec.output_dir = fixture_.NewDir("out");
  EXPECT_EQ(AdapterOf(spec), first);
  spec.output_dir = fixture_.NewDir("out");
  spec.seed += 1;
  EXPECT_NE(AdapterOf(spec), first);
}

TEST_F(JobTest, WhatChangesNoNumberChangesNoAdapter) {
  TrainingSpec spec = fixture_.SmallSpec();
  const std::string first = AdapterOf(spec);
  spec.output_dir = fixture_.NewDir("out");
  spec.activation_checkpointing = "every_layer";
  spec.checkpoint_dir = fixture_.NewDir("checkpoints");
  spec.save_steps = 1;
  spec.logging_steps = 3;
  EXPECT_EQ(AdapterOf(spec), first);
}

TEST_F(JobTest, KilledAfterAnyStepItEndsWithTheSameAdapter) {
  TrainingSpec spec = ResumableSpec();
  const auto whole = fixture_.Run(spec);
  ASSERT_TRUE(whole->result.has_value()) << whole->error;
  for (int64_t kill = 1; kill <= whole->result->steps; ++kill) {
    SCOPED_TRACE(kill);
    spec.output_dir = fixture_.NewDir("out");
    spec.checkpoint_dir = fixture_.NewDir("checkpoints");
    fixture_.Run(spec, [&](TrainingJob&, const RecordingSink& sink) {
      return static_cast<int64_t>(sink.steps.size()) == kill;
    });
    const auto resumed = fixture_.Run(spec);
    ASSERT_TRUE(resumed->result.has_value()) << resumed->error;
    // The checkpoint of the step at which it was killed had not been written yet.
    EXPECT_EQ(resumed->resumed_from, kill - 1);
    EXPECT_EQ(resumed->result->adapter_id, whole->result->adapter_id);
    EXPECT_EQ(resumed->result->best_eval_loss, whole->result->best_eval_loss);
    EXPECT_EQ(resumed->result->best_step, whole->result->best_step);
    for (size_t i = 0; i < resumed->steps.size(); ++i)
      EXPECT_EQ(resumed->steps[i].loss, whole->steps[kill - 1 + i].loss);
  }
}

TEST_F(JobTest, KilledBetweenAnySlicesOfAStepItEndsWithTheSameAdapter) {
  TrainingSpec spec = ResumableSpec();
  spec.max_steps = 3;
  const std::string whole = AdapterOf(spec);
  int slices = 0;
  for (int kill = 1;; kill += 5) {
    spec.output_dir = fixture_.NewDir("out");
    spec.checkpoint_dir = fixture_.NewDir("checkpoints");
    slices = 0;
    const auto cut =
        fixture_.Run(spec, [&](TrainingJob&, const RecordingSink&) { return ++slices == kill; });
    if (cut->result.has_value()) break;
    EXPECT_EQ(AdapterOf(spec), whole) << "killed after slice " << kill;
  }
  EXPECT_GT(slices, 40);
}

TEST_F(JobTest, StoppedOnRequestItWritesACheckpointAndGoesOn) {
  TrainingSpec spec = ResumableSpec();
  spec.save_steps = 1000;
  const std::string whole = AdapterOf(spec);
  for (int ask = 1; ask < 200; ask += 17) {
    spec.output_dir = fixture_.NewDir("out");
    spec.checkpoint_dir = fixture_.NewDir("checkpoints");
    int slices = 0;
    const auto stopped = fixture_.Run(spec, [&](TrainingJob& job, const RecordingSink&) {
      if (++slices == ask) job.RequestStop(/*checkpoint=*/true);
      return false;
    });
    if (stopped->result.has_value()) break;
    ASSERT_TRUE(stopped->stopped_at.has_value());
    EXPECT_EQ(stopped->ends, 1);
    ASSERT_EQ(stopped->checkpoints.size(), 1u);
    EXPECT_EQ(stopped->checkpoints[0].step, *stopped->stopped_at);
    const auto resumed = fixture_.Run(spec);
    ASSERT_TRUE(resumed->result.has_value()) << resumed->error;
    EXPECT_EQ(resumed->resumed_from, *stopped->stopped_at);
    EXPECT_EQ(resumed->result->adapter_id, whole);
  }
}

TEST_F(JobTest, CancelledItStopsAtOnceAndGivesTheMemoryBack) {
  TrainingSpec spec = ResumableSpec();
  const auto sink = fixture_.Run(spec, [](TrainingJob& job, const RecordingSink&) {
    job.RequestStop(/*checkpoint=*/false);
    return false;
  });
  EXPECT_EQ(sink->stopped_at, -1);
  EXPECT_TRUE(sink->steps.empty());
  EXPECT_EQ(fixture_.backend().allocator().Usage(MemoryTag::kTraining).used_bytes, 0);
}

TEST_F(JobTest, ADamagedCheckpointCostsStepsAndNothingElse) {
  TrainingSpec spec = ResumableSpec();
  const std::string whole = AdapterOf(spec);
  spec.output_dir = fixture_.NewDir("out");
  spec.checkpoint_dir = fixture_.NewDir("checkpoints");
  const auto killed = fixture_.Run(
      spec, [](TrainingJob&, const RecordingSink& sink) { return sink.checkpoints.size() == 4; });
  ASSERT_EQ(killed->checkpoints.size(), 4u);
  std::ofstream(killed->checkpoints.back().dir + "/moments.safetensors") << "torn";
  const auto resumed = fixture_.Run(spec);
  ASSERT_TRUE(resumed->result.has_value()) << resumed->error;
  EXPECT_EQ(resumed->resumed_from, 3);
  ASSERT_EQ(resumed->warnings.size(), 1u);
  EXPECT_THAT(resumed->warnings[0], testing::HasSubstr("step-000000000004 is damaged"));
  EXPECT_EQ(resumed->result->adapter_id, whole);
}

TEST_F(JobTest, FinishedTwiceItFindsItsOwnOutput) {
  const TrainingSpec spec = ResumableSpec();
  const std::string first = AdapterOf(spec);
  // The process died after the output and before anybody was told.
  const auto again = fixture_.Run(spec);
  ASSERT_TRUE(again->result.has_value()) << again->error;
  EXPECT_EQ(again->result->adapter_id, first);
  EXPECT_TRUE(again->steps.empty());
}

TEST_F(JobTest, RefusesACheckpointOfOtherSettingsOrData) {
  TrainingSpec spec = ResumableSpec();
  fixture_.Run(
      spec, [](TrainingJob&, const RecordingSink& sink) { return sink.checkpoints.size() == 2; });
  const auto kPrecondition = absl::StatusCode::kFailedPrecondition;
  TrainingSpec other = spec;
  other.learning_rate = 1e-4;
  EXPECT_THAT(fixture_.Run(other)->error, StatusIs(kPrecondition, "learning_rate was 0.002"));
  other = spec;
  other.eval_path = "";
  other.eval_steps = 0;
  EXPECT_THAT(fixture_.Run(other)->error, StatusIs(kPrecondition, "eval_data was"));
  other = spec;
  fixture_.WriteRandomRows("small.jsonl", 40, 77);
  EXPECT_THAT(fixture_.Run(other)->error, StatusIs(kPrecondition, "train_data was"));
}

TEST_F(JobTest, ReturnsTheBestAdapterAndStopsEarly) {
  TrainingSpec spec = ResumableSpec();
  spec.num_train_epochs = 50;
  spec.learning_rate = 2e-2;  // learns its 40 random samples by heart, and the eval loss rises
  spec.early_stopping_patience = 3;
  const auto sink = fixture_.Run(spec);
  ASSERT_TRUE(sink->result.has_value()) << sink->error;
  EXPECT_TRUE(sink->result->stopped_early);
  double best = INFINITY;
  int64_t best_step = 0;
  for (const EvalReport& eval : sink->evals) {
    EXPECT_EQ(eval.best, eval.loss < best);
    if (eval.loss < best) {
      best = eval.loss;
      best_step = eval.step;
    }
  }
  EXPECT_EQ(sink->result->best_eval_loss, best);
  EXPECT_EQ(sink->result->best_step, best_step);
  EXPECT_EQ(sink->evals.back().step, best_step + 3 * spec.eval_steps);
  EXPECT_EQ(sink->result->steps, sink->evals.back().step);
  // The adapter of the best step, which a job of just so many steps would end with.
  const auto checkpoint = std::find_if(sink->checkpoints.begin(), sink->checkpoints.end(),
                                       [&](const auto& c) { return c.step == best_step; });
  ASSERT_NE(checkpoint, sink->checkpoints.end());
  EXPECT_EQ(checkpoint->adapter_id, sink->result->adapter_id);
  EXPECT_NE(sink->checkpoints.back().adapter_id, sink->result->adapter_id);
}

TEST_F(JobTest, FailsAfterThreeStepsThatAreNotFinite) {
  TrainingSpec spec = fixture_.SmallSpec();
  spec.learning_rate = 1e30;
  spec.lr_scheduler_type = "constant";
  spec.warmup_steps = 0;
  const auto sink = fixture_.Run(spec);
  EXPECT_THAT(sink->error, StatusIs(absl::StatusCode::kFailedPrecondition,
                                    "not finite for 3 steps in a row; lower learning_rate"));
  EXPECT_EQ(sink->ends, 1);
  EXPECT_EQ(sink->warnings.size(), 2u);
  EXPECT_FALSE(fs::exists(spec.output_dir));
  EXPECT_EQ(fixture_.backend().allocator().Usage(MemoryTag::kTraining).used_bytes, 0);
}

TEST_F(JobTest, PlansThePeakBeforeItStarts) {
  TrainingSpec spec = ResumableSpec();
  spec.activation_checkpointing = "none";
  ASSERT_OK_AND_ASSIGN(const auto job,
                       TrainingJob::Create(spec, fixture_.model(), nullptr, fixture_.backend()));
  const TrainingPlan& plan = job->plan();
  EXPECT_EQ(plan.train.samples, 40);
  EXPECT_EQ(plan.eval.samples, 6);
  EXPECT_EQ(plan.adapted_modules, 21);
  // 3 layers of rank 4: q, o 128 + 128; k, v 128 + 64; gate, up 128 + 320; down 320 + 128.
  EXPECT_EQ(plan.trainable_parameters, 3 * 4 * (2 * 256 + 2 * 192 + 3 * 448));
  EXPECT_GE(plan.adapter_bytes, 4 * 4 * plan.trainable_parameters);
  EXPECT_EQ(plan.peak_bytes, plan.adapter_bytes + plan.activation_bytes + plan.workspace_bytes);
  Allocator& allocator = fixture_.backend().allocator();
  EXPECT_EQ(allocator.Usage(MemoryTag::kTraining).used_bytes, 0);
  fixture_.Run(spec);
  EXPECT_EQ(allocator.Usage(MemoryTag::kTraining).peak_bytes, plan.peak_bytes);

  allocator.SetLimit(MemoryTag::kTraining, plan.peak_bytes - 1);
  spec.output_dir = fixture_.NewDir("out");
  EXPECT_THAT(fixture_.Run(spec)->error,
              StatusIs(absl::StatusCode::kResourceExhausted,
                       absl::StrCat("the job needs ", plan.peak_bytes, " bytes, ",
                                    plan.peak_bytes - 1, " are free")));
}

TEST_F(JobTest, AutoKeepsTheLayersThatFit) {
  Allocator& allocator = fixture_.backend().allocator();
  TrainingSpec spec = fixture_.SmallSpec();
  const auto plan = [&](const std::string& policy, int64_t limit) {
    allocator.SetLimit(MemoryTag::kTraining, limit);
    spec.activation_checkpointing = policy;
    const auto job = TrainingJob::Create(spec, fixture_.model(), nullptr, fixture_.backend());
    EXPECT_OK(job.status());
    return job.ok() ? (*job)->plan() : TrainingPlan{};
  };
  const TrainingPlan all = plan("none", 0), one = plan("every_layer", 0), host = plan("offload", 0);
  ASSERT_GT(all.peak_bytes, one.peak_bytes);
  ASSERT_GT(one.peak_bytes, host.peak_bytes);
  EXPECT_EQ(one.pinned_bytes, all.pinned_bytes);
  EXPECT_GT(host.pinned_bytes, one.pinned_bytes);
  EXPECT_EQ(plan("auto", all.peak_bytes).activation_checkpointing, "all 3 layers kept");
  const TrainingPlan three = plan("auto", all.peak_bytes - 1);
  EXPECT_EQ(three.activation_checkpointing, "all 3 layers kept but silu(gate) * up");
  const TrainingPlan two = plan("auto", three.peak_bytes - 1);
  EXPECT_EQ(two.activation_checkpointing,
            "2 of 3 layers kept, the rest computed again in segments of 1");
  EXPECT_LT(two.peak_bytes, three.peak_bytes);
  EXPECT_EQ(plan("auto", one.peak_bytes).peak_bytes, one.peak_bytes);
  EXPECT_EQ(plan("auto", one.peak_bytes - 1).peak_bytes, host.peak_bytes);

  allocator.SetLimit(MemoryTag::kTraining, 0);
  const auto adapter = [&](const std::string& policy) {
    spec.activation_checkpointing = policy;
    spec.output_dir = fixture_.NewDir(policy);
    const auto run = fixture_.Run(spec);
    EXPECT_OK(run->error);
    return run->result->adapter_id;
  };
  EXPECT_EQ(adapter("auto"), adapter("offload"));
}

TEST_F(JobTest, AJobThatDoesNotFitIsToldWhatWould) {
  Allocator& allocator = fixture_.backend().allocator();
  TrainingSpec spec = fixture_.SmallSpec();
  spec.activation_checkpointing = "every_layer";
  const auto create = [&] {
    return TrainingJob::Create(spec, fixture_.model(), nullptr, fixture_.backend());
  };
  const auto fitting = create();
  ASSERT_OK(fitting);
  const int64_t least = (*fitting)->plan().peak_bytes;
  spec.activation_checkpointing = "none";
  allocator.SetLimit(MemoryTag::kTraining, least);
  EXPECT_THAT(create(), StatusIs(absl::StatusCode::kResourceExhausted,
                                 "are free; it would fit with activation_checkpointing=auto (as "
                                 "few layers computed again as fit)"));
  spec.activation_checkpointing = "auto";  // as advised
  EXPECT_OK(create());
  allocator.SetLimit(MemoryTag::kTraining, 1000);
  EXPECT_THAT(create(), StatusIs(absl::StatusCode::kResourceExhausted, "nothing makes it fit"));
  allocator.SetLimit(MemoryTag::kTraining, 0);
}

TEST_F(JobTest, CreateRefusesAndNothingStarts) {
  const auto create = [&](auto change) {
    TrainingSpec spec = fixture_.SmallSpec();
    change(spec);
    return TrainingJob::Create(spec, fixture_.model(), nullptr, fixture_.backend()).status();
  };
  const auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(create([](TrainingSpec& s) { s.lora.r = 0; }), StatusIs(kInvalid, "r is 0"));
  EXPECT_THAT(create([](TrainingSpec& s) { s.lora.target_modules = {"w_proj"}; }),
              StatusIs(kInvalid, "w_proj"));
  EXPECT_THAT(create([](TrainingSpec& s) { s.max_seq_length = 513; }),
              StatusIs(kInvalid, "max_seq_length is 513; it must be in [2, 512]"));
  EXPECT_THAT(create([](TrainingSpec& s) { s.activation_checkpointing = "some"; }),
              StatusIs(kInvalid, "activation_checkpointing is \"some\""));
  EXPECT_THAT(create([](TrainingSpec& s) { s.lr_scheduler_type = "step"; }),
              StatusIs(kInvalid, "lr_scheduler_type is \"step\""));
  EXPECT_THAT(create([](TrainingSpec& s) { s.learning_rate = -1; }),
              StatusIs(kInvalid, "learning_rate is -1"));
  EXPECT_THAT(create([&](TrainingSpec& s) {
                s.eval_path = fixture_.temp().Write("bad.jsonl", "{\"input_ids\": [1, 2]}\n");
              }),
              StatusIs(kInvalid, "bad.jsonl line 1: field \"labels\" is missing"));
  EXPECT_THAT(create([](TrainingSpec& s) { s.train_path = "/absent.jsonl"; }),
              StatusIs(absl::StatusCode::kNotFound, "/absent.jsonl"));
  EXPECT_THAT(create([](TrainingSpec& s) { s.warm_start_dir = "/absent"; }),
              StatusIs(absl::StatusCode::kNotFound, "/absent"));
  EXPECT_THAT(create([&](TrainingSpec& s) {
                s.output_dir = fixture_.NewDir("used");
                fs::create_directory(s.output_dir);
                std::ofstream(s.output_dir + "/mine") << "x";
              }),
              StatusIs(absl::StatusCode::kFailedPrecondition, "is not empty"));
  EXPECT_EQ(fixture_.backend().allocator().Usage(MemoryTag::kTraining).peak_bytes, 0);
}

TEST_F(JobTest, TrainsTheTargetsAlone) {
  TrainingSpec spec = fixture_.SmallSpec();
  spec.lora.target_modules = {"model.layers.2.self_attn.q_proj", "model.layers.1.mlp.down_proj"};
  spec.activation_checkpointing = "every_layer";
  ASSERT_NE(AdapterOf(spec), "");
  ASSERT_OK_AND_ASSIGN(const HostAdapter adapter,
                       ReadPeftAdapter(spec.output_dir, fixture_.model()->config()));
  ASSERT_EQ(adapter.modules.size(), 2u);
  for (const AdapterModule& module : adapter.modules) {
    double norm = 0;
    for (const float value : module.b) norm += double{value} * value;
    EXPECT_GT(norm, 0) << ModulePath(module.id);  // B began as zero
  }
}

TEST(ValidateDatasetFileTest, ReportsOrNamesTheLine) {
  TrainingFixture fixture("qwen2-bias");
  const std::string path = fixture.WriteRandomRows("rows.jsonl", 10, 1);
  ASSERT_OK_AND_ASSIGN(const DatasetReport report,
                       ValidateDatasetFile(path, 512, fixture.model()->config(), nullptr));
  EXPECT_EQ(report.samples, 10);
  EXPECT_EQ(report.kind, "tokens");
  EXPECT_GT(report.tokens, report.target_tokens);
  const std::string bad = fixture.temp().Write("bad.jsonl", *ReadFile(path) + "{]\n");
  EXPECT_THAT(ValidateDatasetFile(bad, 512, fixture.model()->config(), nullptr),
              StatusIs(absl::StatusCode::kInvalidArgument, "bad.jsonl line 11: syntax error"));
}

}  // namespace
}  // namespace lorad
