// Serving on CUDA: an answer is the same to the bit alone and in a batch of as many adapters as
// requests, as the CPU's tests of engine/sched have it.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/synchronization/notification.h"
#include "engine/device/backend.h"
#include "engine/engine_parts.h"
#include "gtest/gtest.h"
#include "tests/parity/skip_without_gpu.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace lorad {
namespace {

constexpr int kAdapters = 32;
constexpr int32_t kAnswer = 40;

class Answer final : public GenerateSink {
 public:
  void OnDelta(GenerateDelta delta) override {
    ids.insert(ids.end(), delta.ids.begin(), delta.ids.end());
    for (const TokenLogprob& token : delta.logprobs) logprobs.push_back(token.logprob);
  }
  void OnFinish(const GenerateResult&) override { ended.Notify(); }
  void OnError(const absl::Status& status) override {
    error = status;
    ended.Notify();
  }

  std::vector<int32_t> ids;
  std::vector<float> logprobs;
  absl::Status error;
  absl::Notification ended;
};

// Shapes that the kernels' fast layouts take, small enough for a test.
class ServingCompanyTest : public testing::TestWithParam<double> {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<Backend>> backend = CreateCudaBackend(0);
    SKIP_WITHOUT_GPU(backend.status());
    TinyModel tiny(QuickKernelsModel());
    tiny.config["max_position_embeddings"] = "1024";
    tiny.Write(dir_.path());
    std::shared_ptr<Backend> device = *std::move(backend);
    ASSERT_OK_AND_ASSIGN(auto model, Model::Load(dir_.path(), QuantSpec{}, *device));
    EngineConfig config;
    config.model_dir = "tiny";
    config.memory_limit_bytes = int64_t{2} << 30;
    config.kv_cache_tokens = 64 * 512;
    config.prefix_cache = false;  // or a prompt would be run once for both answers
    config.itl_target_ms = GetParam();
    ASSERT_OK_AND_ASSIGN(
        engine_, CreateEngine(config, {.device = {device, ""},
                                       .model = std::move(model),
                                       .read_adapter =
                                           [parsed = tiny.ParsedConfig()](const std::string& name) {
                                             return Adapter(parsed, name);
                                           }}));
    for (int i = 0; i < kAdapters; ++i) {
      ASSERT_OK_AND_ASSIGN(const AdapterInfo info, engine_->RegisterAdapter(std::to_string(i)));
      adapters_.push_back(info.id);
    }
  }
  // Ranks 4 to 64; a name is a number.
  static absl::StatusOr<HostAdapter> Adapter(const ModelConfig& config, const std::string& name) {
    int number = 0;
    if (!absl::SimpleAtoi(name, &number)) return absl::NotFoundError(name);
    return RandomAdapter(config, {4 << number % 5}, 100 + static_cast<uint64_t>(number));
  }
  // Prompts of 3 to 373 tokens: one chunk and two, some of fewer rows than a tile.
  GenerateRequest Request(int number) const {
    GenerateRequest request;
    for (int i = 0; i < 3 + 37 * (number % 11); ++i)
      request.prompt.push_back((7919 * (number + 1) + 104729 * i) % 2048);
    request.adapter_id = number < kAdapters ? adapters_[number] : "";
    request.sampling.temperature = 0;
    request.max_tokens = kAnswer;
    request.ignore_eos = true;
    request.logprobs = 0;
    return request;
  }
  std::shared_ptr<Answer> Alone(int number) const {
    auto answer = std::make_shared<Answer>();
    EXPECT_OK(engine_->Generate(Request(number), absl::InfiniteFuture(), answer));
    EXPECT_TRUE(Ends(*answer)) << "request " << number << " alone";
    return answer;
  }
  bool Ends(Answer& answer) const {
    if (answer.ended.WaitForNotificationWithTimeout(absl::Seconds(20))) return true;
    const EngineStats stats = engine_->Stats();
    ADD_FAILURE() << stats.queued_requests << " requests wait, " << stats.running_requests
                  << " run, " << stats.adapters_device << " adapters are on the device, "
                  << stats.adapters_host << " on the host; healthy: " << stats.healthy;
    return false;
  }

  TempDir dir_;
  std::unique_ptr<Engine> engine_;
  std::vector<std::string> adapters_;
};
// Without a target prompts are matrices, with a short one they are run row by row.
INSTANTIATE_TEST_SUITE_P(, ServingCompanyTest, testing::Values(0, 10),
                         [](const auto& info) { return info.param == 0 ? "Matrix" : "Rows"; });

TEST_P(ServingCompanyTest, AloneAndAmongThirtyTwoAdapters) {
  std::vector<std::shared_ptr<Answer>> alone, together;
  for (int i = 0; i <= kAdapters; ++i) {
    alone.push_back(Alone(i));
    ASSERT_FALSE(HasFailure());
  }
  std::vector<Submission> submissions;
  for (int i = 0; i <= kAdapters; ++i) {
    together.push_back(std::make_shared<Answer>());
    submissions.push_back({Request(i), together.back()});
  }
  ASSERT_OK(engine_->GenerateAll(std::move(submissions), absl::InfiniteFuture()));
  int different = 0;
  for (int i = 0; i <= kAdapters; ++i) {
    ASSERT_TRUE(Ends(*together[i])) << "request " << i << " among the others";
    ASSERT_OK(together[i]->error);
    ASSERT_OK(alone[i]->error);
    EXPECT_EQ(together[i]->ids.size(), size_t{kAnswer});
    EXPECT_EQ(together[i]->ids, alone[i]->ids) << "request " << i;
    EXPECT_EQ(together[i]->logprobs, alone[i]->logprobs) << "request " << i;
    different += i > 0 && together[i]->ids != together[i - 1]->ids;
  }
  EXPECT_GT(different, kAdapters / 2);  // the adapters and prompts do matter
}

}  // namespace
}  // namespace lorad
