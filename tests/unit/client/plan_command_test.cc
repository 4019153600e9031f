// loractl plan without a server: the figures, JSON, files, mistakes.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/run.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace lorad::client::cli {
namespace {

using ::testing::HasSubstr;

class PlanCommandTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = absl::StrCat(::testing::TempDir(), "plan_", getpid());
    std::filesystem::create_directories(dir_);
    // Nothing listens there: a plan needs nobody.
    setenv("LORAD_SERVER", "127.0.0.1:1", 1);
  }
  void TearDown() override {
    unsetenv("LORAD_SERVER");
    std::filesystem::remove_all(dir_);
  }
  int Run(const std::vector<std::string>& words) {
    std::ostringstream out, err;
    const int code = RunCommandLine(words, {.out = out, .err = err});
    out_ = out.str();
    err_ = err.str();
    return code;
  }
  nlohmann::json Json(std::vector<std::string> words) {
    words.push_back("--output=json");
    EXPECT_EQ(Run(words), 0) << err_;
    return nlohmann::json::parse(out_);
  }
  // 64-bit integers are strings in protobuf's JSON, unless loractl writes them as numbers.
  static double Number(const nlohmann::json& value) {
    return value.is_string() ? std::stod(value.get<std::string>()) : value.get<double>();
  }

  std::string dir_, out_, err_;
};

TEST_F(PlanCommandTest, MemoryPrintsTheTextbooksLlama65B) {
  ASSERT_EQ(Run({"plan", "memory", "--model=llama-65b", "--precision=fp32", "--mode=full",
                 "--batch=1", "--seq=2048"}),
            0)
      << err_;
  EXPECT_THAT(out_, HasSubstr("261.14 GB"));   // weights, and gradients
  EXPECT_THAT(out_, HasSubstr("522.29 GB"));   // moments
  EXPECT_THAT(out_, HasSubstr("85.90 GB"));    // scores, and softmax: 172 together
  EXPECT_THAT(out_, HasSubstr("1288.77 GB"));  // total
}

TEST_F(PlanCommandTest, JsonHasTheSameFigures) {
  const nlohmann::json plan = Json({"plan", "memory", "--model=llama-65b", "--mode=qlora"});
  EXPECT_LT(Number(plan["total_bytes"]), 48e9);
  EXPECT_NEAR(Number(plan["bits_per_weight"]), 4.127, 0.0005);
  double sum = 0;
  for (const auto& item : plan["items"]) sum += Number(item["bytes"]);
  EXPECT_EQ(sum, Number(plan["total_bytes"]));
}

TEST_F(PlanCommandTest, SaysWhatToChangeCheapestFirst) {
  ASSERT_EQ(Run({"plan", "memory", "--model=llama-3-8b", "--batch=8", "--activations=none",
                 "--fit=24GB"}),
            0);
  EXPECT_THAT(out_, HasSubstr("does not fit into 24.00 GB; it does with these, cheapest first"));
  EXPECT_THAT(out_, HasSubstr("--activations=auto"));
  ASSERT_EQ(Run({"plan", "memory", "--model=llama-3-8b", "--fit=80GB"}), 0);
  EXPECT_THAT(out_, HasSubstr("fits into 80.00 GB"));
}

TEST_F(PlanCommandTest, TakesAConfigJson) {
  const std::string path = dir_ + "/config.json";
  std::ofstream(path) << R"({"architectures":["LlamaForCausalLM"],"model_type":"llama",
    "hidden_size":64,"intermediate_size":128,"num_hidden_layers":4,"num_attention_heads":4,
    "vocab_size":300,"rms_norm_eps":1e-5,"max_position_embeddings":512,"hidden_act":"silu"})";
  const nlohmann::json by_file = Json({"plan", "memory", "--model=" + path, "--seq=64"});
  const nlohmann::json by_folder = Json({"plan", "memory", "--model=" + dir_, "--seq=64"});
  EXPECT_EQ(by_file, by_folder);
  EXPECT_EQ(Number(by_file["parameters"]),
            4 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64) + 2 * 300 * 64 + 64);
}

TEST_F(PlanCommandTest, CheckpointingIsDrawn) {
  const std::string picture = dir_ + "/curve.svg";
  ASSERT_EQ(Run({"plan", "checkpointing", "--model=llama-3-8b", "--batch=4", "--fit=24GB",
                 "--chart", "--plot=" + picture}),
            0)
      << err_;
  EXPECT_THAT(out_, HasSubstr("sqrt"));
  EXPECT_THAT(out_, HasSubstr("of 32 layers kept"));
  EXPECT_THAT(out_, HasSubstr("memory against computing again"));
  EXPECT_TRUE(std::filesystem::exists(picture));
}

TEST_F(PlanCommandTest, MistakesAreNamed) {
  const auto fails = [&](std::vector<std::string> words, int code, const std::string& message) {
    words.insert(words.begin(), {"plan", "memory"});
    EXPECT_EQ(Run(words), code) << out_;
    EXPECT_THAT(err_, HasSubstr(message));
  };
  fails({}, 2, "--model is needed");
  fails({"--model=llama-66b"}, 3, "no model preset \"llama-66b\"; known are llama-7b");
  fails({"--model=llama-7b", "--rank=0"}, 2, "--rank is 0; it must be >= 1");
  fails({"--model=llama-7b", "--rank=1025"}, 5, "rank of q_proj is 1025; it must be in [0, 1024]");
  fails({"--model=llama-7b", "--targets=w"}, 5, "target_modules has \"w\"; known are all-linear");
  fails({"--model=llama-7b", "--seq=99999999999"}, 5, "sequence is 99999999999");
  fails({"--model=llama-7b", "--mode=full", "--precision=nf4"}, 5, "k-bit weights are frozen");
  fails({"--model=llama-7b", "--fit=much"}, 2, "--fit is \"much\"; give bytes such as 48GB");
  fails({"--model=llama-7b", "--plot=x.gif"}, 5, ".png");
  const std::string path = dir_ + "/huge.json";
  std::ofstream(path) << R"({"architectures":["LlamaForCausalLM"],"model_type":"llama",
    "hidden_size":1048576,"intermediate_size":1048576,"num_hidden_layers":16384,
    "num_attention_heads":64,"head_dim":128,"vocab_size":32000,"rms_norm_eps":1e-5,
    "max_position_embeddings":512,"hidden_act":"silu"})";
  fails({"--model=" + path}, 5, "");
}

}  // namespace
}  // namespace lorad::client::cli
