#include "engine/plan/memory_plan.h"

#include <algorithm>
#include <string>
#include <vector>

#include "engine/plan/presets.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using absl::StatusCode;
constexpr double kGB = 1e9;

MemoryRequest Request(const std::string& preset, PlanMode mode, BasePrecision precision) {
  MemoryRequest request;
  request.model = FindPreset(preset).value();
  request.mode = mode;
  request.precision = precision;
  if (mode == PlanMode::kLora || mode == PlanMode::kQlora) request.ranks.fill(16);
  return request;
}

double Gigabytes(const MemoryPlan& plan, MemoryKind kind) {
  return static_cast<double>(plan.bytes[static_cast<int>(kind)]) / kGB;
}

double Activations(const MemoryPlan& plan) {
  double sum = Gigabytes(plan, MemoryKind::kLogits);
  for (int kind = 0; kind < kNumMemoryKinds; ++kind)
    if (IsActivation(static_cast<MemoryKind>(kind)) &&
        static_cast<MemoryKind>(kind) != MemoryKind::kLogits)
      sum += static_cast<double>(plan.bytes[kind]) / kGB;
  return sum;
}

// Llama 65B in fp32 at one sequence of 2048 tokens: the figures every introduction gives.
TEST(MemoryPlanTest, TheTextbookFiguresOfLlama65B) {
  const auto near = [](double value, double expected) {
    EXPECT_NEAR(value, expected, 0.03 * expected);
  };
  MemoryRequest request = Request("llama-65b", PlanMode::kFull, BasePrecision::kFp32);
  request.account = MemoryAccount::kTextbook;
  ASSERT_OK_AND_ASSIGN(const MemoryPlan full, MakeMemoryPlan(request));
  near(Gigabytes(full, MemoryKind::kWeights), 260);
  near(Gigabytes(full, MemoryKind::kGradients), 260);
  near(Gigabytes(full, MemoryKind::kMoments), 520);
  near(Gigabytes(full, MemoryKind::kScores) + Gigabytes(full, MemoryKind::kSoftmax), 172);
  near(Activations(full), 250);
  near(static_cast<double>(full.total_bytes) / kGB, 1290);

  // Dettmers et al., "QLoRA", 2023: "more than 780 GB" for 16-bit fine-tuning.
  request.precision = BasePrecision::kBf16;
  ASSERT_OK_AND_ASSIGN(const MemoryPlan half, MakeMemoryPlan(request));
  near(Gigabytes(half, MemoryKind::kWeights) + Gigabytes(half, MemoryKind::kGradients) +
           Gigabytes(half, MemoryKind::kMoments),
       780);
  request.precision = BasePrecision::kFp32;

  request.mode = PlanMode::kInference;
  ASSERT_OK_AND_ASSIGN(const MemoryPlan inference, MakeMemoryPlan(request));
  near(Gigabytes(inference, MemoryKind::kWeights), 260);

  request.mode = PlanMode::kLora;
  request.ranks.fill(16);
  ASSERT_OK_AND_ASSIGN(const MemoryPlan lora, MakeMemoryPlan(request));
  const double left = static_cast<double>(lora.total_bytes) / static_cast<double>(full.total_bytes);
  EXPECT_GT(left, 0.30);
  EXPECT_LT(left, 0.42);  // "about a third": no gradients, no moments

  request = Request("llama-65b", PlanMode::kQlora, BasePrecision::kNf4);
  request.checkpointing = "every_layer";
  ASSERT_OK_AND_ASSIGN(const MemoryPlan qlora, MakeMemoryPlan(request));
  EXPECT_NEAR(qlora.bits_per_weight, 4.127, 0.0005);
  EXPECT_LT(static_cast<double>(qlora.total_bytes) / kGB, 48);
  request.double_quant = false;
  ASSERT_OK_AND_ASSIGN(const MemoryPlan single, MakeMemoryPlan(request));
  EXPECT_NEAR(single.bits_per_weight - qlora.bits_per_weight, 0.373, 0.0005);
}

// Device peaks that bench_train measured on an H200 (tests/bench/results/train_cuda_h200.jsonl).
TEST(MemoryPlanTest, IsNeverBelowWhatAnH200TookAndWithin5Percent) {
  const struct {
    const char* preset;
    BasePrecision precision;
    int64_t rank, batch, seq;
    const char* policy;
    OptimizerKind optimizer;
    int64_t device;
  } measured[] = {
      {"llama-3-8b", BasePrecision::kNf4, 16, 4, 2048, "every_layer",
       OptimizerKind::kPagedAdamW8Bit, 10171111424},
      {"llama-3-8b", BasePrecision::kNf4, 16, 4, 2048, "none", OptimizerKind::kAdamW, 39759761408},
      {"llama-3-8b", BasePrecision::kNf4, 16, 1, 512, "every_layer", OptimizerKind::kAdamW,
       7111856128},
      {"llama-3-8b", BasePrecision::kNf4, 16, 1, 8192, "every_layer", OptimizerKind::kAdamW,
       10775089152},
      {"llama-3-8b", BasePrecision::kNf4, 16, 4, 2048, "every_layer", OptimizerKind::kAdamW,
       10506653696},
      {"llama-3-8b", BasePrecision::kBf16, 16, 4, 2048, "every_layer", OptimizerKind::kAdamW,
       20814547712},
      {"llama-65b", BasePrecision::kNf4, 64, 1, 512, "offload", OptimizerKind::kPagedAdamW8Bit,
       41540458496},
      {"llama-65b", BasePrecision::kNf4, 64, 1, 512, "every_layer", OptimizerKind::kPagedAdamW8Bit,
       42194769920},
      {"llama-65b", BasePrecision::kNf4, 64, 1, 512, "every_layer", OptimizerKind::kPagedAdamW,
       42194767872},
      {"llama-65b", BasePrecision::kNf4, 64, 1, 16384, "offload", OptimizerKind::kPagedAdamW8Bit,
       47872413696},
  };
  for (const auto& one : measured) {
    SCOPED_TRACE(testing::Message() << one.preset << " " << one.batch << "x" << one.seq << " "
                                    << one.policy << " rank " << one.rank);
    MemoryRequest request = Request(one.preset, PlanMode::kLora, one.precision);
    request.ranks.fill(one.rank);
    request.batch = one.batch;
    request.sequence = one.seq;
    request.checkpointing = one.policy;
    request.optimizer = one.optimizer;
    ASSERT_OK_AND_ASSIGN(const MemoryPlan plan, MakeMemoryPlan(request));
    EXPECT_GE(plan.total_bytes, one.device);
    EXPECT_LE(static_cast<double>(plan.total_bytes), 1.05 * static_cast<double>(one.device));
  }
}

TEST(MemoryPlanTest, NonsenseIsRefusedByName) {
  const MemoryRequest good = Request("llama-7b", PlanMode::kQlora, BasePrecision::kNf4);
  EXPECT_OK(MakeMemoryPlan(good));
  const auto refuses = [&](auto change, const std::string& message) {
    MemoryRequest request = good;
    change(request);
    EXPECT_THAT(MakeMemoryPlan(request), StatusIs(StatusCode::kInvalidArgument, message));
    EXPECT_THAT(AdviseMemory(request, 1), StatusIs(StatusCode::kInvalidArgument, message));
  };
  refuses([](MemoryRequest& r) { r.model.num_layers = 0; }, "num_hidden_layers is 0");
  refuses([](MemoryRequest& r) { r.ranks.fill(1025); }, "rank of q_proj is 1025; it must be in [0");
  refuses([](MemoryRequest& r) { r.ranks[1] = -1; }, "rank of k_proj is -1");
  refuses([](MemoryRequest& r) { r.ranks.fill(0); }, "no linear has an adapter");
  refuses([](MemoryRequest& r) { r.batch = 0; }, "batch is 0; it must be in [1, 1048576]");
  refuses([](MemoryRequest& r) { r.sequence = INT64_MAX; }, "sequence is 9223372036854775807");
  refuses([](MemoryRequest& r) { r.batch = 1 << 20, r.sequence = 1 << 24; }, "can be planned for");
  refuses([](MemoryRequest& r) { r.quant_block = 48; }, "quant_block is 48");
  refuses([](MemoryRequest& r) { r.checkpointing = "some"; }, "known are none");
  refuses([](MemoryRequest& r) { r.mode = PlanMode::kFull; }, "k-bit weights are frozen");
  refuses([](MemoryRequest& r) { r.precision = BasePrecision::kFp16; }, "textbook's account");
  refuses([](MemoryRequest& r) { r.budget_bytes = -1; }, "budget_bytes is -1");
  refuses([](MemoryRequest& r) { r.mode = PlanMode::kInference; }, "`lorad --check` prints");
}

// At every bound at once nothing overflows: each sum is positive and the parts make the whole.
TEST(MemoryPlanTest, SumsAtTheBoundsDoNotOverflow) {
  MemoryRequest request = Request("llama-3-70b", PlanMode::kLora, BasePrecision::kBf16);
  request.model.vocab_size = 1 << 26;
  request.model.num_layers = 1 << 12;
  request.account = MemoryAccount::kTextbook;
  request.ranks.fill(1024);
  request.batch = 1 << 8;
  request.sequence = 1 << 14;
  for (const MemoryAccount account : {MemoryAccount::kTextbook, MemoryAccount::kEngine}) {
    request.account = account;
    const auto plan = MakeMemoryPlan(request);
    ASSERT_OK(plan);
    int64_t sum = 0;
    for (const int64_t bytes : plan->bytes) {
      EXPECT_GE(bytes, 0);
      sum += bytes;
    }
    EXPECT_EQ(sum, plan->total_bytes);
    EXPECT_GT(sum, int64_t{1} << 50);
  }
}

// Both accounts answer where not even the leanest segments fit, as a job does: inputs on the host.
TEST(MemoryPlanTest, AutoOffloadsWhereNothingFits) {
  MemoryRequest request = Request("llama-7b", PlanMode::kLora, BasePrecision::kBf16);
  request.checkpointing = "auto";
  request.budget_bytes = 1000;
  for (const MemoryAccount account : {MemoryAccount::kTextbook, MemoryAccount::kEngine}) {
    request.account = account;
    ASSERT_OK_AND_ASSIGN(const MemoryPlan plan, MakeMemoryPlan(request));
    EXPECT_TRUE(plan.checkpointing.offload);
    EXPECT_GT(plan.pinned_bytes, 0);
  }
}

TEST(MemoryPlanTest, CardsHoldATotal) {
  const std::vector<CardCount> cards = CountCards(1'290'000'000'000);
  ASSERT_EQ(cards.size(), 4);
  const int64_t counts[] = {54, 27, 17, 10};
  for (int i = 0; i < 4; ++i) EXPECT_EQ(cards[i].count, counts[i]) << cards[i].card;
}

TEST(MemoryAdviceTest, IsEmptyWhereAPlanFits) {
  const MemoryRequest request = Request("llama-7b", PlanMode::kQlora, BasePrecision::kNf4);
  ASSERT_OK_AND_ASSIGN(const auto advice, AdviseMemory(request, int64_t{200} << 30));
  EXPECT_TRUE(advice.empty());
}

// Each piece saves something, in order, and the last one fits; the plan is really that small.
TEST(MemoryAdviceTest, LeadsFromFullFineTuningTo48GB) {
  MemoryRequest request = Request("llama-65b", PlanMode::kFull, BasePrecision::kFp32);
  request.account = MemoryAccount::kTextbook;
  ASSERT_OK_AND_ASSIGN(const auto advice, AdviseMemory(request, 48'000'000'000));
  ASSERT_FALSE(advice.empty());
  ASSERT_OK_AND_ASSIGN(const MemoryPlan plan, MakeMemoryPlan(request));
  int64_t total = plan.total_bytes;
  for (const MemoryAdvice& one : advice) {
    EXPECT_LT(one.total_bytes, total) << one.cost;
    EXPECT_EQ(one.fits, &one == &advice.back()) << one.cost;
    total = one.total_bytes;
  }
  const auto says = [&](const std::string& name, const std::string& value) {
    return std::any_of(advice.begin(), advice.end(), [&](const MemoryAdvice& a) {
      return a.settings.front().name == name && a.settings.front().value == value;
    });
  };
  EXPECT_TRUE(says("mode", "lora"));
  EXPECT_TRUE(says("mode", "qlora"));
}

TEST(MemoryAdviceTest, LeavesTheBaseAloneWhereAsked) {
  MemoryRequest request = Request("llama-3-8b", PlanMode::kLora, BasePrecision::kBf16);
  ASSERT_OK_AND_ASSIGN(const auto advice, AdviseMemory(request, 8'000'000'000, true));
  for (const MemoryAdvice& one : advice) {
    EXPECT_NE(one.settings.front().name, "mode");
    EXPECT_NE(one.settings.front().name, "precision");
  }
  EXPECT_FALSE(advice.back().fits);  // the weights alone take 16 GB
}

TEST(MemoryAdviceTest, SaysWhenNothingFits) {
  const MemoryRequest request = Request("llama-65b", PlanMode::kQlora, BasePrecision::kNf4);
  ASSERT_OK_AND_ASSIGN(const auto advice, AdviseMemory(request, 24'000'000'000));
  ASSERT_FALSE(advice.empty());
  EXPECT_FALSE(advice.back().fits);
}

}  // namespace
}  // namespace lorad
