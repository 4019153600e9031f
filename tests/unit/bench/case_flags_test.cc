#include "tests/bench/case_flags.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace lorad::bench {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

struct Options {
  std::string output;
};
struct Base {
  double rate = 1;
};
struct Case : Base {
  int64_t count = 0;
  std::vector<int64_t> sizes = {1};
  std::string name = "one";
};

class CaseFlagsTest : public testing::Test {
 protected:
  CaseFlagsTest() {
    of_options_.Add("output", &Options::output);
    of_case_.Add("rate", &Case::rate)
        .Add("count", &Case::count)
        .Add("sizes", &Case::sizes)
        .Add("name", &Case::name);
  }
  absl::Status Parse(const std::vector<std::string>& arguments) {
    return ParseArguments(arguments, of_options_, of_case_, options_, cases_);
  }

  FlagSet<Options> of_options_;
  FlagSet<Case> of_case_;
  Options options_;
  std::vector<Case> cases_;
};

TEST_F(CaseFlagsTest, ArgumentsAreTheOneCase) {
  ASSERT_OK(Parse({"--output=file", "--rate=2.5", "--sizes=4,8", "--name="}));
  EXPECT_EQ(options_.output, "file");
  ASSERT_EQ(cases_.size(), 1u);
  EXPECT_EQ(cases_[0].rate, 2.5);
  EXPECT_EQ(cases_[0].count, 0);
  EXPECT_THAT(cases_[0].sizes, ElementsAre(4, 8));
  EXPECT_EQ(cases_[0].name, "");
}

TEST_F(CaseFlagsTest, EachCaseDiffersFromTheArgumentsWhereverTheyStand) {
  ASSERT_OK(Parse({"--case=", "--count=7", "--case=rate=3 --sizes=2", "--rate=2"}));
  ASSERT_EQ(cases_.size(), 2u);
  EXPECT_EQ(cases_[0].rate, 2);
  EXPECT_THAT(cases_[0].sizes, ElementsAre(1));
  EXPECT_EQ(cases_[1].rate, 3);
  EXPECT_THAT(cases_[1].sizes, ElementsAre(2));
  EXPECT_EQ(cases_[1].count, 7);
}

TEST_F(CaseFlagsTest, ErrorsNameTheArgument) {
  for (const char* argument :
       {"--count=x", "--count=", "--rate=1s", "--sizes=1,,2", "--sizes=", "--case=count=many"}) {
    const absl::Status status = Parse({argument});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << argument;
    EXPECT_THAT(std::string(status.message()), HasSubstr("not understood")) << argument;
  }
  for (const char* argument : {"--counts=1", "--case=output=file"}) {
    const absl::Status status = Parse({argument});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << argument;
    EXPECT_THAT(std::string(status.message()), HasSubstr("count, name, rate, sizes")) << argument;
  }
}

}  // namespace
}  // namespace lorad::bench
