// CountFlops from request to reply.
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"
#include "proto/planner/flops.h"
#include "tests/support/status_matchers.h"

namespace lorad::planner {
namespace {

using absl::StatusCode;
using testing::HasSubstr;
using v1::FlopAccount;

v1::CountFlopsRequest Request(const std::string& text) {
  v1::CountFlopsRequest request;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &request)) << text;
  return request;
}
constexpr char kQlora[] =
    R"(spec { model { preset: "llama-65b" } batch: 4 rank: 64 activations: "none" })";

int64_t Total(const FlopAccount& account, const std::string& operation) {
  for (const v1::OperationFlops& op : account.operations())
    if (op.operation() == operation) return op.total();
  return 0;
}

TEST(CountFlopsTest, BothAccountsOfATrainingStep) {
  ASSERT_OK_AND_ASSIGN(const v1::CountFlopsResponse response, CountFlops(Request(kQlora)));
  ASSERT_EQ(response.accounts_size(), 2);
  const FlopAccount &textbook = response.accounts(0), &engine = response.accounts(1);
  EXPECT_EQ(textbook.rules(), FlopAccount::RULES_TEXTBOOK);
  EXPECT_EQ(engine.rules(), FlopAccount::RULES_ENGINE);
  EXPECT_GT(response.parameters(), 65'000'000'000);
  EXPECT_GT(response.trained_parameters(), 0);
  // Over frozen weights once forward, once back: 80 layers of gate and up, 8192 by 22016.
  const int64_t gate_up = 2 * 2 * int64_t{4 * 2048} * 80 * 8192 * 2 * 22016;
  for (const FlopAccount& account : response.accounts()) {
    EXPECT_EQ(account.work(), FlopAccount::WORK_STEP);
    EXPECT_EQ(account.tokens(), 4 * 2048);
    EXPECT_EQ(Total(account, "gate_up"), gate_up);
    EXPECT_GT(Total(account, "dequantize"), 0);
    int64_t sum = 0;
    for (const v1::OperationFlops& op : account.operations()) {
      EXPECT_EQ(op.total(), op.forward() + op.backward() + op.recompute());
      EXPECT_GT(op.total(), 0);
      sum += op.total();
    }
    EXPECT_EQ(account.total(), sum);
    EXPECT_EQ(account.total(), account.forward() + account.backward() + account.recompute());
    EXPECT_FALSE(account.has_seconds() || account.has_share_of_peak());
  }
}

TEST(CountFlopsTest, CheckpointingIsWhatIsComputedAgain) {
  v1::CountFlopsRequest request = Request(kQlora);
  const int64_t none = CountFlops(request)->accounts(0).recompute();
  EXPECT_EQ(none, 0);
  request.mutable_spec()->set_activations("every_layer");
  ASSERT_OK_AND_ASSIGN(const v1::CountFlopsResponse response, CountFlops(request));
  EXPECT_GT(response.accounts(0).recompute(), 0);
  EXPECT_GT(response.accounts(1).recompute(), 0);
  EXPECT_LT(response.accounts(1).recompute(), response.accounts(1).forward());
}

TEST(CountFlopsTest, FullTrainingIsTheTextbooksAlone) {
  ASSERT_OK_AND_ASSIGN(
      const v1::CountFlopsResponse response,
      CountFlops(Request(R"(spec { model { preset: "llama-3-8b" } mode: "full" })")));
  ASSERT_EQ(response.accounts_size(), 1);
  EXPECT_EQ(response.trained_parameters(), response.parameters());
}

TEST(CountFlopsTest, InferenceIsPromptsAndATokenMore) {
  ASSERT_OK_AND_ASSIGN(const v1::CountFlopsResponse response, CountFlops(Request(R"(
      spec { model { preset: "llama-3-8b" } mode: "inference" batch: 3 sequence: 100 })")));
  ASSERT_EQ(response.accounts_size(), 4);
  EXPECT_EQ(response.trained_parameters(), 0);
  const FlopAccount &prefill = response.accounts(1), &decode = response.accounts(3);
  EXPECT_EQ(prefill.work(), FlopAccount::WORK_PREFILL);
  EXPECT_EQ(prefill.tokens(), 300);
  EXPECT_EQ(decode.work(), FlopAccount::WORK_DECODE);
  EXPECT_EQ(decode.tokens(), 3);
  EXPECT_EQ(prefill.total(), prefill.forward());
  EXPECT_EQ(Total(prefill, "qkv"), 100 * Total(decode, "qkv"));
  EXPECT_EQ(Total(prefill, "head"), Total(decode, "head"));
  // 100 keys of the last token of 100 * 101 / 2 of all.
  EXPECT_EQ(Total(prefill, "scores") * 2, Total(decode, "scores") * 101);
  EXPECT_EQ(Total(prefill, "lora"), 0);
  EXPECT_EQ(Total(prefill, "dequantize"), 0);
}

TEST(CountFlopsTest, TimesAtARateAndOfAMeasuredStep) {
  v1::CountFlopsRequest request = Request(kQlora);
  request.set_flops_per_second(494.5e12);
  request.set_card("h200");
  ASSERT_OK_AND_ASSIGN(const v1::CountFlopsResponse given, CountFlops(request));
  const FlopAccount& account = given.accounts(1);
  EXPECT_EQ(given.peak_flops_per_second(), 989e12);
  EXPECT_DOUBLE_EQ(account.seconds(), static_cast<double>(account.total()) / 494.5e12);
  EXPECT_DOUBLE_EQ(account.seconds_at_peak() * 2, account.seconds());
  EXPECT_DOUBLE_EQ(account.share_of_peak(), 0.5);

  request.clear_flops_per_second();
  request.set_measured_seconds(account.seconds());
  ASSERT_OK_AND_ASSIGN(const v1::CountFlopsResponse measured, CountFlops(request));
  EXPECT_NEAR(measured.accounts(1).flops_per_second(), 494.5e12, 1);
  EXPECT_NEAR(measured.accounts(1).share_of_peak(), 0.5, 1e-12);
  EXPECT_FALSE(measured.accounts(1).has_seconds());
}

struct Refusal {
  const char* request;  // fields that are merged into kQlora
  StatusCode code;
  const char* says;
};

TEST(CountFlopsTest, RefusalsNameTheFieldTheValueAndTheBound) {
  const Refusal refusals[] = {
      {"spec { mode: 'half' }", StatusCode::kInvalidArgument, "known are inference, full, lora"},
      {"spec { model { preset: 'llama-66b' } }", StatusCode::kNotFound, "llama-65b"},
      {"spec { model { config_json: '{}' } }", StatusCode::kInvalidArgument, "config"},
      {"spec { rank: 1025 }", StatusCode::kInvalidArgument, "rank of q_proj is 1025"},
      {"spec { batch: -1 }", StatusCode::kInvalidArgument, "batch is -1"},
      {"spec { sequence: -5 }", StatusCode::kInvalidArgument, "sequence is -5"},
      {"spec { batch: 2 sequence: 1048576 accumulation: 1048576 }", StatusCode::kInvalidArgument,
       "tokens; at most 1099511627776"},
      {"spec { accumulation: 1048576 }", StatusCode::kOutOfRange, "plan fewer tokens at a time"},
      {"spec { target_modules: 'q' }", StatusCode::kInvalidArgument,
       "known are all-linear, q_proj"},
      {"spec { activations: 'all' }", StatusCode::kInvalidArgument, "known are none, every_layer"},
      {"spec { activations: 'auto' }", StatusCode::kInvalidArgument, "depends on memory"},
      {"spec { optim: 'sgd' }", StatusCode::kInvalidArgument, "sgd"},
      {"spec { mode: 'full' precision: 'nf4' }", StatusCode::kInvalidArgument, "are frozen"},
      {"first_layer: 80", StatusCode::kInvalidArgument, "first_layer is 80; it must be in [0, 79]"},
      {"flops_per_second: 0", StatusCode::kInvalidArgument, "it must be in (0, 1e+21]"},
      {"flops_per_second: nan", StatusCode::kInvalidArgument, "it must be in (0, 1e+21]"},
      {"measured_seconds: -1", StatusCode::kInvalidArgument, "measured_seconds is -1"},
      {"measured_seconds: 1 flops_per_second: 1", StatusCode::kInvalidArgument, "choose one"},
      {"spec { mode: 'inference' } measured_seconds: 1", StatusCode::kInvalidArgument,
       "measured_seconds is of a training step"},
      {"card: 'h300'", StatusCode::kNotFound, "h100, h200"},
  };
  for (const Refusal& refusal : refusals) {
    v1::CountFlopsRequest request = Request(kQlora);
    request.MergeFrom(Request(refusal.request));
    const absl::Status status = CountFlops(request).status();
    EXPECT_EQ(status.code(), refusal.code) << refusal.request << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(refusal.says)) << refusal.request;
  }
}

TEST(CountFlopsTest, AServedAdapterAndWidePrecisions) {
  v1::CountFlopsRequest request = Request(
      R"(spec { model { preset: "llama-3-8b" } mode: "inference" precision: "int8" rank: 8
                target_modules: "q_proj" })");
  ASSERT_OK_AND_ASSIGN(const v1::CountFlopsResponse adapted, CountFlops(request));
  EXPECT_GT(Total(adapted.accounts(1), "lora"), 0);
  EXPECT_GT(Total(adapted.accounts(1), "dequantize"), 0);
  request.mutable_spec()->set_precision("fp32");
  ASSERT_OK_AND_ASSIGN(const v1::CountFlopsResponse wide, CountFlops(request));
  ASSERT_EQ(wide.accounts_size(), 2);
  for (const FlopAccount& account : wide.accounts())
    EXPECT_EQ(account.rules(), FlopAccount::RULES_TEXTBOOK);
}

TEST(CountFlopsTest, AModelOfTooManyParametersIsRefused) {
  v1::CountFlopsRequest request = Request(kQlora);
  request.mutable_spec()->mutable_model()->set_config_json(
      R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
          "hidden_size": 131072, "intermediate_size": 1048576, "num_hidden_layers": 1024,
          "num_attention_heads": 1024, "num_key_value_heads": 1024, "vocab_size": 32000,
          "max_position_embeddings": 4096, "rms_norm_eps": 1e-6})");
  const absl::Status status = CountFlops(request).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("parameters; at most 1e+14"));
}

}  // namespace
}  // namespace lorad::planner
