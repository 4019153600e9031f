#include <bit>
#include <cmath>
#include <map>
#include <string>

#include "engine/model/config.h"
#include "tests/support/golden.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace lorad {
namespace {

using Keys = std::map<std::string, std::string>;  // key -> JSON text

Keys Llama() {
  return {{"architectures", R"(["LlamaForCausalLM"])"},
          {"model_type", R"("llama")"},
          {"hidden_size", "64"},
          {"intermediate_size", "160"},
          {"num_hidden_layers", "3"},
          {"num_attention_heads", "4"},
          {"num_key_value_heads", "2"},
          {"vocab_size", "100"},
          {"max_position_embeddings", "2048"},
          {"rms_norm_eps", "1e-05"},
          {"hidden_act", R"("silu")"}};
}

std::string Json(const Keys& keys) {
  std::string json;
  for (const auto& [key, value] : keys)
    json += (json.empty() ? "{\"" : ",\"") + key + "\":" + value;
  return json + "}";
}

// Llama() with some keys replaced; an empty value removes the key.
std::string With(const Keys& changes) {
  Keys keys = Llama();
  for (const auto& [key, value] : changes) {
    keys[key] = value;
    if (value.empty()) keys.erase(key);
  }
  return Json(keys);
}

TEST(ModelConfigTest, ReadsTheShape) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, ParseModelConfig(Json(Llama())));
  EXPECT_EQ(config.family, ModelFamily::kLlama);
  EXPECT_EQ(config.architecture, "LlamaForCausalLM");
  EXPECT_EQ(config.hidden_size, 64);
  EXPECT_EQ(config.intermediate_size, 160);
  EXPECT_EQ(config.num_layers, 3);
  EXPECT_EQ(config.num_heads, 4);
  EXPECT_EQ(config.num_kv_heads, 2);
  EXPECT_EQ(config.head_dim, 16);  // hidden_size / num_attention_heads
  EXPECT_EQ(config.vocab_size, 100);
  EXPECT_EQ(config.max_position_embeddings, 2048);
  EXPECT_EQ(config.rms_norm_eps, 1e-5);
  EXPECT_EQ(config.rope.theta, 10000);
  EXPECT_FALSE(config.qkv_bias || config.o_bias || config.mlp_bias || config.tie_word_embeddings);
  EXPECT_EQ(config.q_features(), 64);
  EXPECT_EQ(config.kv_features(), 32);
}

TEST(ModelConfigTest, NullAndAbsentTakeTheDefaultsOfTransformers) {
  ASSERT_OK_AND_ASSIGN(ModelConfig config, ParseModelConfig(With({{"num_key_value_heads", "null"},
                                                                  {"head_dim", "null"},
                                                                  {"rms_norm_eps", ""},
                                                                  {"rope_scaling", "null"},
                                                                  {"pad_token_id", "null"},
                                                                  {"model_type", ""}})));
  EXPECT_EQ(config.num_kv_heads, 4);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.rms_norm_eps, 1e-6);
  ASSERT_OK_AND_ASSIGN(config, ParseModelConfig(With({{"head_dim", "24"}})));
  EXPECT_EQ(config.head_dim, 24);
}

TEST(ModelConfigTest, Biases) {
  ASSERT_OK_AND_ASSIGN(ModelConfig config,
                       ParseModelConfig(With({{"attention_bias", "true"}, {"mlp_bias", "true"}})));
  EXPECT_TRUE(config.qkv_bias && config.o_bias && config.mlp_bias);
  ASSERT_OK_AND_ASSIGN(config, ParseModelConfig(With({{"architectures", R"(["Qwen2ForCausalLM"])"},
                                                      {"model_type", R"("qwen2")"},
                                                      {"use_sliding_window", "false"},
                                                      {"sliding_window", "131072"},
                                                      {"layer_types", R"(["full_attention"])"}})));
  EXPECT_EQ(config.family, ModelFamily::kQwen2);
  EXPECT_TRUE(config.qkv_bias);
  EXPECT_FALSE(config.o_bias || config.mlp_bias);
}

TEST(ModelConfigTest, BothSpellingsOfRopeAreTheSame) {
  const Keys v4[] = {{{"rope_theta", "5e5"}},
                     {{"rope_theta", "5e5"}, {"rope_scaling", R"({"type":"linear","factor":2.0})"}},
                     {{"rope_theta", "5e5"},
                      {"rope_scaling", R"({"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,
                            "high_freq_factor":4.0,"original_max_position_embeddings":512})"}}};
  const Keys v5[] = {
      {{"rope_parameters", R"({"rope_type":"default","rope_theta":5e5})"}},
      {{"rope_parameters", R"({"rope_type":"linear","rope_theta":5e5,"factor":2.0})"}},
      {{"rope_parameters", R"({"rope_type":"llama3","rope_theta":5e5,"factor":8.0,
                               "low_freq_factor":1.0,"high_freq_factor":4.0,
                               "original_max_position_embeddings":512})"}}};
  for (int i = 0; i < 3; ++i) {
    ASSERT_OK_AND_ASSIGN(const ModelConfig a, ParseModelConfig(With(v4[i])));
    ASSERT_OK_AND_ASSIGN(const ModelConfig b, ParseModelConfig(With(v5[i])));
    EXPECT_EQ(a.rope.theta, 5e5);
    EXPECT_EQ(static_cast<int>(a.rope.type), i);
    EXPECT_EQ(a.rope.type, b.rope.type);
    EXPECT_EQ(RopeInverseFrequencies(a), RopeInverseFrequencies(b));
  }
}

// transformers 5.23, ROPE_INIT_FUNCTIONS["llama3"], Llama-3.1's parameters; every fourth of 64.
TEST(ModelConfigTest, Llama3FrequenciesAreThoseOfTransformers) {
  ASSERT_OK_AND_ASSIGN(
      const ModelConfig config,
      ParseModelConfig(With({{"head_dim", "128"},
                             {"max_position_embeddings", "131072"},
                             {"rope_theta", "500000.0"},
                             {"rope_scaling", R"({"rope_type":"llama3","factor":8.0,
                                 "low_freq_factor":1.0,"high_freq_factor":4.0,
                                 "original_max_position_embeddings":8192})"}})));
  const uint32_t expected[] = {0x3f800000, 0x3ee177bc, 0x3e4693b0, 0x3daee4ad,
                               0x3d1a08c8, 0x3c87a9c3, 0x3beef74f, 0x3b527720,
                               0x3a0995d2, 0x38a3418d, 0x380fc8f8, 0x377d45c3,
                               0x36df10c4, 0x36447610, 0x35ad07a7, 0x351864a7};
  const std::vector<float> actual = RopeInverseFrequencies(config);
  ASSERT_EQ(actual.size(), 64u);
  for (int i = 0; i < 16; ++i) {
    // Two roundings of 2^-24 each, and PyTorch's pow, which errs by one more place.
    const float value = std::bit_cast<float>(expected[i]);
    EXPECT_NEAR(actual[4 * i], value, 4 * 0x1p-24 * value) << 4 * i;
  }
}

// The same with {"rope_type": "linear", "factor": 2.5}, head_dim 32.
TEST(ModelConfigTest, LinearFrequenciesAreThoseOfTransformers) {
  ASSERT_OK_AND_ASSIGN(
      const ModelConfig config,
      ParseModelConfig(
          With({{"head_dim", "32"}, {"rope_scaling", R"({"rope_type":"linear","factor":2.5})"}})));
  const uint32_t expected[] = {0x3ecccccd, 0x3e6655c3, 0x3e0186e2, 0x3d91ad39,
                               0x3d23d70a, 0x3cb8449b, 0x3c4f3e38, 0x3be91528,
                               0x3b83126e, 0x3b136a16, 0x3aa5cb60, 0x3a3a7753,
                               0x39d1b718, 0x396bdcf0, 0x3904a2b3, 0x38952c42};
  const std::vector<float> actual = RopeInverseFrequencies(config);
  ASSERT_EQ(actual.size(), 16u);
  for (int i = 0; i < 16; ++i) {
    const float value = std::bit_cast<float>(expected[i]);
    EXPECT_NEAR(actual[i], value, 4 * 0x1p-24 * value) << i;
  }
}

TEST(ModelConfigTest, EosIsAnIdOrAListAndGenerationConfigDecides) {
  const std::string config = With({{"bos_token_id", "1"}, {"eos_token_id", "2"}});
  ASSERT_OK_AND_ASSIGN(ModelConfig parsed, ParseModelConfig(config));
  EXPECT_EQ(parsed.bos_token_id, 1);
  EXPECT_EQ(parsed.eos_token_ids, std::vector<int32_t>{2});
  ASSERT_OK_AND_ASSIGN(parsed, ParseModelConfig(config, R"({"eos_token_id":[5,7]})"));
  EXPECT_EQ(parsed.eos_token_ids, (std::vector<int32_t>{5, 7}));
  ASSERT_OK_AND_ASSIGN(parsed, ParseModelConfig(config, R"({"temperature":0.6})"));
  EXPECT_EQ(parsed.eos_token_ids, std::vector<int32_t>{2});
  ASSERT_OK_AND_ASSIGN(parsed,
                       ParseModelConfig(With({{"bos_token_id", "null"}}), R"({"bos_token_id":3})"));
  EXPECT_EQ(parsed.bos_token_id, 3);
  EXPECT_TRUE(parsed.eos_token_ids.empty());
  // A pad id beyond the embedding, or -1, means none.
  ASSERT_OK_AND_ASSIGN(parsed, ParseModelConfig(With({{"pad_token_id", "100"}})));
  EXPECT_EQ(parsed.pad_token_id, -1);
}

struct Refusal {
  Keys changes;
  absl::StatusCode code;
  std::string message;
};

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

const Refusal kRefusals[] = {
    {{{"architectures", R"(["MistralForCausalLM"])"}},
     kUnimplemented,
     "[\"MistralForCausalLM\"] is not supported; supported: LlamaForCausalLM, Qwen2ForCausalLM"},
    {{{"architectures", ""}}, kInvalid, "\"architectures\" is missing"},
    {{{"architectures", "7"}}, kInvalid, "\"architectures\" is 7; it must be an array"},
    {{{"model_type", R"("mixtral")"}}, kInvalid, "\"model_type\" is \"mixtral\""},
    {{{"hidden_act", R"("gelu")"}}, kUnimplemented, "\"hidden_act\": \"gelu\""},
    {{{"hidden_size", ""}}, kInvalid, "\"hidden_size\" is missing"},
    {{{"hidden_size", "0"}}, kInvalid, "\"hidden_size\" is 0"},
    {{{"hidden_size", "64.5"}}, kInvalid, "\"hidden_size\" is 64.5"},
    {{{"hidden_size", "\"64\""}}, kInvalid, "\"hidden_size\" is \"64\""},
    {{{"hidden_size", "9223372036854775807"}}, kInvalid, "a whole number from 1 to 131072"},
    {{{"hidden_size", "18446744073709551615"}}, kInvalid, "a whole number from 1 to 131072"},
    {{{"intermediate_size", "-1"}}, kInvalid, "\"intermediate_size\" is -1"},
    {{{"num_hidden_layers", "1000000"}}, kInvalid, "\"num_hidden_layers\" is 1000000"},
    {{{"num_key_value_heads", "3"}}, kInvalid, "a divisor of num_attention_heads, 4"},
    {{{"num_key_value_heads", "8"}}, kInvalid, "\"num_key_value_heads\" is 8"},
    {{{"num_attention_heads", "5"}, {"num_key_value_heads", "5"}},
     kInvalid,
     "hidden_size 64 is not a multiple of num_attention_heads 5"},
    {{{"head_dim", "15"}}, kInvalid, "head_dim is 15; it must be even"},
    {{{"vocab_size", "0"}}, kInvalid, "\"vocab_size\" is 0"},
    {{{"max_position_embeddings", ""}}, kInvalid, "\"max_position_embeddings\" is missing"},
    {{{"rms_norm_eps", "0"}}, kInvalid, "\"rms_norm_eps\" is 0"},
    {{{"rms_norm_eps", "-1e-5"}}, kInvalid, "\"rms_norm_eps\" is -1e-05"},
    {{{"rope_theta", "0.5"}}, kInvalid, "\"rope_theta\" is 0.5"},
    {{{"rope_scaling", R"({"rope_type":"yarn","factor":4.0})"}},
     kUnimplemented,
     "\"rope_type\": \"yarn\" is not supported; supported: default, linear, llama3"},
    {{{"rope_scaling", R"({"type":"mrope"})"}}, kUnimplemented, "\"type\": \"mrope\""},
    {{{"rope_scaling", R"({"type":"linear"})"}},
     kInvalid,
     "rope_scaling: key \"factor\" is missing"},
    {{{"rope_scaling", R"({"type":"linear","factor":0})"}}, kInvalid, "\"factor\" is 0"},
    {{{"rope_scaling", R"({"rope_type":"llama3","factor":8})"}},
     kInvalid,
     "\"low_freq_factor\" is missing"},
    {{{"rope_scaling", R"({"rope_type":"llama3","factor":8,"low_freq_factor":4,
                           "high_freq_factor":1,"original_max_position_embeddings":64})"}},
     kInvalid,
     "\"high_freq_factor\" is 1; it must be above low_freq_factor, 4"},
    {{{"rope_theta", "1e4"}, {"rope_parameters", R"({"rope_theta":1e6})"}},
     kInvalid,
     "\"rope_theta\" is 10000.0; it must be absent or equal"},
    {{{"rope_scaling", R"({"type":"linear","factor":2})"},
      {"rope_parameters", R"({"rope_theta":1e6})"}},
     kInvalid,
     "\"rope_scaling\""},
    {{{"partial_rotary_factor", "0.5"}}, kUnimplemented, "\"partial_rotary_factor\": 0.5"},
    {{{"use_sliding_window", "true"}}, kUnimplemented, "\"use_sliding_window\": true"},
    {{{"layer_types", R"(["full_attention","sliding_attention"])"}},
     kUnimplemented,
     "\"layer_types\""},
    {{{"quantization_config", R"({"quant_method":"gptq","bits":4})"}},
     kUnimplemented,
     "\"quant_method\": \"gptq\" is not supported; supported: bitsandbytes in 4 bits"},
    {{{"quantization_config", R"({"quant_method":"bitsandbytes","load_in_8bit":true})"}},
     kUnimplemented,
     "\"load_in_8bit\": true"},
    {{{"eos_token_id", "100"}}, kInvalid, "\"eos_token_id\" is 100; it must be a whole number"},
    {{{"bos_token_id", "-2"}}, kInvalid, "\"bos_token_id\" is -2"},
    {{{"tie_word_embeddings", "1"}}, kInvalid, "\"tie_word_embeddings\" is 1"}};

TEST(ModelConfigTest, RefusesByName) {
  for (const Refusal& refusal : kRefusals) {
    EXPECT_THAT(ParseModelConfig(With(refusal.changes)), StatusIs(refusal.code, refusal.message));
  }
}

TEST(ModelConfigTest, AcceptsBitsAndBytesIn4Bits) {
  EXPECT_OK(ParseModelConfig(With(
      {{"quantization_config",
        R"({"quant_method":"bitsandbytes","load_in_4bit":true,"bnb_4bit_quant_type":"nf4"})"}})));
}

TEST(ModelConfigTest, RefusesWhatIsNotAJsonObject) {
  EXPECT_THAT(ParseModelConfig("[]"),
              StatusIs(absl::StatusCode::kInvalidArgument, "config.json: [] is not a JSON object"));
  EXPECT_THAT(ParseModelConfig(R"({"a":1,"a":2})"),
              StatusIs(absl::StatusCode::kInvalidArgument, "config.json"));
  EXPECT_THAT(ParseModelConfig(Json(Llama()), R"({"eos_token_id":"x"})"),
              StatusIs(absl::StatusCode::kInvalidArgument, "generation_config.json: key"));
}

TEST(ModelConfigTest, LoadNamesTheMissingFile) {
  const TempDir dir;
  EXPECT_THAT(LoadModelConfig(dir.path()),
              StatusIs(absl::StatusCode::kNotFound, dir.File("config.json")));
  dir.Write("config.json", Json(Llama()));
  EXPECT_OK(LoadModelConfig(dir.path()));
  dir.Write("generation_config.json", "{");
  EXPECT_THAT(LoadModelConfig(dir.path()),
              StatusIs(absl::StatusCode::kInvalidArgument, dir.File("generation_config.json")));
}

TEST(ModelConfigTest, ReadsTheGoldenModels) {
  for (const char* name : kGoldenModels) {
    ASSERT_OK_AND_ASSIGN(const ModelConfig config, LoadModelConfig(Golden(name).model_dir()));
    EXPECT_EQ(config.hidden_size, 128) << name;
    EXPECT_EQ(config.eos_token_ids, std::vector<int32_t>{2}) << name;
    EXPECT_EQ(config.tie_word_embeddings, std::string(name) != "llama-gqa") << name;
  }
}

}  // namespace
}  // namespace lorad
