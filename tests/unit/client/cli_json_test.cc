// What loractl reads and writes as JSON, hyperparameters, errors, and requests in parallel.
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/errors.h"
#include "client/cli/in_order.h"
#include "client/cli/inputs.h"
#include "client/cli/job_events.h"
#include "client/cli/json.h"
#include "client/cli/session.h"
#include "client/cli/training_flags.h"
#include "client/cli/upload.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lorad/v1/job_service.pb.h"
#include "nlohmann/json.hpp"
#include "tests/support/status_matchers.h"

namespace lorad::client::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(JsonTest, SixtyFourBitIntegersAreNumbersEverywhere) {
  v1::Job job;
  job.set_last_seq(7);
  job.mutable_plan()->mutable_train()->set_tokens(int64_t{1} << 60);
  job.mutable_spec()->mutable_training()->set_seed(18'446'744'073'709'551'615u);
  const nlohmann::ordered_json json = ToJson(job);
  EXPECT_EQ(json["last_seq"], 7);
  EXPECT_TRUE(json["last_seq"].is_number());
  EXPECT_EQ(json["plan"]["train"]["tokens"], int64_t{1} << 60);
  EXPECT_EQ(json["spec"]["training"]["seed"], 18'446'744'073'709'551'615u);
}

TEST(JsonTest, FieldsAtTheirDefaultAreThereAndUnsetOptionalOnesAreNot) {
  v1::Job job;
  job.mutable_spec()->mutable_training()->set_r(8);
  const nlohmann::ordered_json json = ToJson(job);
  EXPECT_EQ(json["queue_position"], 0);
  EXPECT_FALSE(json["spec"]["training"].contains("lora_alpha"));
  EXPECT_EQ(json["spec"]["training"]["r"], 8);
}

TEST(JsonTest, TimesKeepTheirProtobufForm) {
  v1::Job job;
  job.mutable_create_time()->set_seconds(1'700'000'000);
  EXPECT_EQ(ToJson(job)["create_time"], "2023-11-14T22:13:20Z");
}

v1::JobEvent StepEvent() {
  v1::JobEvent event;
  event.set_seq(4);
  event.mutable_step()->set_step(12);
  event.mutable_step()->set_steps(100);
  event.mutable_step()->set_loss(1.25);
  event.mutable_step()->set_grad_norm(0.5);
  event.mutable_step()->set_learning_rate(2e-4);
  return event;
}

TEST(JobEventTest, AStepHasItsNumbersAtTheTop) {
  const nlohmann::ordered_json json = JobEventJson("job-1", StepEvent());
  EXPECT_EQ(json["event"], "step");
  EXPECT_EQ(json["job_id"], "job-1");
  EXPECT_EQ(json["seq"], 4);
  EXPECT_EQ(json["step"], 12);
  EXPECT_EQ(json["loss"], 1.25);
  EXPECT_EQ(json["grad_norm"], 0.5);
  EXPECT_EQ(json["learning_rate"], 2e-4);
  for (const char* key : {"seq", "step", "loss", "grad_norm", "learning_rate"}) {
    EXPECT_TRUE(json[key].is_number()) << key;
  }
}

TEST(JobEventTest, OnlyAStepHasALossAtTheTop) {
  v1::JobEvent event;
  event.mutable_eval()->set_step(12);
  event.mutable_eval()->set_loss(0.75);
  const nlohmann::ordered_json json = JobEventJson("job-1", event);
  EXPECT_EQ(json["event"], "eval");
  EXPECT_FALSE(json.contains("loss"));
  EXPECT_FALSE(json.contains("step"));
  EXPECT_EQ(json["eval"]["loss"], 0.75);
}

TEST(JobEventTest, AForecastIsTheFinalLossWithItsInterval) {
  v1::JobEvent event;
  v1::JobForecast& forecast = *event.mutable_forecast();
  forecast.set_step(100);
  forecast.set_final_step(200);
  forecast.set_loss(1.25);
  forecast.set_lower(1.125);
  forecast.set_upper(1.375);
  EXPECT_EQ(JobEventLine("job-1", event),
            "eval loss after step 200 will be about 1.25 (1.125 to 1.375)");
  const nlohmann::ordered_json json = JobEventJson("job-1", event);
  EXPECT_EQ(json["event"], "forecast");
  EXPECT_EQ(json["forecast"]["upper"], 1.375);
}

TEST(JobEventTest, TheStartSaysWhatMemoryTheJobTakes) {
  v1::JobEvent event;
  v1::TrainingPlan& plan = *event.mutable_start()->mutable_plan();
  plan.set_peak_bytes(3 << 20);
  EXPECT_THAT(JobEventLine("job-1", event), ::testing::EndsWith("at most 3.0 MiB"));
  plan.set_pinned_bytes(3 << 19);
  EXPECT_THAT(JobEventLine("job-1", event),
              ::testing::EndsWith("at most 3.0 MiB and 1.5 MiB of pinned host memory"));
}

TEST(JobEventTest, AnEventOfALaterServerIsStillAnObject) {
  v1::JobEvent event;
  event.set_seq(9);
  EXPECT_EQ(JobEventJson("job-1", event)["event"], "unknown");
  EXPECT_EQ(JobEventLine("job-1", event), "");
}

TEST(JobEventTest, AFailureSaysWhoseFaultItIs) {
  v1::JobEvent event;
  event.mutable_state_change()->set_to(v1::JOB_STATE_FAILED);
  v1::JobError& error = *event.mutable_state_change()->mutable_error();
  error.set_fault(v1::JOB_FAULT_USER);
  error.mutable_status()->set_code(3);
  error.mutable_status()->set_message("line 7");
  EXPECT_EQ(JobEventLine("job-1", event), "job-1 FAILED: user error, INVALID_ARGUMENT: line 7");
}

TEST(TrainingFlagsTest, EveryFieldIsAFlagWithHelp) {
  const auto* descriptor = v1::TrainingSpec::descriptor();
  ASSERT_EQ(TrainingOptions().size(), static_cast<size_t>(descriptor->field_count()));
  for (const Option& option : TrainingOptions()) {
    EXPECT_NE(descriptor->FindFieldByName(option.name), nullptr) << option.name;
    EXPECT_FALSE(option.help.empty()) << option.name;
  }
}

TEST(TrainingFlagsTest, TheNamesOfTrainingArgumentsAndLoraConfigAreThere) {
  std::set<std::string> names;
  for (const Option& option : TrainingOptions()) names.insert(option.name);
  for (const char* name : {"learning_rate",
                           "lr_scheduler_type",
                           "warmup_steps",
                           "warmup_ratio",
                           "num_train_epochs",
                           "max_steps",
                           "micro_batch_size",
                           "gradient_accumulation_steps",
                           "max_grad_norm",
                           "weight_decay",
                           "adam_beta1",
                           "adam_beta2",
                           "adam_epsilon",
                           "optim",
                           "r",
                           "lora_alpha",
                           "lora_dropout",
                           "target_modules",
                           "use_rslora",
                           "max_seq_length",
                           "packing",
                           "shuffle",
                           "eval_steps",
                           "save_steps",
                           "early_stopping_patience",
                           "seed",
                           "warm_start",
                           "activation_checkpointing"}) {
    EXPECT_EQ(names.count(name), 1u) << name;
  }
}

Arguments Given(const std::vector<std::pair<std::string, std::string>>& values) {
  Arguments arguments;
  for (const auto& [name, value] : values) {
    for (const Option& option : TrainingOptions()) {
      if (option.name != name) continue;
      EXPECT_OK(arguments.Add(option, value));
    }
  }
  return arguments;
}

TEST(TrainingFlagsTest, SetsWhatWasGivenAndNothingElse) {
  v1::TrainingSpec spec;
  ASSERT_OK(SetTraining(Given({{"r", "8"},
                               {"learning_rate", "1e-4"},
                               {"packing", "false"},
                               {"seed", "18446744073709551615"},
                               {"max_steps", "0"},
                               {"target_modules", "q_proj,v_proj"},
                               {"lr_scheduler_type", "cosine"}}),
                        spec));
  EXPECT_EQ(spec.r(), 8);
  EXPECT_EQ(spec.learning_rate(), 1e-4);
  EXPECT_TRUE(spec.has_packing());
  EXPECT_FALSE(spec.packing());
  EXPECT_TRUE(spec.has_max_steps());  // an explicit 0 is not the same as nothing
  EXPECT_EQ(spec.seed(), 18'446'744'073'709'551'615u);
  EXPECT_THAT(spec.target_modules(), ElementsAre("q_proj", "v_proj"));
  EXPECT_EQ(spec.lr_scheduler_type(), "cosine");
  EXPECT_FALSE(spec.has_lora_alpha());
  EXPECT_FALSE(spec.has_warmup_steps());
}

TEST(TrainingFlagsTest, ANumberThatDoesNotFitIsNotCut) {
  v1::TrainingSpec spec;
  EXPECT_THAT(SetTraining(Given({{"r", "4294967297"}}), spec),
              StatusIs(absl::StatusCode::kInvalidArgument, "--r=4294967297"));
}

class InputsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = absl::StrCat(::testing::TempDir(), "inputs_", getpid(), ".jsonl");
  }
  void TearDown() override { std::remove(path_.c_str()); }

  absl::StatusOr<std::vector<Input>> Read(const std::string& content) {
    std::ofstream(path_) << content;
    Arguments arguments;
    EXPECT_OK(arguments.Add({"jsonl"}, path_));
    return ReadInputs(arguments, kinds_);
  }

  std::string path_;
  const InputKinds kinds_ = {.text = "prompt", .options = {{"max_tokens"}, {"adapter"}}};
};

TEST_F(InputsTest, LinesHaveIdsOrTextAndMayNameAnAdapter) {
  ASSERT_OK_AND_ASSIGN(const auto inputs, Read("{\"ids\":[1,2]}\n\n"
                                               "{\"prompt\":\"a\",\"adapter\":\"x@1\"}\n"
                                               "{\"prompt\":\"\",\"completion\":\"ignored\"}\n"
                                               "{\"prompt\":\"b\",\"adapter\":null}"));
  ASSERT_EQ(inputs.size(), 4u);
  EXPECT_THAT(*inputs[0].ids, ElementsAre(1, 2));
  EXPECT_FALSE(inputs[0].adapter.has_value());
  EXPECT_EQ(inputs[1].text, "a");
  EXPECT_EQ(inputs[1].adapter, "x@1");
  EXPECT_FALSE(inputs[2].ids.has_value());
  EXPECT_EQ(inputs[3].adapter, "");  // the base model, whatever --adapter says
}

TEST_F(InputsTest, ErrorsNameFileAndLine) {
  for (const auto& [content, text] : std::map<std::string, std::string>{
           {"{\"ids\":[1]}\n{\"ids\":[1}\n", ":2"},
           {"{\"ids\":[1]}\n\n{}", ":3: needs \"ids\" or \"prompt\""},
           {"{\"ids\":[1],\"prompt\":\"a\"}", ":1: has more than one of"},
           {"{\"ids\":[-1]}", ":1: -1 is not a token id"},
           {"{\"ids\":[1.5]}", ":1: 1.5 is not a token id"},
           {"{\"ids\":[2147483648]}", ":1: 2147483648 is not a token id"},
           {"{\"ids\":\"1\"}", ":1: ids must be an array"},
           {"{\"prompt\":3}", ":1: \"prompt\" must be text"},
           {"{\"prompt\":\"a\",\"adapter\":3}", ":1: \"adapter\" must be text"},
           {"{\"prompt\":\"a\",\"max_tokens\":3}", ":1: \"max_tokens\" is not taken from a line"},
           {"[1]", ":1: not a JSON object"},
           {"\n \n", "no lines"}}) {
    EXPECT_THAT(Read(content), StatusIs(absl::StatusCode::kInvalidArgument, text)) << content;
  }
}

TEST_F(InputsTest, AMissingFileIsNotFound) {
  Arguments arguments;
  ASSERT_OK(arguments.Add({"jsonl"}, "/nowhere/x.jsonl"));
  EXPECT_THAT(ReadInputs(arguments, kinds_), StatusIs(absl::StatusCode::kNotFound, "/nowhere"));
}

TEST_F(InputsTest, ExactlyOneInputIsNeeded) {
  Arguments arguments;
  EXPECT_TRUE(IsUsageError(ReadInputs(arguments, kinds_).status()));
  ASSERT_OK(arguments.Add({"ids"}, "[1]"));
  ASSERT_OK(arguments.Add({"prompt"}, "a"));
  EXPECT_TRUE(IsUsageError(ReadInputs(arguments, kinds_).status()));
}

TEST(ParseIdsTest, TakesAnArrayOrAPlainList) {
  EXPECT_THAT(*ParseIds("[1, 2,3]", "--ids"), ElementsAre(1, 2, 3));
  EXPECT_THAT(*ParseIds(" 1,2 ", "--ids"), ElementsAre(1, 2));
  EXPECT_THAT(ParseIds("1,,2", "--ids"), StatusIs(absl::StatusCode::kInvalidArgument, "--ids"));
}

TEST(InOrderTest, PrintsInOrderWhateverEndsFirst) {
  std::vector<std::string> printed;
  std::atomic<int> running = 0, most = 0;
  const absl::Status status = RunInOrder(
      40, 4,
      [&](size_t i) -> absl::StatusOr<std::string> {
        most = std::max<int>(most, ++running);
        // Earlier ones take longer, so that they end out of order.
        absl::SleepFor(absl::Milliseconds(i % 4 == 0 ? 8 : 1));
        --running;
        return absl::StrCat(i);
      },
      [&](const std::string& answer) { printed.push_back(answer); }, [] {});
  ASSERT_OK(status);
  ASSERT_EQ(printed.size(), 40u);
  for (size_t i = 0; i < printed.size(); ++i) EXPECT_EQ(printed[i], absl::StrCat(i));
  EXPECT_LE(most, 4);
  EXPECT_GT(most, 1);
}

TEST(InOrderTest, TheFirstErrorInOrderEndsIt) {
  std::vector<std::string> printed;
  std::atomic<int> begun = 0;
  bool abandoned = false;
  const absl::Status status = RunInOrder(
      1000, 2,
      [&](size_t i) -> absl::StatusOr<std::string> {
        ++begun;
        absl::SleepFor(absl::Milliseconds(1));
        if (i == 3) return absl::NotFoundError("three");
        return absl::StrCat(i);
      },
      [&](const std::string& answer) { printed.push_back(answer); }, [&] { abandoned = true; });
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kNotFound, "three"));
  EXPECT_THAT(printed, ElementsAre("0", "1", "2"));
  EXPECT_TRUE(abandoned);
  EXPECT_LT(begun, 1000);
}

TEST(ErrorsTest, CodesMapToStableExitCodes) {
  EXPECT_EQ(ExitCodeOf(absl::OkStatus()), 0);
  EXPECT_EQ(ExitCodeOf(absl::InternalError("x")), 1);
  EXPECT_EQ(ExitCodeOf(UsageError("x")), 2);
  EXPECT_EQ(ExitCodeOf(absl::NotFoundError("x")), 3);
  EXPECT_EQ(ExitCodeOf(absl::UnavailableError("x")), 4);
  EXPECT_EQ(ExitCodeOf(absl::InvalidArgumentError("x")), 5);
  EXPECT_EQ(ExitCodeOf(absl::FailedPreconditionError("x")), 6);
  EXPECT_EQ(ExitCodeOf(absl::AbortedError("x")), 6);
  EXPECT_EQ(ExitCodeOf(absl::ResourceExhaustedError("x")), 7);
  EXPECT_EQ(ExitCodeOf(absl::DeadlineExceededError("x")), 8);
  EXPECT_EQ(ExitCodeOf(absl::UnauthenticatedError("x")), 9);
}

TEST(ErrorsTest, AServerThatIsAwayIsNamed) {
  const std::string text = DescribeError(absl::UnavailableError("refused"), "h:1");
  EXPECT_THAT(text, HasSubstr("error: cannot reach lorad at h:1: refused"));
  EXPECT_THAT(text, HasSubstr("hint: start one"));
}

TEST(UploadTest, DatasetNamesAreLegalAndFollowTheContent) {
  const std::string sha(64, 'a');
  EXPECT_EQ(DatasetNameFor("data/train.jsonl", sha), "train-aaaaaaaaaaaa");
  EXPECT_EQ(DatasetNameFor("my data/é t.jsonl", sha), "d---t-aaaaaaaaaaaa");
  EXPECT_EQ(DatasetNameFor(".hidden", sha), "d.hidden-aaaaaaaaaaaa");
  EXPECT_LE(DatasetNameFor(std::string(500, 'x') + ".jsonl", sha).size(), 128u);
}

TEST(CommandsTest, EveryCommandHasHelpExamplesAndAHandler) {
  for (const Command& command : AllCommands()) {
    EXPECT_FALSE(command.summary.empty()) << command.path;
    EXPECT_FALSE(command.examples.empty()) << command.path;
    EXPECT_NE(command.run, nullptr) << command.path;
    for (const Example& example : command.examples) {
      EXPECT_THAT(example.line, HasSubstr(absl::StrCat("loractl ", command.path)));
    }
  }
}

TEST(CommandsTest, AnOptionTakesTheSameKindOfValueEverywhere) {
  // The parser reads options before it knows the command.
  std::map<std::string, OptionType> types;
  for (const Option& option : GlobalOptions()) types[option.name] = option.type;
  for (const Command& command : AllCommands()) {
    for (const Option& option : command.options) {
      const auto [it, added] = types.emplace(option.name, option.type);
      EXPECT_EQ(it->second == OptionType::kBool, option.type == OptionType::kBool)
          << command.path << " --" << option.name;
    }
  }
}

}  // namespace
}  // namespace lorad::client::cli
