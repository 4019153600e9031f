// loractl plan flops: needs no server, so none runs here.
#include <sstream>
#include <string>
#include <vector>

#include "client/cli/run.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace lorad::client::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class PlanFlopsTest : public ::testing::Test {
 protected:
  int Run(std::vector<std::string> words, bool terminal = false) {
    words.insert(words.begin(), {"plan", "flops"});
    std::ostringstream out, err;
    const int code =
        RunCommandLine(words, {.out = out, .err = err, .terminal = terminal, .width = 100});
    out_ = out.str();
    err_ = err.str();
    return code;
  }
  // The line of the table that begins with `operation`.
  std::string Row(const std::string& operation) const {
    const size_t begin = out_.find("\n" + operation + " ");
    if (begin == std::string::npos) return "";
    return out_.substr(begin + 1, out_.find('\n', begin + 1) - begin - 1);
  }

  std::string out_, err_;
};

TEST_F(PlanFlopsTest, ATableOfOperationsAndTheTime) {
  ASSERT_EQ(
      Run({"--model=llama-65b", "--batch=4", "--rank=64", "--rate=4.945e14", "--device=h200"}), 0)
      << err_;
  EXPECT_THAT(out_, AllOf(HasSubstr("65.3B parameters, 799.54M trained; qlora, nf4"),
                          HasSubstr("an optimiser step of 8192 tokens, as lorad runs it"),
                          HasSubstr("share of the bound  50.0 %"), HasSubstr("at 989 TFLOP/s")));
  // 2 * 8192 tokens * 80 layers * 8192 * 22016 forward, the same back, and none again for the last
  // layer of a segment.
  EXPECT_THAT(Row("down"), AllOf(HasSubstr("236.4 T"), HasSubstr(" 0 ")));
  EXPECT_THAT(Row("all"), HasSubstr("100.00 %"));
  EXPECT_THAT(out_, Not(HasSubstr("TFLOP\n"))) << "a chart without a terminal";
}

TEST_F(PlanFlopsTest, ATerminalGetsAChart) {
  ASSERT_EQ(Run({"--model=llama-3-8b"}, /*terminal=*/true), 0) << err_;
  EXPECT_THAT(out_, AllOf(HasSubstr("Operations of an optimiser step"), HasSubstr("█")));
}

TEST_F(PlanFlopsTest, JsonHasBothAccountsWhole) {
  const std::string model = LORAD_SOURCE_DIR "/tests/golden/llama-gqa";
  ASSERT_EQ(
      Run({"--model=" + model, "--mode=inference", "--seq=100", "--batch=3", "--output=json"}), 0)
      << err_;
  const nlohmann::json reply = nlohmann::json::parse(out_);
  ASSERT_EQ(reply["accounts"].size(), 4u);
  EXPECT_EQ(reply["accounts"][1]["rules"], "RULES_ENGINE");
  EXPECT_EQ(reply["accounts"][1]["work"], "WORK_PREFILL");
  // 3 layers; q 128, k and v 64 columns each of 128.
  EXPECT_EQ(reply["accounts"][3]["operations"][1]["operation"], "qkv");
  EXPECT_EQ(reply["accounts"][3]["operations"][1]["forward"], 2 * 3 * 3 * 128 * 256);
  // The file itself is the same model.
  const std::string directory = out_;
  ASSERT_EQ(Run({"--model=" + model + "/config.json", "--mode=inference", "--seq=100", "--batch=3",
                 "--output=json"}),
            0);
  EXPECT_EQ(out_, directory);
}

TEST_F(PlanFlopsTest, FullTrainingIsByTheTextbook) {
  ASSERT_EQ(Run({"--model=llama-3-8b", "--mode=full", "--step_seconds=2", "--device=h100"}), 0);
  EXPECT_THAT(out_, AllOf(HasSubstr("8.0B parameters, 8.0B trained; full, bf16"),
                          HasSubstr("by the textbook's rules"), HasSubstr("share of the bound")));
}

TEST_F(PlanFlopsTest, RefusalsSayWhatToDo) {
  EXPECT_EQ(Run({}), 2);
  EXPECT_THAT(err_, HasSubstr("--model is needed"));
  EXPECT_EQ(Run({"--model=llama-3-8b", "--mode=half"}), 2);
  EXPECT_EQ(Run({"--model=llama-9b"}), 3);
  EXPECT_THAT(err_, HasSubstr("known are"));
  EXPECT_EQ(Run({"--model=llama-3-8b", "--rank=4097"}), 5);
  EXPECT_THAT(err_, HasSubstr("rank of q_proj is 4097"));
  EXPECT_EQ(Run({"--model=llama-3-8b", "--activations=auto"}), 5);
  EXPECT_THAT(err_, HasSubstr("depends on memory"));
  EXPECT_EQ(Run({"--model=llama-3-8b", "--device=abacus"}), 3);
  EXPECT_EQ(Run({"--model=llama-3-8b", "--batch=9223372036854775807"}), 5);
  EXPECT_THAT(err_, HasSubstr("batch is 9223372036854775807"));
  EXPECT_EQ(Run({"--model=llama-3-8b", "--plot=/tmp/x.docx"}), 5);
  EXPECT_THAT(err_, HasSubstr("x.docx"));
}

}  // namespace
}  // namespace lorad::client::cli
