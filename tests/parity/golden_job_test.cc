// Fine-tuning jobs on CUDA: against transformers and PEFT, against themselves, and what they need.
#include <cmath>
#include <iostream>
#include <string>
#include <vector>

#include "engine/lora/peft.h"
#include "engine/model/modules.h"
#include "engine/train/data_stream.h"
#include "engine/train/step.h"
#include "engine/train/training_memory.h"
#include "gtest/gtest.h"
#include "tests/parity/skip_without_gpu.h"
#include "tests/support/full_forward.h"
#include "tests/support/status_matchers.h"
#include "tests/train/training_fixture.h"

namespace lorad {
namespace {

// The references are fp32; here every activation is rounded to bf16, by at most 2^-8 of itself.
// About thirty roundings in a row (three layers of ten) that do not know of each other err by
// sqrt(30) * 2^-8 / sqrt(3) = 1.2 % of a typical activation. A loss is a mean over a hundred
// targets of a difference of logits, so ten times better; a gradient passes the layers twice.
constexpr double kLogits = 0.05;  // of the largest logit
constexpr double kLoss = 5e-3;
constexpr double kGradient = 0.05;  // of the norm, whole and of each tensor
// Adam's first steps are learning_rate * sign(gradient) wherever a gradient is small, and signs of
// gradients below the noise are as good as random.
constexpr double kUpdate = 0.25;

double Norm(const std::vector<float>& values) {
  double sum = 0;
  for (const float value : values) sum += double{value} * value;
  return std::sqrt(sum);
}

// ||a - b|| / ||b||
double RelativeNorm(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size() || a.empty()) return INFINITY;
  std::vector<float> difference(a.size());
  for (size_t i = 0; i < a.size(); ++i) difference[i] = a[i] - b[i];
  return Norm(difference) / Norm(b);
}

class GoldenJobTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<Backend>> backend = CreateCudaBackend(0);
    SKIP_WITHOUT_GPU(backend.status());
    fixture_ = std::make_unique<TrainingFixture>(GetParam(), *std::move(backend));
  }

  std::string Digest(const TrainingSpec& spec) {
    const auto sink = fixture_->Run(spec);
    EXPECT_TRUE(sink->result.has_value()) << sink->error;
    return sink->result ? sink->result->adapter_id : "";
  }

  std::unique_ptr<TrainingFixture> fixture_;
};

TEST_P(GoldenJobTest, LossesGradientNormsAndTheAdapter) {
  const TrainingSpec spec = fixture_->GoldenSpec(fixture_->WriteGoldenRows());
  const auto sink = fixture_->Run(spec);
  ASSERT_TRUE(sink->result.has_value()) << sink->error;
  const std::vector<float> losses = fixture_->golden().Floats("losses"),
                           norms = fixture_->golden().Floats("grad_norms");
  ASSERT_EQ(sink->steps.size(), losses.size());
  double worst_loss = 0, worst_norm = 0;
  for (size_t i = 0; i < losses.size(); ++i) {
    EXPECT_NEAR(sink->steps[i].loss, losses[i], kLoss * losses[i]) << "step " << i;
    EXPECT_NEAR(sink->steps[i].grad_norm, norms[i], kGradient * norms[i]) << "step " << i;
    worst_loss = std::max(worst_loss, std::abs(sink->steps[i].loss / losses[i] - 1));
    worst_norm = std::max(worst_norm, std::abs(sink->steps[i].grad_norm / norms[i] - 1));
  }
  const ModelConfig& config = fixture_->model()->config();
  std::vector<float> update, expected;
  ASSERT_OK_AND_ASSIGN(const HostAdapter found, ReadPeftAdapter(spec.output_dir, config));
  ASSERT_OK_AND_ASSIGN(const HostAdapter init,
                       ReadPeftAdapter(fixture_->golden().AdapterDir("adapter_init"), config));
  ASSERT_OK_AND_ASSIGN(const HostAdapter trained,
                       ReadPeftAdapter(fixture_->golden().AdapterDir("adapter_step8"), config));
  for (size_t m = 0; m < init.modules.size(); ++m) {
    const AdapterModule &start = init.modules[m], &ours = found.modules[m],
                        &theirs = trained.modules[m];
    for (size_t i = 0; i < start.a.size(); ++i) {
      update.push_back(ours.a[i] - start.a[i]);
      expected.push_back(theirs.a[i] - start.a[i]);
    }
    for (size_t i = 0; i < start.b.size(); ++i) {
      update.push_back(ours.b[i] - start.b[i]);
      expected.push_back(theirs.b[i] - start.b[i]);
    }
  }
  const double error = RelativeNorm(update, expected);
  std::cout << "largest relative error of a loss " << worst_loss << ", of a gradient norm "
            << worst_norm << ", of the update " << error << "\n";
  EXPECT_LT(error, kUpdate);
}

// The adapter trained on CUDA, run by the CPU, against the reference's after eight steps.
TEST_P(GoldenJobTest, TheAdapterGivesTheReferencesLogits) {
  const TrainingSpec spec = fixture_->GoldenSpec(fixture_->WriteGoldenRows());
  const auto sink = fixture_->Run(spec);
  ASSERT_TRUE(sink->result.has_value()) << sink->error;
  TrainingFixture cpu(GetParam());
  PackedSequences batch;
  for (const std::vector<int32_t>& row : cpu.GoldenRows("input_ids")) batch.Add(row);
  const auto logits_of = [&](const std::string& dir) {
    const absl::StatusOr<HostAdapter> adapter = ReadPeftAdapter(dir, cpu.model()->config());
    EXPECT_OK(adapter.status());
    TestLora lora(*adapter, cpu.backend(), batch.num_tokens());
    auto forward = FullForward::Create(cpu.model(), cpu.backend(), batch, adapter->config.r);
    return *(*forward)->Logits(&lora);
  };
  const std::vector<float> expected = cpu.golden().Floats("logits_nf4_lora_step8");
  const double error = RelativeError(logits_of(spec.output_dir), expected);
  std::cout << "logits_nf4_lora_step8: relative error " << error << "\n";
  EXPECT_LT(error, kLogits);
  EXPECT_GT(RelativeError(logits_of(cpu.golden().AdapterDir("adapter_init")), expected), error);
}

TEST_P(GoldenJobTest, FirstGradientsAreTheReferences) {
  Backend& backend = fixture_->backend();
  const Model& model = *fixture_->model();
  const auto rows = fixture_->WriteGoldenRows();
  ASSERT_OK_AND_ASSIGN(
      const HostAdapter init,
      ReadPeftAdapter(fixture_->golden().AdapterDir("adapter_init"), model.config()));
  ASSERT_OK_AND_ASSIGN(const TokenDataset data, ReadDataset(rows, 48, model.config(), nullptr));
  StepInput input;
  input.micro_batches.push_back(MakeMicroBatch(data, std::vector<uint32_t>{0, 1, 2}));
  TokenCounts tokens;
  tokens.micro_batch = tokens.step = input.micro_batches[0].num_tokens();
  const PassOptions pass{.backward = true};
  ASSERT_OK_AND_ASSIGN(const TrainingMemoryNeeds needs,
                       MeasureTrainingMemory(model, backend, init, pass, tokens));
  ASSERT_OK_AND_ASSIGN(const DeviceBuffer block,
                       backend.allocator().Allocate(needs.peak_bytes, MemoryTag::kTraining));
  Arena arena("test", block.data(), block.size_bytes());
  ASSERT_OK_AND_ASSIGN(TrainingMemory memory, LayOutTrainingMemory(init, backend, tokens, arena));
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Stream> stream, backend.CreateStream());
  ASSERT_OK(memory.adapter.SetWeights(init, *stream));
  TrainStep step(model, backend, memory.adapter, pass, {}, memory.loss, memory.norm);
  ASSERT_OK(step.Begin(std::move(input), arena, *stream));
  for (bool more = true; more;) {
    ASSERT_OK_AND_ASSIGN(more, step.Advance(*stream));
  }
  const float loss = fixture_->golden().Floats("losses")[0];
  EXPECT_NEAR(step.outcome().loss, loss, kLoss * loss);

  std::vector<float> all, all_expected;
  double worst = 0;
  for (const TrainableAdapter::Module& module : memory.adapter.modules()) {
    const std::string name = "grad0." + ModulePath(module.id);
    for (const auto& [gradient, suffix] :
         {std::pair{module.da, ".lora_A.weight"}, std::pair{module.db, ".lora_B.weight"}}) {
      ASSERT_OK_AND_ASSIGN(const std::vector<float> values,
                           memory.adapter.ToHost(gradient, *stream));
      const std::vector<float> expected = fixture_->golden().Floats(name + suffix);
      const double error = RelativeNorm(values, expected);
      EXPECT_LT(error, kGradient) << name << suffix;
      worst = std::max(worst, error);
      all.insert(all.end(), values.begin(), values.end());
      all_expected.insert(all_expected.end(), expected.begin(), expected.end());
    }
  }
  std::cout << "grad0: relative error " << RelativeNorm(all, all_expected)
            << ", largest of a tensor " << worst << "\n";
  EXPECT_LT(RelativeNorm(all, all_expected), kGradient);
}

// Packed, accumulated, shuffled, with dropout: the same seed gives the same adapter, and no
// checkpointing policy or paging changes it.
TEST_P(GoldenJobTest, TwoRunsAndAllPoliciesGiveOneAdapter) {
  const auto digest = [&](const std::string& policy, const std::string& optim, uint64_t seed) {
    TrainingSpec spec = fixture_->SmallSpec();
    spec.lora.lora_dropout = 0.1;
    spec.activation_checkpointing = policy;
    spec.optim = optim;
    spec.seed = seed;
    return Digest(spec);
  };
  const std::string first = digest("none", "adamw_torch", 11);
  EXPECT_EQ(digest("none", "adamw_torch", 11), first);
  for (const char* policy : {"every_layer", "every_k:2", "offload", "auto"})
    EXPECT_EQ(digest(policy, "adamw_torch", 11), first) << policy;
  EXPECT_EQ(digest("every_layer", "paged_adamw_32bit", 11), first);
  EXPECT_EQ(digest("none", "adamw_8bit", 11), digest("none", "paged_adamw_8bit", 11));
  EXPECT_NE(digest("none", "adamw_torch", 12), first);
}

TEST_P(GoldenJobTest, ThePeakIsThePlans) {
  Allocator& allocator = fixture_->backend().allocator();
  const TrainingSpec spec = fixture_->SmallSpec();
  ASSERT_OK_AND_ASSIGN(const auto job,
                       TrainingJob::Create(spec, fixture_->model(), nullptr, fixture_->backend()));
  const int64_t planned = job->plan().peak_bytes;
  const auto sink = fixture_->Run(spec);
  ASSERT_TRUE(sink->result.has_value()) << sink->error;
  EXPECT_EQ(allocator.Usage(MemoryTag::kTraining).peak_bytes, planned);
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenJobTest, testing::ValuesIn(kGoldenModels),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

}  // namespace
}  // namespace lorad
