// PEFT directories that must be refused, each by the name of what is wrong, and never applied in
// part.
#include <cmath>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "engine/io/file.h"
#include "engine/lora/peft.h"
#include "engine/lora/targets.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace lorad {
namespace {

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
constexpr char kQ[] = "base_model.model.model.layers.0.self_attn.q_proj";

std::string A(const std::string& module) { return module + ".lora_A.weight"; }
std::string B(const std::string& module) { return module + ".lora_B.weight"; }

class PeftMalformedTest : public testing::Test {
 protected:
  PeftMalformedTest() {
    tensors_.tensors.clear();
    for (const AdapterModule& m : RandomAdapter(model_, {4}, 1).modules) {
      const std::string name = "base_model.model." + ModulePath(m.id);
      tensors_.Set(A(name), {4, static_cast<int64_t>(m.a.size()) / 4}, m.a, DType::kF32);
      tensors_.Set(B(name), {static_cast<int64_t>(m.b.size()) / 4, 4}, m.b, DType::kF32);
    }
    config_ = {{"peft_type", "\"LORA\""},
               {"r", "4"},
               {"lora_alpha", "8"},
               {"lora_dropout", "0.0"},
               {"bias", "\"none\""},
               {"task_type", "\"CAUSAL_LM\""},
               {"target_modules", "\"all-linear\""}};
  }

  // Reads the directory of tensors_ and config_; it is written anew.
  absl::StatusOr<HostAdapter> Read() {
    const TempDir dir;
    tensors_.Write(dir.path());
    std::filesystem::rename(dir.File("model.safetensors"), dir.File("adapter_model.safetensors"));
    std::string json;
    for (const auto& [key, value] : config_)
      json += (json.empty() ? "{\"" : ",\"") + key + "\":" + value;
    dir.Write("adapter_config.json", json + "}");
    return ReadPeftAdapter(dir.path(), model_);
  }
  void ExpectRefused(absl::StatusCode code, const std::string& message) {
    EXPECT_THAT(Read(), StatusIs(code, message));
  }
  // With one key of the config replaced.
  void ExpectKeyRefused(const std::string& key, const std::string& value, absl::StatusCode code,
                        const std::string& message) {
    const std::map<std::string, std::string> whole = config_;
    config_[key] = value;
    if (value.empty()) config_.erase(key);
    ExpectRefused(code, message);
    config_ = whole;
  }

  const ModelConfig model_ = TinyModel().ParsedConfig();
  TinyModel tensors_;
  std::map<std::string, std::string> config_;
};

TEST_F(PeftMalformedTest, TheWholeOneIsAccepted) {
  ASSERT_OK_AND_ASSIGN(const HostAdapter adapter, Read());
  EXPECT_EQ(AdapterDigest(adapter), AdapterDigest(RandomAdapter(model_, {4}, 1)));
}

TEST_F(PeftMalformedTest, Rank) {
  for (const char* r :
       {"0", "-1", "2147483648", "1000000000", "\"16\"", "16.5", "4.0", "null", "true"})
    ExpectKeyRefused("r", r, kInvalid, "adapter_config.json: key \"r\"");
  ExpectKeyRefused("r", "", kInvalid, "\"r\" is missing");
  ExpectKeyRefused("r", "8", kInvalid,
                   "tensor " + A(kQ) + " has shape [4, 32]; expected [8, 32] for rank 8");
}

TEST_F(PeftMalformedTest, Scaling) {
  for (const char* alpha : {"0", "-1", "1e308", "\"8\"", "null"})
    ExpectKeyRefused("lora_alpha", alpha, kInvalid, "\"lora_alpha\"");
  for (const char* dropout : {"1.0", "2", "-0.1", "\"0\""})
    ExpectKeyRefused("lora_dropout", dropout, kInvalid, "\"lora_dropout\"");
  ExpectKeyRefused("lora_alpha", "NaN", kInvalid, "adapter_config.json");
  ExpectKeyRefused("use_rslora", "\"yes\"", kInvalid, "\"use_rslora\"");
}

TEST_F(PeftMalformedTest, Patterns) {
  // Half the layers at another rank than their tensors have.
  ExpectKeyRefused("rank_pattern", R"({"layers.0.self_attn.q_proj": 2})", kInvalid,
                   "tensor " + A(kQ) + " has shape [4, 32]; expected [2, 32] for rank 2");
  ExpectKeyRefused("rank_pattern", R"({"q_proj": 0})", kInvalid,
                   "rank_pattern: key \"q_proj\" is 0");
  ExpectKeyRefused("alpha_pattern", R"({"q_proj": "x"})", kInvalid,
                   "alpha_pattern: key \"q_proj\" is \"x\"");
  ExpectKeyRefused("alpha_pattern", R"({"(q_proj": 1})", kInvalid, "alpha_pattern: pattern");
  ExpectKeyRefused("alpha_pattern", R"({"(([a-z._0-9])+)+\\d\\d\\d": 1})", kInvalid, "steps");
  ExpectKeyRefused("rank_pattern", "[]", kInvalid, "\"rank_pattern\" is []; it must be an object");
}

TEST_F(PeftMalformedTest, Targets) {
  ExpectKeyRefused("target_modules", "[]", kInvalid, "target_modules");
  ExpectKeyRefused("target_modules", R"("(([a-z._0-9])+)+\\d\\d\\d")", kInvalid, "steps");
  ExpectKeyRefused("target_modules", R"(["query"])", kInvalid, "\"query\" matches no module");
  ExpectKeyRefused("target_modules", R"(["q_proj","lm_head"])", kInvalid, "lm_head");
  ExpectKeyRefused("target_modules", R"([1])", kInvalid, "\"target_modules\" is [1]");
  ExpectKeyRefused("target_modules", R"(["regex:.*"])", kInvalid, "a list of module names");
  ExpectKeyRefused("layers_to_transform", "[0]", kInvalid,
                   "it must be null when target_modules is a string");
  config_["target_modules"] = R"(["q_proj"])";
  ExpectKeyRefused("layers_to_transform", "[2]", kInvalid, "\"layers_to_transform\" is [2]");
  ExpectKeyRefused("layers_pattern", "\"blocks\"", kUnimplemented,
                   "\"layers_pattern\": \"blocks\"");
  ExpectKeyRefused("exclude_modules", R"(["q_proj"])", kInvalid, "target_modules");
  ExpectKeyRefused("exclude_modules", R"("(q")", kInvalid, "pattern \"(q\"");
  // Tensors of modules that the config does not target would not be used.
  ExpectRefused(kInvalid, "adapter_config.json does not target model.layers.0.mlp.down_proj");
}

TEST_F(PeftMalformedTest, SettingsThatChangeTheMaths) {
  const std::pair<const char*, const char*> keys[] = {{"use_dora", "true"},
                                                      {"fan_in_fan_out", "true"},
                                                      {"bias", "\"all\""},
                                                      {"bias", "\"lora_only\""},
                                                      {"lora_bias", "true"},
                                                      {"modules_to_save", R"(["lm_head"])"},
                                                      {"layer_replication", "[[0,2]]"},
                                                      {"trainable_token_indices", "[1]"},
                                                      {"target_parameters", R"(["x"])"},
                                                      {"megatron_config", R"({"a":1})"},
                                                      {"alora_invocation_tokens", "[5]"},
                                                      {"arrow_config", R"({"a":1})"},
                                                      {"use_qalora", "true"},
                                                      {"use_bdlora", "true"},
                                                      {"kasa_config", R"({"a":1})"},
                                                      {"init_lora_weights", "\"pissa_niter_16\""},
                                                      {"init_lora_weights", "\"loftq\""},
                                                      {"peft_type", "\"IA3\""},
                                                      {"task_type", "\"SEQ_CLS\""}};
  for (const auto& [key, value] : keys)
    ExpectKeyRefused(key, value, kUnimplemented, std::string("\"") + key + "\": ");
}

TEST_F(PeftMalformedTest, PairsAreWhole) {
  const auto whole = tensors_.tensors;
  tensors_.tensors.erase(B(kQ));
  ExpectRefused(kInvalid, "tensor " + B(kQ) + " is missing");
  tensors_.tensors = whole;
  tensors_.tensors.erase(A(kQ));
  ExpectRefused(kInvalid, "tensor " + A(kQ) + " is missing");
  tensors_.tensors.erase(B(kQ));
  ExpectRefused(kInvalid, "adapter_config.json targets model.layers.0.self_attn.q_proj");
  tensors_.tensors.clear();
  tensors_.Set(A(kQ), {4, 32}, RandomValues(128, 1, 1), DType::kF32);
  ExpectRefused(kInvalid, "is missing");
}

TEST_F(PeftMalformedTest, Shapes) {
  const auto whole = tensors_.tensors;
  std::swap(tensors_.tensors[A(kQ)], tensors_.tensors[B(kQ)]);
  ExpectRefused(kInvalid, "tensor " + A(kQ) + " has shape [32, 4]; expected [4, 32]");
  tensors_.tensors = whole;
  tensors_.tensors[A(kQ)].shape = {4, 2, 16};
  ExpectRefused(kInvalid, "tensor " + A(kQ) + " has shape [4, 2, 16]");
  tensors_.tensors = whole;
  tensors_.Set(B(kQ), {16, 4}, RandomValues(64, 1, 1), DType::kF32);
  ExpectRefused(kInvalid, "tensor " + B(kQ) + " has shape [16, 4]; expected [32, 4]");
  tensors_.tensors[B(kQ)] = {DType::kI8, {32, 4}, std::string(128, '\1')};
  ExpectRefused(kInvalid, "tensor " + B(kQ) + " is I8; supported: F32, F16, BF16");
}

TEST_F(PeftMalformedTest, TensorsOfNoModule) {
  const struct {
    std::string name;
    absl::StatusCode code;
    std::string message;
  } extras[] = {
      {A("base_model.model.model.layers.999.self_attn.q_proj"), kInvalid, "with layers 0 to 1"},
      {A("base_model.model.model.layers.2.self_attn.q_proj"), kInvalid, "with layers 0 to 1"},
      {A("base_model.model.model.model.layers.0.self_attn.q_proj"), kInvalid,
       "belongs to no module of the base model; expected names like " + A(kQ)},
      {A("model.layers.0.self_attn.q_proj"), kInvalid, "belongs to no module"},
      {A("base_model.model.model.layers.0.self_attn.query"), kInvalid, "belongs to no module"},
      {std::string(kQ) + ".lora_A.default.weight", kInvalid, "belongs to no module"},
      {std::string(kQ) + ".weight", kInvalid, "belongs to no module"},
      {"base_model.model.lm_head.weight", kUnimplemented, "\"lm_head\" is not supported"},
      {A("base_model.model.lm_head"), kUnimplemented, "\"lm_head\" is not supported"},
      {std::string(kQ) + ".lora_magnitude_vector", kUnimplemented, "lora_magnitude_vector"},
      {std::string(kQ) + ".lora_B.bias", kUnimplemented, "lora_B.bias"},
      {"base_model.model.model.embed_tokens.lora_embedding_A", kUnimplemented, "lora_embedding_"}};
  const auto whole = tensors_.tensors;
  for (const auto& extra : extras) {
    tensors_.tensors = whole;
    tensors_.Set(extra.name, {4, 32}, RandomValues(128, 1, 1), DType::kF32);
    ExpectRefused(extra.code, "tensor " + extra.name);
    ExpectRefused(extra.code, extra.message);
  }
}

TEST_F(PeftMalformedTest, ValuesThatAreNotFinite) {
  const auto whole = tensors_.tensors;
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      tensors_.tensors = whole;
      std::vector<float> values = tensors_.Values(B(kQ));
      values[77] = bad;
      tensors_.Set(B(kQ), {32, 4}, values, dtype);
      ExpectRefused(kInvalid, "tensor " + B(kQ) + ": element 77 is ");
    }
  }
}

TEST_F(PeftMalformedTest, OfAnotherBaseModel) {
  TinyModelOptions options;
  options.hidden = 64;
  const ModelConfig other = TinyModel(options).ParsedConfig();
  const TempDir dir;
  ASSERT_OK(WritePeftAdapter(RandomAdapter(other, {4}, 1), dir.File("out")));
  EXPECT_THAT(ReadPeftAdapter(dir.File("out"), model_),
              StatusIs(kInvalid, "tensor " + A(kQ) + " has shape [4, 64]; expected [4, 32]"));
}

// What the file says of its base model is never followed.
TEST_F(PeftMalformedTest, BaseModelPathIsOnlyAName) {
  for (const char* path : {"/etc/passwd", "http://169.254.169.254/", "../../x"}) {
    config_["base_model_name_or_path"] = std::string("\"") + path + "\"";
    ASSERT_OK_AND_ASSIGN(const HostAdapter adapter, Read());
    EXPECT_EQ(adapter.config.base_model_name_or_path, path);
  }
}

TEST_F(PeftMalformedTest, Files) {
  const TempDir dir;
  EXPECT_THAT(ReadPeftAdapter(dir.path(), model_),
              StatusIs(absl::StatusCode::kNotFound, dir.File("adapter_config.json")));
  EXPECT_THAT(ReadPeftAdapter(dir.File("none"), model_),
              StatusIs(absl::StatusCode::kNotFound, dir.File("none")));
  ASSERT_OK(WritePeftAdapter(RandomAdapter(model_, {4}, 1), dir.File("out")));
  const std::string tensors = dir.File("out/adapter_model.safetensors");
  std::filesystem::resize_file(tensors, 3000);
  EXPECT_THAT(ReadPeftAdapter(dir.File("out"), model_), StatusIs(kInvalid, tensors));
  std::filesystem::remove(tensors);
  EXPECT_THAT(ReadPeftAdapter(dir.File("out"), model_),
              StatusIs(absl::StatusCode::kNotFound, tensors));
  // A pickle is never opened: it says what to do instead.
  dir.Write("out/adapter_model.bin", "cos\nsystem\n(S'touch /tmp/owned'\ntR.");
  EXPECT_THAT(ReadPeftAdapter(dir.File("out"), model_),
              StatusIs(absl::StatusCode::kNotFound, "safe_serialization=True"));
  dir.Write("out/adapter_config.json", "{\"r\": 4, \"r\": 8}");
  EXPECT_THAT(ReadPeftAdapter(dir.File("out"), model_), StatusIs(kInvalid, "adapter_config.json"));
  dir.Write("out/adapter_config.json", "[]");
  EXPECT_THAT(ReadPeftAdapter(dir.File("out"), model_), StatusIs(kInvalid, "is not a JSON object"));
}

}  // namespace
}  // namespace lorad
