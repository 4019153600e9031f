// Options, parsing, suggestions and help of loractl.
#include <string>
#include <vector>

#include "client/cli/arguments.h"
#include "client/cli/command.h"
#include "client/cli/errors.h"
#include "client/cli/help.h"
#include "client/cli/parser.h"
#include "client/cli/suggest.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace lorad::client::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Words = std::vector<std::string>;

const std::vector<Option>& Globals() {
  static const std::vector<Option> options = {
      {"server", OptionType::kText, "HOST:PORT", "where it is", ""},
      {"output", OptionType::kText, "", "form", "table", {"table", "json"}},
  };
  return options;
}

const std::vector<Command>& Commands() {
  static const std::vector<Command> commands = {
      {.path = "info", .summary = "Shows it"},
      {.path = "job submit",
       .summary = "Submits it",
       .options = {{"learning_rate", OptionType::kDouble, "", "rate", "2e-4"},
                   {"r", OptionType::kInt, "", "rank", "16"},
                   {"seed", OptionType::kUint, "", "seed", "0"},
                   {"packing", OptionType::kBool, "", "pack", "true"},
                   {"target_modules", OptionType::kList, "", "targets", ""},
                   {"stop", OptionType::kText, "", "stop", "", {}, true}},
       .examples = {{"loractl job submit --r=8", "small"}}},
      {.path = "job get", .summary = "Gets it", .positionals = {{"JOB", "its id"}}},
      {.path = "alias",
       .summary = "Points",
       .positionals = {{"ALIAS", "name"}, {"ADAPTER", "target", false}}},
  };
  return commands;
}

absl::StatusOr<Invocation> ParseWords(const Words& words) {
  return Parse(words, Commands(), Globals());
}

TEST(ParserTest, OptionsStandBeforeOrAfterTheCommandInEitherForm) {
  const std::vector<Words> spellings = {
      {"job", "submit", "--r=8", "--server=h:1"},
      {"--r=8", "--server=h:1", "job", "submit"},
      {"--server", "h:1", "job", "--r", "8", "submit"},
      {"job", "submit", "--r", "8", "--server", "h:1"},
  };
  for (const Words& words : spellings) {
    ASSERT_OK_AND_ASSIGN(const Invocation invocation, ParseWords(words));
    EXPECT_EQ(invocation.command->path, "job submit");
    EXPECT_EQ(invocation.arguments.Int("r"), 8);
    EXPECT_EQ(invocation.arguments.Text("server"), "h:1");
  }
}

TEST(ParserTest, DashesInNamesAreUnderscores) {
  ASSERT_OK_AND_ASSIGN(const Invocation invocation,
                       ParseWords({"job", "submit", "--learning-rate=1e-3"}));
  EXPECT_EQ(invocation.arguments.Double("learning_rate"), 1e-3);
}

TEST(ParserTest, BooleansStandAloneOrTakeTrueOrFalse) {
  for (const auto& [words, expected] :
       std::vector<std::pair<Words, bool>>{{{"job", "submit", "--packing"}, true},
                                           {{"job", "submit", "--packing=false"}, false},
                                           {{"job", "submit", "--packing", "false"}, false},
                                           {{"job", "--packing", "submit"}, true}}) {
    ASSERT_OK_AND_ASSIGN(const Invocation invocation, ParseWords(words));
    EXPECT_TRUE(invocation.arguments.Has("packing"));
    EXPECT_EQ(invocation.arguments.Bool("packing", !expected), expected);
  }
}

TEST(ParserTest, NegativeNumbersAreValuesNotOptions) {
  ASSERT_OK_AND_ASSIGN(const Invocation invocation, ParseWords({"job", "submit", "--r", "-3"}));
  EXPECT_EQ(invocation.arguments.Int("r"), -3);
}

TEST(ParserTest, DoubleDashEndsOptions) {
  ASSERT_OK_AND_ASSIGN(const Invocation invocation, ParseWords({"job", "get", "--", "--odd"}));
  EXPECT_THAT(invocation.arguments.positionals(), ElementsAre("--odd"));
}

TEST(ParserTest, LaterValuesWinAndRepeatedOnesAdd) {
  ASSERT_OK_AND_ASSIGN(const Invocation invocation,
                       ParseWords({"job", "submit", "--r=1", "--r=2", "--stop=a,b", "--stop=c"}));
  EXPECT_EQ(invocation.arguments.Int("r"), 2);
  EXPECT_THAT(invocation.arguments.List("stop"), ElementsAre("a,b", "c"));
}

TEST(ParserTest, UnknownWordsSuggestTheNearest) {
  EXPECT_THAT(ParseWords({"job", "submti"}),
              StatusIs(absl::StatusCode::kInvalidArgument, "did you mean job submit?"));
  EXPECT_THAT(ParseWords({"inof"}),
              StatusIs(absl::StatusCode::kInvalidArgument, "did you mean info?"));
  EXPECT_THAT(ParseWords({"job", "submit", "--learning_rte=1"}),
              StatusIs(absl::StatusCode::kInvalidArgument, "did you mean --learning_rate?"));
  EXPECT_THAT(ParseWords({"job"}),
              StatusIs(absl::StatusCode::kInvalidArgument, "needs one of: get, submit"));
}

TEST(ParserTest, EveryMistakeIsAUsageErrorThatNamesIt) {
  for (const auto& [words, text] : std::vector<std::pair<Words, std::string>>{
           {{"job", "submit", "--r"}, "--r needs a value"},
           {{"job", "submit", "--r", "--packing"}, "--r needs a value"},
           {{"job", "submit", "--r=1.5"}, "--r=1.5: not a whole number"},
           {{"job", "submit", "--r=99999999999999999999"}, "not a whole number"},
           {{"job", "submit", "--seed=-1"}, "at least 0"},
           {{"job", "submit", "--learning_rate=fast"}, "--learning_rate=fast: not a number"},
           {{"job", "submit", "--learning_rate=nan"}, "not a number"},
           {{"job", "submit", "--packing=maybe"}, "true or false"},
           {{"info", "--output=xml"}, "not one of table, json"},
           {{"info", "--r=8"}, "\"info\" does not take --r"},
           {{"info", "extra"}, "does not take \"extra\""},
           {{"job", "get"}, "needs JOB: its id"},
           {{"info", "-x"}, "unknown option -x"}}) {
    const auto invocation = ParseWords(words);
    EXPECT_THAT(invocation, StatusIs(absl::StatusCode::kInvalidArgument, text));
    EXPECT_TRUE(IsUsageError(invocation.status())) << text;
  }
}

TEST(ParserTest, OptionalPositionalsMayBeLeftOut) {
  ASSERT_OK_AND_ASSIGN(const Invocation invocation, ParseWords({"alias", "a"}));
  EXPECT_EQ(invocation.arguments.Positional(0), "a");
  EXPECT_EQ(invocation.arguments.Positional(1), "");
}

TEST(ParserTest, HelpIsAskedForInThreeWays) {
  for (const Words& words : std::vector<Words>{
           {"job", "submit", "--help"}, {"-h", "job", "submit"}, {"help", "job", "submit"}}) {
    ASSERT_OK_AND_ASSIGN(const Invocation invocation, ParseWords(words));
    EXPECT_TRUE(invocation.help);
    EXPECT_EQ(invocation.command->path, "job submit");
  }
  ASSERT_OK_AND_ASSIGN(const Invocation group, ParseWords({"job", "--help"}));
  EXPECT_THAT(group.group, ElementsAre("job"));
}

TEST(ArgumentsTest, ListsComeAsCommasAsJsonOrAsOneExpression) {
  EXPECT_THAT(*ParseList("q_proj,v_proj"), ElementsAre("q_proj", "v_proj"));
  EXPECT_THAT(*ParseList(R"(["q_proj", "v_proj"])"), ElementsAre("q_proj", "v_proj"));
  EXPECT_THAT(*ParseList("regex:.*(q|v)_proj{1,2}"), ElementsAre("regex:.*(q|v)_proj{1,2}"));
  EXPECT_FALSE(ParseList("[1]").ok());
  EXPECT_FALSE(ParseList("[\"a\"").ok());
}

TEST(ArgumentsTest, TimesMayHaveUnits) {
  EXPECT_EQ(ParseDuration("90"), absl::Seconds(90));
  EXPECT_EQ(ParseDuration("1.5s"), absl::Milliseconds(1500));
  EXPECT_EQ(ParseDuration("2m30s"), absl::Seconds(150));
  EXPECT_EQ(ParseDuration("soon"), std::nullopt);
  EXPECT_EQ(ParseDuration("-1"), std::nullopt);
  EXPECT_EQ(ParseDuration("inf"), std::nullopt);
}

TEST(SuggestTest, CountsEdits) {
  EXPECT_EQ(EditDistance("", "abc"), 3);
  EXPECT_EQ(EditDistance("submit", "submit"), 0);
  EXPECT_EQ(EditDistance("submti", "submit"), 1);  // a swap
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3);
}

TEST(SuggestTest, FindsNothingWhereNothingIsNear) {
  EXPECT_EQ(Nearest("frobnicate", {"submit", "info"}), "");
  EXPECT_EQ(Nearest("sub", {"submit", "info"}), "submit");  // a beginning
}

TEST(HelpTest, ShowsUsageOptionsDefaultsAndExamples) {
  const std::string help = CommandHelp(Commands()[1], Globals());
  EXPECT_THAT(help, HasSubstr("Usage: loractl job submit"));
  EXPECT_THAT(help, HasSubstr("--learning_rate=X"));
  EXPECT_THAT(help, HasSubstr("rate (default 2e-4)"));
  EXPECT_THAT(help, HasSubstr("--packing=true|false"));
  EXPECT_THAT(help, HasSubstr("--output=table|json"));
  EXPECT_THAT(help, HasSubstr("loractl job submit --r=8"));
}

TEST(HelpTest, AGroupShowsItsOwnCommands) {
  const std::string help = Overview({"job"}, Commands(), Globals());
  EXPECT_THAT(help, HasSubstr("job submit"));
  EXPECT_THAT(help, HasSubstr("job get"));
  EXPECT_THAT(help, ::testing::Not(HasSubstr("Shows it")));
}

}  // namespace
}  // namespace lorad::client::cli
