// An engine over a model and adapters that are in no file answers as one over files does.
#include "engine/engine_parts.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "engine/lora/peft.h"
#include "engine/model/random_model.h"
#include "engine/quant/quant.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace lorad {
namespace {

using absl::StatusCode;

class WaitingSink final : public GenerateSink {
 public:
  void OnDelta(GenerateDelta delta) override {
    ids.insert(ids.end(), delta.ids.begin(), delta.ids.end());
  }
  void OnFinish(const GenerateResult&) override { ended.Notify(); }
  void OnError(const absl::Status& status) override {
    ADD_FAILURE() << status;
    ended.Notify();
  }

  std::vector<int32_t> ids;
  absl::Notification ended;
};

class EnginePartsTest : public testing::Test {
 protected:
  void SetUp() override {
    CpuBackendOptions options;
    options.num_threads = 1;
    device_.backend = CreateCpuBackend(options);
    const ModelConfig config = TinyModel().ParsedConfig();
    auto model = RandomModel(config, *ParseQuantSpec("nf4"), /*seed=*/3, *device_.backend);
    ASSERT_OK(model);
    model_ = *std::move(model);
    adapter_ = RandomAdapter(config, {2, 4}, /*seed=*/5);
  }

  std::unique_ptr<Engine> Create(AdapterReader read) {
    EngineConfig config;
    config.model_dir = "tiny";
    config.memory_limit_bytes = int64_t{64} << 20;
    auto engine = CreateEngine(config, {device_, model_, std::move(read)});
    EXPECT_OK(engine);
    return *std::move(engine);
  }
  std::vector<int32_t> Generate(Engine& engine, const std::string& adapter) {
    GenerateRequest request;
    request.prompt = {1, 2, 3};
    request.adapter_id = adapter;
    request.sampling.temperature = 0;
    request.max_tokens = 24;
    request.ignore_eos = true;
    auto sink = std::make_shared<WaitingSink>();
    EXPECT_OK(engine.Generate(request, absl::InfiniteFuture(), sink));
    sink->ended.WaitForNotification();
    return sink->ids;
  }
  void RemoveLimits() {
    for (int tag = 0; tag < kNumMemoryTags; ++tag)
      device_.backend->allocator().SetLimit(static_cast<MemoryTag>(tag), 0);
  }

  SelectedDevice device_;
  std::shared_ptr<const Model> model_;
  HostAdapter adapter_;
};

TEST_F(EnginePartsTest, AdaptersOfTheReaderAnswerAsFilesDo) {
  const TempDir dir;
  ASSERT_OK(WritePeftAdapter(adapter_, dir.File("adapter")));
  std::vector<int32_t> base, from_file;
  std::string id;
  {
    const std::unique_ptr<Engine> engine = Create(nullptr);
    EXPECT_EQ(engine->model().name, "tiny");
    EXPECT_EQ(engine->tokenizer(), nullptr);
    EXPECT_EQ(engine->Stats().preemptions, 0);
    const auto info = engine->RegisterAdapter(dir.File("adapter"));
    ASSERT_OK(info);
    id = info->id;
    base = Generate(*engine, "");
    from_file = Generate(*engine, id);
    ASSERT_EQ(from_file.size(), 24u);
    ASSERT_NE(from_file, base);
  }
  RemoveLimits();
  const std::unique_ptr<Engine> engine =
      Create([this](const std::string& name) -> absl::StatusOr<HostAdapter> {
        if (name != "mine") return absl::NotFoundError(name);
        return adapter_;
      });
  EXPECT_EQ(engine->RegisterAdapter("other").status().code(), StatusCode::kNotFound);
  const auto info = engine->RegisterAdapter("mine");
  ASSERT_OK(info);
  EXPECT_EQ(info->id, id);
  EXPECT_EQ(Generate(*engine, ""), base);
  EXPECT_EQ(Generate(*engine, id), from_file);
  // Read again after it has left memory.
  ASSERT_OK(engine->UnloadAdapter(id, absl::InfiniteFuture()));
  EXPECT_EQ(Generate(*engine, id), from_file);
}

TEST_F(EnginePartsTest, TheConfigurationIsChecked) {
  EngineConfig config;
  config.model_dir = "tiny";
  config.max_batch_tokens = 0;
  EXPECT_EQ(CreateEngine(config, {device_, model_, nullptr}).status().code(),
            StatusCode::kInvalidArgument);
  config.max_batch_tokens = 64;
  config.memory_limit_bytes = 1;
  EXPECT_EQ(CreateEngine(config, {device_, model_, nullptr}).status().code(),
            StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace lorad
