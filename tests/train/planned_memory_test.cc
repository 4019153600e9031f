// The planner's sums over shapes against the layout that a job runs over a measuring arena, and
// against what a step really uses.
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/model/random_model.h"
#include "engine/plan/memory_plan.h"
#include "engine/train/training_memory.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_model.h"

namespace lorad {
namespace {

constexpr int kThreads = 2;

struct Case {
  BasePrecision precision = BasePrecision::kNf4;
  PlanRanks ranks = {4, 4, 4, 4, 4, 4, 4};
  bool dropout = false;
  int64_t batch = 2, sequence = 24, accumulation = 1;
  std::string policy = "none";
  std::string optim = "adamw_torch";
};

ModelConfig Shape(int64_t layers, bool qwen) {
  TinyModelOptions options;
  options.layers = layers;
  options.hidden = 64;
  options.intermediate = 96;
  options.head_dim = 16;
  options.vocab = qwen ? 300 : 77;
  options.tied = qwen;
  options.attention_bias = qwen;
  return TinyModel(options).ParsedConfig();
}

MemoryRequest RequestFor(const ModelConfig& model, const Case& one) {
  MemoryRequest request;
  request.model = model;
  request.mode = PlanMode::kLora;
  request.precision = one.precision;
  request.ranks = one.ranks;
  request.dropout = one.dropout;
  request.batch = one.batch;
  request.sequence = one.sequence;
  request.accumulation = one.accumulation;
  request.checkpointing = one.policy;
  request.optimizer = ParseOptimizerKind(one.optim).value();
  request.device = PlanDevice::kCpu;
  request.cpu_threads = kThreads;
  return request;
}

// Adapters of the ranks asked for, zero where that does not matter.
HostAdapter AdapterFor(const ModelConfig& model, const PlanRanks& ranks) {
  HostAdapter adapter;
  for (int32_t layer = 0; layer < model.num_layers; ++layer) {
    for (const Projection p : kAllProjections) {
      const int32_t rank = static_cast<int32_t>(ranks[static_cast<int>(p)]);
      if (rank == 0) continue;
      AdapterModule module;
      module.id = {layer, p};
      module.rank = rank;
      module.scaling = 1;
      module.a.resize(rank * InFeatures(model, p));
      module.b.resize(rank * OutFeatures(model, p));
      adapter.modules.push_back(std::move(module));
    }
  }
  return adapter;
}

void ExpectEqual(const ModelConfig& model, const Case& one) {
  SCOPED_TRACE(absl::StrCat("layers ", model.num_layers, " precision ",
                            static_cast<int>(one.precision), " rank ", one.ranks[0], ",",
                            one.ranks[6], " ", one.batch, "x", one.sequence, " ", one.policy, " ",
                            one.optim, one.dropout ? " dropout" : ""));
  const MemoryRequest request = RequestFor(model, one);
  ASSERT_OK_AND_ASSIGN(const MemoryPlan plan, MakeMemoryPlan(request));
  const std::unique_ptr<Backend> backend = CreateCpuBackend({.num_threads = kThreads});
  ASSERT_OK_AND_ASSIGN(const auto weights, RandomModel(model, QuantOf(request), 1, *backend));
  const HostAdapter adapter = AdapterFor(model, one.ranks);
  PassOptions pass;
  pass.backward = true;
  pass.checkpointing = plan.checkpointing;
  pass.dropout = one.dropout;
  pass.max_seqlen = one.sequence;
  const int64_t tokens = one.batch * one.sequence;
  ASSERT_OK_AND_ASSIGN(
      const TrainingMemoryNeeds needs,
      MeasureTrainingMemory(*weights, *backend, adapter, pass,
                            {.micro_batch = tokens, .step = tokens * one.accumulation},
                            request.optimizer));
  EXPECT_EQ(plan.total_bytes, weights->weight_bytes() + needs.peak_bytes);
  EXPECT_EQ(plan.pinned_bytes, needs.pinned_bytes);
  EXPECT_EQ(plan.trained_parameters, adapter.num_parameters());
}

TEST(PlannedMemoryTest, IsTheJobsOwnLayoutToTheByte) {
  int cases = 0;
  for (const int64_t layers : {1, 2, 5}) {
    for (const bool qwen : {false, true}) {
      const ModelConfig model = Shape(layers, qwen);
      for (const char* policy : {"none", "every_layer", "every_k:2", "sqrt", "offload"}) {
        for (const char* optim :
             {"adamw_torch", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit"}) {
          Case one;
          one.policy = policy;
          one.optim = optim;
          one.accumulation = 1 + cases % 3;
          one.dropout = cases % 2 == 1;
          one.sequence = 8 + 13 * (cases % 4);
          ++cases;
          ExpectEqual(model, one);
        }
      }
    }
  }
  EXPECT_EQ(cases, 120);
}

TEST(PlannedMemoryTest, FollowsRanksTargetsAndPrecisions) {
  const ModelConfig model = Shape(3, true);
  const PlanRanks ranks[] = {{8, 0, 8, 0, 0, 0, 0}, {1, 2, 3, 4, 5, 6, 7}, {0, 0, 0, 0, 0, 0, 32}};
  for (const BasePrecision precision :
       {BasePrecision::kNf4, BasePrecision::kFp4, BasePrecision::kInt4, BasePrecision::kInt8,
        BasePrecision::kBf16}) {
    for (const PlanRanks& some : ranks) {
      Case one;
      one.precision = precision;
      one.ranks = some;
      one.policy = "every_layer";
      ExpectEqual(model, one);
    }
  }
}

}  // namespace
}  // namespace lorad
