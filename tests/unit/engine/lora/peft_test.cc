#include "engine/lora/peft.h"

#include <cmath>
#include <string>
#include <vector>

#include "engine/core/float16.h"
#include "engine/io/file.h"
#include "engine/io/safetensors.h"
#include "engine/lora/targets.h"
#include "tests/support/golden.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace lorad {
namespace {

std::string Content(const std::string& path) {
  const absl::StatusOr<std::string> content = ReadFile(path);
  EXPECT_OK(content.status());
  return content.value_or("");
}

void ExpectSameMaths(const HostAdapter& a, const HostAdapter& b) {
  ASSERT_EQ(a.modules.size(), b.modules.size());
  for (size_t i = 0; i < a.modules.size(); ++i) {
    EXPECT_EQ(a.modules[i].id, b.modules[i].id);
    EXPECT_EQ(a.modules[i].rank, b.modules[i].rank);
    EXPECT_EQ(a.modules[i].alpha, b.modules[i].alpha);
    EXPECT_EQ(a.modules[i].scaling, b.modules[i].scaling);
    EXPECT_EQ(a.modules[i].a, b.modules[i].a);
    EXPECT_EQ(a.modules[i].b, b.modules[i].b);
  }
  EXPECT_EQ(AdapterDigest(a), AdapterDigest(b));
}

TEST(PeftTest, ReadsWhatPeftWrote) {
  for (const char* name : kGoldenModels) {
    const Golden golden(name);
    ASSERT_OK_AND_ASSIGN(const ModelConfig model, LoadModelConfig(golden.model_dir()));
    ASSERT_OK_AND_ASSIGN(const HostAdapter adapter,
                         ReadPeftAdapter(golden.AdapterDir("adapter_init"), model));
    EXPECT_EQ(adapter.config.r, 8);
    EXPECT_EQ(adapter.config.lora_alpha, 16);
    EXPECT_EQ(adapter.config.lora_dropout, 0);
    EXPECT_FALSE(adapter.config.use_rslora);
    EXPECT_EQ(adapter.config.target_modules,
              (std::vector<std::string>{"down_proj", "gate_proj", "k_proj", "o_proj", "q_proj",
                                        "up_proj", "v_proj"}));
    ASSERT_EQ(adapter.modules.size(), model.num_layers * kNumProjections);
    const AdapterModule& down = adapter.modules[6];
    EXPECT_EQ(ModulePath(down.id), "model.layers.0.mlp.down_proj");
    EXPECT_EQ(down.scaling, 2.0f);
    EXPECT_EQ(down.a.size(), 8u * 320);
    EXPECT_EQ(down.b.size(), 8u * 128);
    ASSERT_OK_AND_ASSIGN(
        const SafetensorsFile file,
        SafetensorsFile::Open(golden.AdapterDir("adapter_init") + "/adapter_model.safetensors"));
    ASSERT_OK_AND_ASSIGN(const ConstTensorView b,
                         file.View("base_model.model.model.layers.0.mlp.down_proj.lora_B.weight"));
    EXPECT_EQ(down.b, std::vector<float>(b.as<float>(), b.as<float>() + b.num_elements()));
  }
}

TEST(PeftTest, RoundTripKeepsContentAndBytes) {
  for (const char* name : kGoldenModels) {
    const Golden golden(name);
    const std::string peft_dir = golden.AdapterDir("adapter_step8");
    ASSERT_OK_AND_ASSIGN(const ModelConfig model, LoadModelConfig(golden.model_dir()));
    ASSERT_OK_AND_ASSIGN(const HostAdapter adapter, ReadPeftAdapter(peft_dir, model));
    const TempDir dir;
    ASSERT_OK(WritePeftAdapter(adapter, dir.File("out")));
    ASSERT_OK_AND_ASSIGN(const HostAdapter again, ReadPeftAdapter(dir.File("out"), model));
    ExpectSameMaths(adapter, again);
    // The tensor file is the one that PEFT wrote, byte for byte.
    EXPECT_EQ(Content(dir.File("out/adapter_model.safetensors")),
              Content(peft_dir + "/adapter_model.safetensors"));
    ASSERT_OK(WritePeftAdapter(again, dir.File("out2")));
    for (const char* file : {"/adapter_config.json", "/adapter_model.safetensors"})
      EXPECT_EQ(Content(dir.File("out") + file), Content(dir.File("out2") + file));
  }
}

TEST(PeftTest, WritesTheMinimalConfig) {
  const ModelConfig model = TinyModel().ParsedConfig();
  HostAdapter adapter = RandomAdapter(model, {4}, 1);
  adapter.config.lora_dropout = 0.05;
  adapter.config.base_model_name_or_path = "some/model";
  const TempDir dir;
  ASSERT_OK(WritePeftAdapter(adapter, dir.File("out")));
  EXPECT_EQ(Content(dir.File("out/adapter_config.json")), R"({
  "alpha_pattern": {},
  "auto_mapping": null,
  "base_model_name_or_path": "some/model",
  "bias": "none",
  "fan_in_fan_out": false,
  "inference_mode": true,
  "init_lora_weights": true,
  "layers_pattern": null,
  "layers_to_transform": null,
  "lora_alpha": 8,
  "lora_dropout": 0.05,
  "modules_to_save": null,
  "peft_type": "LORA",
  "r": 4,
  "rank_pattern": {},
  "revision": null,
  "target_modules": [
    "down_proj",
    "gate_proj",
    "k_proj",
    "o_proj",
    "q_proj",
    "up_proj",
    "v_proj"
  ],
  "task_type": "CAUSAL_LM",
  "use_rslora": false
})");
}

TEST(PeftTest, MixedRanksAndAlphasGoThroughPatterns) {
  const ModelConfig model = TinyModel().ParsedConfig();
  HostAdapter adapter = RandomAdapter(model, {4, 2, 7}, 1);
  adapter.config.use_rslora = true;
  for (AdapterModule& module : adapter.modules) {
    if (module.id.layer == 1) module.alpha = 2.5;
    module.scaling = static_cast<float>(module.alpha / std::sqrt(double(module.rank)));
  }
  const TempDir dir;
  ASSERT_OK(WritePeftAdapter(adapter, dir.File("out")));
  ASSERT_OK_AND_ASSIGN(const HostAdapter again, ReadPeftAdapter(dir.File("out"), model));
  ExpectSameMaths(adapter, again);
  EXPECT_TRUE(again.config.use_rslora);
}

TEST(PeftTest, WritesAllOrNothing) {
  const ModelConfig model = TinyModel().ParsedConfig();
  const HostAdapter adapter = RandomAdapter(model, {4}, 1);
  const TempDir dir;
  ASSERT_OK(WritePeftAdapter(adapter, dir.File("out")));
  EXPECT_THAT(WritePeftAdapter(adapter, dir.File("out")),
              StatusIs(absl::StatusCode::kAlreadyExists, dir.File("out")));
  EXPECT_THAT(WritePeftAdapter(adapter, dir.File("missing/out")),
              StatusIs(absl::StatusCode::kNotFound, "missing"));
}

// Writes an adapter, then changes its config.
class PeftConfigTest : public testing::Test {
 protected:
  // Writes `adapter` with `keys` (`"key": value` lines) replacing those of the config.
  std::string Write(const HostAdapter& adapter, const std::string& old_text,
                    const std::string& new_text) {
    const std::string path = dir_.File("adapter" + std::to_string(count_++));
    EXPECT_OK(WritePeftAdapter(adapter, path));
    std::string config = Content(path + "/adapter_config.json");
    const size_t at = config.find(old_text);
    EXPECT_NE(at, std::string::npos) << old_text;
    config.replace(at, old_text.size(), new_text);
    EXPECT_OK(WriteFileAtomically(path + "/adapter_config.json", config));
    return path;
  }
  // The adapter of these targets alone.
  HostAdapter Only(const std::vector<std::string>& targets) const {
    HostAdapter adapter = RandomAdapter(model_, {4}, 1);
    std::vector<AdapterModule> kept;
    const absl::StatusOr<std::vector<ModuleId>> ids = MatchTargets(model_, targets);
    EXPECT_OK(ids.status());
    for (AdapterModule& module : adapter.modules) {
      for (const ModuleId id : *ids) {
        if (module.id == id) kept.push_back(module);
      }
    }
    adapter.modules = kept;
    adapter.config.target_modules = {"TARGETS"};
    return adapter;
  }

  const TempDir dir_;
  const ModelConfig model_ = TinyModel().ParsedConfig();
  int count_ = 0;
};

constexpr char kTargets[] = "[\n    \"TARGETS\"\n  ]";

TEST_F(PeftConfigTest, TargetsInEveryForm) {
  const struct {
    std::vector<std::string> modules;
    const char* json;
  } cases[] = {{{"all-linear"}, "\"all-linear\""},
               {{"all-linear"}, "\"All-Linear\""},
               {{"q_proj", "v_proj"}, R"(["v_proj", "q_proj"])"},
               {{"q_proj", "v_proj"}, R"(".*\\.(q|v)_proj")"},
               {{"q_proj", "v_proj"}, "null"},  // PEFT's default for llama and qwen2
               {{"q_proj"}, R"(["q_proj", "v_proj"], "exclude_modules": ["v_proj", "no_such"])"},
               {{"q_proj"}, R"(["q_proj", "v_proj"], "exclude_modules": ".*v_proj")"},
               {{"model.layers.1.mlp.up_proj"}, R"(["up_proj"], "layers_to_transform": [1])"},
               {{"model.layers.1.mlp.up_proj"}, R"(["up_proj"], "layers_to_transform": 1)"},
               {{"model.layers.1.mlp.up_proj"},
                R"(["up_proj"], "layers_to_transform": [1], "layers_pattern": "layers")"},
               // A module named in full is adapted in spite of layers_to_transform.
               {{"model.layers.0.mlp.up_proj"},
                R"(["model.layers.0.mlp.up_proj"], "layers_to_transform": 1)"}};
  for (const auto& c : cases) {
    const HostAdapter adapter = Only(c.modules);
    std::string path = Write(adapter, kTargets, c.json);
    // The key is there already, as null.
    std::string config = Content(path + "/adapter_config.json");
    if (std::string(c.json).find("layers_to_transform") != std::string::npos) {
      for (const char* key :
           {"  \"layers_to_transform\": null,\n", "  \"layers_pattern\": null,\n"}) {
        if (std::string(c.json).find(std::string(key).substr(3, 12)) == std::string::npos) continue;
        config.erase(config.find(key), std::string(key).size());
      }
      ASSERT_OK(WriteFileAtomically(path + "/adapter_config.json", config));
    }
    ASSERT_OK_AND_ASSIGN(const HostAdapter read, ReadPeftAdapter(path, model_));
    ExpectSameMaths(adapter, read);
  }
}

TEST_F(PeftConfigTest, PatternsAreRegularExpressionsAndTheFirstCounts) {
  HostAdapter adapter = RandomAdapter(model_, {4}, 1);
  for (AdapterModule& module : adapter.modules) {
    if (module.id.projection == Projection::kQ) module.alpha = module.id.layer == 0 ? 5 : 3;
    module.scaling = static_cast<float>(module.alpha / module.rank);
  }
  // In the order of the file, which is not that of the alphabet.
  const std::string path = Write(adapter, "\"alpha_pattern\": {", R"("unknown_key": {)");
  std::string config = Content(path + "/adapter_config.json");
  config.insert(1, R"("alpha_pattern": {"layers.0.*q_proj": 5, ".*.q_proj": 3},)");
  ASSERT_OK(WriteFileAtomically(path + "/adapter_config.json", config));
  ASSERT_OK_AND_ASSIGN(const HostAdapter read, ReadPeftAdapter(path, model_));
  ExpectSameMaths(adapter, read);
}

TEST_F(PeftConfigTest, IgnoresWhatChangesNothing) {
  const HostAdapter adapter = RandomAdapter(model_, {4}, 1);
  for (const char* keys :
       {R"("use_dora": false)", R"("loftq_config": {})", R"("megatron_core": "megatron.core")",
        R"("peft_version": "0.99")", R"("runtime_config": {"ephemeral_gpu_offload": false})",
        R"("qalora_group_size": 16)", R"("eva_config": null)", R"("trainable_token_indices": null)",
        R"("modules_to_save": [])", R"("some_future_key": {"a": [1]})",
        R"("init_lora_weights": "gaussian")", R"("auto_map": {"AutoModel": "evil.py"})"}) {
    std::string key(keys);
    key = key.substr(0, key.find(':'));
    std::string path = Write(adapter, "\"revision\": null", std::string(keys));
    std::string config = Content(path + "/adapter_config.json");
    // Take out the key's first appearance when the minimal config has it too.
    for (const char* own : {"  \"modules_to_save\": null,\n", "  \"init_lora_weights\": true,\n"}) {
      if (std::string(own).find(key) != std::string::npos)
        config.erase(config.find(own), std::string(own).size());
    }
    ASSERT_OK(WriteFileAtomically(path + "/adapter_config.json", config));
    ASSERT_OK_AND_ASSIGN(const HostAdapter read, ReadPeftAdapter(path, model_));
    ExpectSameMaths(adapter, read);
  }
}

TEST(PeftTest, SixteenBitTensorsAreTheSameAdapter) {
  const ModelConfig model = TinyModel().ParsedConfig();
  const HostAdapter adapter = RandomAdapter(model, {3}, 9);  // values are exact in bf16 and f16
  const TempDir dir;
  ASSERT_OK(WritePeftAdapter(adapter, dir.File("f32")));
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    TinyModel tensors;
    tensors.tensors.clear();
    for (const AdapterModule& m : adapter.modules) {
      const std::string name = "base_model.model." + ModulePath(m.id);
      const int64_t rank = m.rank;
      tensors.Set(name + ".lora_A.weight", {rank, static_cast<int64_t>(m.a.size()) / rank}, m.a,
                  dtype);
      tensors.Set(name + ".lora_B.weight", {static_cast<int64_t>(m.b.size()) / rank, rank}, m.b,
                  dtype);
    }
    const TempDir half;
    tensors.Write(half.path());
    std::filesystem::rename(half.File("model.safetensors"), half.File("adapter_model.safetensors"));
    half.Write("adapter_config.json", Content(dir.File("f32/adapter_config.json")));
    ASSERT_OK_AND_ASSIGN(const HostAdapter read, ReadPeftAdapter(half.path(), model));
    ExpectSameMaths(adapter, read);
  }
}

}  // namespace
}  // namespace lorad
