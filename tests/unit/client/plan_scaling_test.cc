// `loractl plan scaling` as a command line: no server is there to be asked.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/run.h"
#include "client/cli/scaling_points.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/status_matchers.h"

namespace lorad::client::cli {
namespace {

using absl::StatusCode;
using ::testing::HasSubstr;
using ::testing::Not;

const std::string kChinchilla = LORAD_SOURCE_DIR "/tests/golden/scaling/chinchilla_figure4.csv";
const std::string kCerebras = LORAD_SOURCE_DIR "/tests/golden/scaling/cerebras_gpt.csv";

class PlanScalingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = absl::StrCat(::testing::TempDir(), "plan_scaling_", getpid());
    std::filesystem::create_directories(dir_);
    // Nothing listens there: a plan needs nobody.
    setenv("LORAD_SERVER", "127.0.0.1:1", 1);
  }
  void TearDown() override {
    unsetenv("LORAD_SERVER");
    std::filesystem::remove_all(dir_);
  }

  int Run(std::vector<std::string> words, bool terminal = false) {
    words.insert(words.begin(), {"plan", "scaling"});
    std::ostringstream out, err;
    const int code = RunCommandLine(words, {.out = out, .err = err, .terminal = terminal});
    out_ = out.str();
    err_ = err.str();
    return code;
  }
  std::string Write(const std::string& name, const std::string& content) {
    const std::string path = absl::StrCat(dir_, "/", name);
    std::ofstream(path) << content;
    return path;
  }

  std::string dir_, out_, err_;
};

TEST_F(PlanScalingTest, TellsTheLawAndTheBestUseOfABudget) {
  ASSERT_EQ(Run({"--points=" + kChinchilla, "--draws=100", "--budget=1e21,5.76e23"}), 0) << err_;
  EXPECT_THAT(out_,
              HasSubstr("chinchilla_figure4: L = E + A / N^alpha + B / D^beta from 245 points"));
  EXPECT_THAT(out_, HasSubstr("budget of 1e+21 FLOPs\n"));
  EXPECT_THAT(out_, HasSubstr(" irreducible + "));
  EXPECT_THAT(out_,
              HasSubstr("warning: the budget, C = 5.76e+23, is 1.6 decades above all points"));
  EXPECT_THAT(out_, Not(HasSubstr("\x1b[")));
}

TEST_F(PlanScalingTest, PrintsTheReplyAsOneLineOfJson) {
  ASSERT_EQ(Run({"--points=" + kCerebras, "--draws=100", "--output=json", "--budget=1e22"}), 0)
      << err_;
  const nlohmann::json reply = nlohmann::json::parse(out_);
  EXPECT_EQ(reply["family"]["name"], "cerebras_gpt");
  EXPECT_EQ(reply["family"]["form"], "SCALING_FORM_FLOOR");
  EXPECT_EQ(reply["family"]["parameters"][0]["name"], "E");
  EXPECT_GT(reply["family"]["optima"][0]["loss"]["loss"]["value"].get<double>(), 1.5);
}

TEST_F(PlanScalingTest, ComparesTwoFamilies) {
  const std::string steep =
      Write("steep.csv", "C,loss\n1e18,4.0\n1e19,3.2\n1e20,2.56\n1e21,2.05\n");
  const std::string flat =
      Write("flat.jsonl",
            "{\"compute\":1e18,\"loss\":3.0}\n{\"compute\":1e19,\"loss\":2.7}\n"
            "{\"compute\":1e20,\"loss\":2.43}\n{\"compute\":1e21,\"loss\":2.19}\n");
  ASSERT_EQ(Run({"--points=" + steep, "--compare=" + flat, "--draws=100", "--budget=1e22"}), 0)
      << err_;
  EXPECT_THAT(out_, HasSubstr("steep is steeper\n"));
  EXPECT_THAT(out_, HasSubstr("they cross at C = "));
  EXPECT_THAT(out_, HasSubstr("beyond it steep has less (100 % of the draws cross so)"));
  EXPECT_THAT(out_, HasSubstr("steep has less loss at C = 1e+22 (100 % of the draws)"));
}

TEST_F(PlanScalingTest, DrawsTheLawOnATerminal) {
  ASSERT_EQ(Run({"--points=" + kCerebras, "--draws=100"}, /*terminal=*/true), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("Scaling law"));
  EXPECT_THAT(out_, HasSubstr("training FLOPs"));
  EXPECT_THAT(out_, HasSubstr("cerebras_gpt, least loss"));
}

TEST_F(PlanScalingTest, DrawsTheLawIntoAFile) {
  const std::string picture = absl::StrCat(dir_, "/law.svg");
  ASSERT_EQ(Run({"--points=" + kCerebras, "--draws=100", "--plot=" + picture}), 0) << err_;
  std::ifstream file(picture);
  const std::string content((std::istreambuf_iterator<char>(file)), {});
  EXPECT_THAT(content, HasSubstr("<svg"));
  EXPECT_THAT(content, HasSubstr("training FLOPs"));
}

TEST_F(PlanScalingTest, PredictsARun) {
  ASSERT_EQ(Run({"--points=" + kChinchilla, "--draws=100", "--predict=N=1e9,D=2e10"}), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("run with N 1e+09 D 2e+10 C 1.2e+20\n"));
}

TEST_F(PlanScalingTest, RefusesByNameWithItsExitCode) {
  EXPECT_EQ(Run({}), 2);
  EXPECT_THAT(err_, HasSubstr("--points is needed"));
  EXPECT_EQ(Run({"--points=" + kCerebras, "--budget=much"}), 2);
  EXPECT_THAT(err_, HasSubstr("--budget: \"much\" is no number of FLOPs"));
  EXPECT_EQ(Run({"--points=" + kCerebras, "--predict=loss=3"}), 2);
  EXPECT_THAT(err_, HasSubstr("--predict: \"loss=3\" is not of the form"));
  EXPECT_EQ(Run({"--points=" + kCerebras, "--form=cubic"}), 2);
  EXPECT_EQ(Run({"--points=" + dir_ + "/none.csv"}), 3);
  EXPECT_EQ(Run({"--points=" + kCerebras, "--draws=5000000000"}), 5);
  EXPECT_THAT(err_, HasSubstr("bootstrap draws are 2147483647"));
  EXPECT_EQ(Run({"--points=" + kCerebras, "--budget=1e99"}), 5);
  EXPECT_THAT(err_, HasSubstr("family cerebras_gpt: the budget is 1e+99 FLOPs"));
}

TEST_F(PlanScalingTest, ReadsPointsByTheNamesOfTheirColumns) {
  ASSERT_OK_AND_ASSIGN(
      const v1::ScalingFamily family,
      ReadScalingFamily(
          Write("runs.csv", "# ours\nname, Params ,D,Loss\r\na,1e8,,3.5\r\n\nb,,2e9,3\n")));
  EXPECT_EQ(family.name(), "runs");
  ASSERT_EQ(family.points_size(), 2);
  EXPECT_EQ(family.points(0).parameters(), 1e8);
  EXPECT_EQ(family.points(0).tokens(), 0);
  EXPECT_EQ(family.points(1).tokens(), 2e9);
  EXPECT_EQ(family.points(1).loss(), 3);
  ASSERT_OK_AND_ASSIGN(
      const v1::ScalingFamily lines,
      ReadScalingFamily(
          Write("runs.jsonl", "{\"flops\":1e20,\"loss\":2.5,\"tokens\":null,\"x\":\"y\"}\n")));
  EXPECT_EQ(lines.points(0).compute_flops(), 1e20);
}

TEST_F(PlanScalingTest, RefusesPointsThatCannotBeRead) {
  const auto refuses = [&](const std::string& name, const std::string& content,
                           const std::string& message) {
    EXPECT_THAT(ReadScalingFamily(Write(name, content)),
                StatusIs(StatusCode::kInvalidArgument, message));
  };
  refuses("a.csv", "N,D\n1,2\n", "a.csv:1: the first line must name the columns, \"loss\"");
  refuses("a.csv", "N,loss\n1e8,3\n1e9\n", "a.csv:3: 1 cells, the first line names 2");
  refuses("a.csv", "N,loss\n1e8,three\n", "a.csv:2: loss is \"three\", which is no finite number");
  refuses("a.csv", "N,loss\nnan,3\n", "N is \"nan\"");
  refuses("a.csv", "N,loss\n", "no points");
  refuses("a.csv", "", "no points");
  refuses("a.txt", "N,loss\n1,2\n", "end in .csv or .jsonl");
  refuses("a.jsonl", "[1]\n", "a.jsonl:1: not a JSON object");
  refuses("a.jsonl", "{\"loss\":\"3\"}\n", "a.jsonl:1: loss is");
  refuses("a.jsonl", "{\"loss\":1e999}\n", "a.jsonl:1");
  refuses("a.jsonl", "{\n", "a.jsonl:1");
}

}  // namespace
}  // namespace lorad::client::cli
