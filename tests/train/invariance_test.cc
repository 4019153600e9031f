// What must not change the gradient: how a batch is cut, packed or recomputed.
#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "engine/plan/activation_checkpointing.h"
#include "engine/train/data_stream.h"
#include "engine/train/evaluation.h"
#include "engine/train/lora_init.h"
#include "engine/train/step.h"
#include "engine/train/training_memory.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/train/training_fixture.h"

namespace lorad {
namespace {

constexpr int64_t kLayers = 3;  // of the fixture's model
constexpr ActivationCheckpointing kAllKept = {.layers_per_segment = kLayers, .keeps_act = true};
constexpr ActivationCheckpointing kPolicies[] = {{.layers_per_segment = 1},
                                                 {.layers_per_segment = 2},
                                                 {.layers_per_segment = 1, .kept_layers = 2},
                                                 {.layers_per_segment = 1, .offload = true}};

struct StepResult {
  StepOutcome outcome;
  std::vector<float> gradient, params;
  int64_t peak_bytes = 0;
  int slices = 0;
};

class InvarianceTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(data_, ReadDataset(fixture_.WriteRandomRows("rows.jsonl", 12, 5), 64,
                                            fixture_.model()->config(), nullptr));
    LoraSpec spec;
    spec.r = 4;
    ASSERT_OK_AND_ASSIGN(adapter_, InitialAdapter(spec, fixture_.model()->config(), 3));
    for (AdapterModule& module : adapter_.modules)  // B must not be zero, or A has no gradient
      for (size_t i = 0; i < module.b.size(); ++i)
        module.b[i] = 0.01f * static_cast<float>(static_cast<int>(i * 7 % 11) - 5);
  }

  // One optimiser step over these groups of samples, one micro-batch each.
  StepResult Step(const std::vector<std::vector<uint32_t>>& groups,
                  const ActivationCheckpointing& checkpointing, float dropout) {
    StepResult result;
    EXPECT_OK(RunStep(groups, checkpointing, dropout, result));
    return result;
  }

  absl::Status RunStep(const std::vector<std::vector<uint32_t>>& groups,
                       const ActivationCheckpointing& checkpointing, float dropout,
                       StepResult& result) {
    Backend& backend = fixture_.backend();
    const Model& model = *fixture_.model();
    StepInput input;
    for (const auto& group : groups) input.micro_batches.push_back(MakeMicroBatch(data_, group));
    input.dropout.probability = dropout;
    input.dropout.seed = 9;
    input.dropout.step = 4;
    input.learning_rate = learning_rate_;
    TokenCounts tokens;
    for (const MicroBatch& batch : input.micro_batches) {
      tokens.micro_batch = std::max(tokens.micro_batch, batch.num_tokens());
      tokens.step += batch.num_tokens();
    }
    PassOptions pass{.backward = true, .checkpointing = checkpointing, .dropout = dropout > 0};
    ASSIGN_OR_RETURN(const TrainingMemoryNeeds needs,
                     MeasureTrainingMemory(model, backend, adapter_, pass, tokens, kind_));
    ASSIGN_OR_RETURN(const DeviceBuffer block,
                     backend.allocator().Allocate(needs.peak_bytes, MemoryTag::kTraining));
    Arena arena("test", block.data(), block.size_bytes());
    ASSIGN_OR_RETURN(TrainingMemory memory,
                     LayOutTrainingMemory(adapter_, backend, tokens, arena, kind_));
    ASSIGN_OR_RETURN(const std::unique_ptr<Stream> stream, backend.CreateStream());
    RETURN_IF_ERROR(memory.adapter.SetWeights(adapter_, *stream));
    ASSIGN_OR_RETURN(
        const std::unique_ptr<InputOffload> offload,
        CreateInputOffload(model.config(), backend, checkpointing, tokens.micro_batch));
    pass.offload = offload.get();
    TrainStep step(model, backend, memory.adapter, pass, optimizer_, memory.loss, memory.norm);
    RETURN_IF_ERROR(step.Begin(std::move(input), arena, *stream));
    for (bool more = true; more; ++result.slices) {
      ASSIGN_OR_RETURN(more, step.Advance(*stream));
    }
    result.outcome = step.outcome();
    ASSIGN_OR_RETURN(result.params, memory.adapter.ToHost(memory.adapter.params(), *stream));
    ASSIGN_OR_RETURN(result.gradient, memory.adapter.ToHost(memory.adapter.grads(), *stream));
    // The plan allows for samples of two tokens, the least there can be, in cu_seqlens.
    EXPECT_LE(arena.peak_bytes(), needs.peak_bytes);
    EXPECT_GE(arena.peak_bytes(), needs.peak_bytes - 2 * tokens.micro_batch - Arena::kAlignment);
    result.peak_bytes = needs.peak_bytes;
    return absl::OkStatus();
  }

  double EvalLoss(const PackingOptions& packing) {
    Backend& backend = fixture_.backend();
    const TokenCounts tokens{
        .micro_batch = 0, .step = 0, .eval_micro_batch = MaxMicroBatchTokens(data_, packing)};
    std::vector<char> block(int64_t{64} << 20);
    Arena arena("test", block.data(), static_cast<int64_t>(block.size()));
    auto memory = *LayOutTrainingMemory(adapter_, backend, tokens, arena);
    const auto stream = *backend.CreateStream();
    EXPECT_OK(memory.adapter.SetWeights(adapter_, *stream));
    Evaluation evaluation(*fixture_.model(), backend, memory.adapter, data_, packing, memory.loss);
    evaluation.Begin(arena);
    int64_t embedded = 0;
    for (bool more = true; more;) {
      const Slice slice = evaluation.next_slice();
      if (slice.kind == SliceKind::kEmbedding) embedded += slice.tokens;
      absl::StatusOr<bool> advanced = evaluation.Advance(*stream);
      EXPECT_OK(advanced);
      more = advanced.ok() && *advanced;
    }
    EXPECT_EQ(embedded, data_.begins.back()) << "slices are timed by their rows";
    return evaluation.loss();
  }

  static std::vector<std::vector<uint32_t>> InGroups(uint32_t samples, uint32_t size) {
    std::vector<std::vector<uint32_t>> groups;
    for (uint32_t s = 0; s < samples; ++s) {
      if (s % size == 0) groups.emplace_back();
      groups.back().push_back(s);
    }
    return groups;
  }

  static double RelativeL2(const std::vector<float>& x, const std::vector<float>& reference) {
    double error = 0, norm = 0;
    for (size_t i = 0; i < reference.size(); ++i) {
      error += std::pow(double{x[i]} - reference[i], 2);
      norm += std::pow(double{reference[i]}, 2);
    }
    EXPECT_GT(norm, 0);
    return std::sqrt(error / norm);
  }

  TrainingFixture fixture_{"llama-gqa"};
  TokenDataset data_;
  HostAdapter adapter_;
  double learning_rate_ = 0;
  OptimizerOptions optimizer_;
  OptimizerKind kind_ = OptimizerKind::kAdamW;
};

// Sums of 12 samples' gradients in another order: fp32 rounding, 6e-8 a term, far below 1e-5.
TEST_F(InvarianceTest, AccumulationEqualsOneBatch) {
  for (const float dropout : {0.0f, 0.3f}) {
    const StepResult whole = Step(InGroups(12, 12), kAllKept, dropout);
    for (const uint32_t size : {1u, 3u, 5u}) {
      const StepResult cut = Step(InGroups(12, size), kAllKept, dropout);
      EXPECT_LT(RelativeL2(cut.gradient, whole.gradient), 1e-5) << size << " at " << dropout;
      EXPECT_NEAR(cut.outcome.loss, whole.outcome.loss, 1e-6 * whole.outcome.loss);
      EXPECT_NEAR(cut.outcome.grad_norm, whole.outcome.grad_norm, 1e-5 * whole.outcome.grad_norm);
      EXPECT_EQ(cut.outcome.target_tokens, whole.outcome.target_tokens);
    }
  }
}

TEST_F(InvarianceTest, OrderWithinAMicroBatchDoesNotMatter) {
  std::vector<uint32_t> forward(12), backward(12);
  std::iota(forward.begin(), forward.end(), 0u);
  std::iota(backward.rbegin(), backward.rend(), 0u);
  const StepResult one = Step({forward}, kAllKept, 0.3f), other = Step({backward}, kAllKept, 0.3f);
  EXPECT_LT(RelativeL2(other.gradient, one.gradient), 1e-5);
}

TEST_F(InvarianceTest, CheckpointingPoliciesAreBitEqual) {
  for (const float dropout : {0.0f, 0.3f}) {
    const StepResult kept = Step(InGroups(12, 6), kAllKept, dropout);
    for (const ActivationCheckpointing& policy : kPolicies) {
      SCOPED_TRACE(Describe(policy, kLayers));
      const StepResult recomputed = Step(InGroups(12, 6), policy, dropout);
      EXPECT_EQ(recomputed.gradient, kept.gradient);
      EXPECT_EQ(recomputed.outcome.loss, kept.outcome.loss);
      EXPECT_LT(recomputed.peak_bytes, kept.peak_bytes);
      EXPECT_GT(recomputed.slices, kept.slices);
    }
  }
}

TEST_F(InvarianceTest, DropoutChangesTheGradientAndNotItsScale) {
  const StepResult none = Step(InGroups(12, 12), kAllKept, 0),
                   some = Step(InGroups(12, 12), kAllKept, 0.1f);
  const double difference = RelativeL2(some.gradient, none.gradient);
  EXPECT_GT(difference, 0.01);
  EXPECT_LT(difference, 1);
}

TEST_F(InvarianceTest, PackedAndUnpackedLossesAreEqual) {
  const double one_by_one = EvalLoss({.packing = false, .max_seq_length = 64});
  ASSERT_GT(one_by_one, 0);
  for (const int32_t rows : {1, 2, 4}) {
    const PackingOptions packed{.packing = true, .max_seq_length = 64, .micro_batch_size = rows};
    EXPECT_NEAR(EvalLoss(packed), one_by_one, 1e-6 * one_by_one);
    const PackingOptions side_by_side{
        .packing = false, .max_seq_length = 64, .micro_batch_size = rows};
    EXPECT_NEAR(EvalLoss(side_by_side), one_by_one, 1e-6 * one_by_one);
  }
}

// Ranks of a module's own, as a rank_pattern gives them: what is zero in A and in B gets no
// gradient, so cutting it off leaves everything else alone.
TEST_F(InvarianceTest, CuttingOffZerosOfTheRankChangesNothing) {
  HostAdapter mixed = adapter_;
  for (size_t i = 0; i < adapter_.modules.size(); i += 2) {
    AdapterModule &padded = adapter_.modules[i], &cut = mixed.modules[i];
    const int64_t in = static_cast<int64_t>(padded.a.size()) / padded.rank;
    cut.rank = 2;
    cut.a.resize(2 * in);
    cut.b.clear();
    std::fill(padded.a.begin() + 2 * in, padded.a.end(), 0.0f);
    for (size_t b = 0; b < padded.b.size(); ++b) {
      if (b % 4 < 2) {
        cut.b.push_back(padded.b[b]);
      } else {
        padded.b[b] = 0;
      }
    }
  }
  const StepResult padded = Step(InGroups(12, 4), kAllKept, 0);
  adapter_ = std::move(mixed);
  const StepResult cut = Step(InGroups(12, 4), kAllKept, 0);
  ASSERT_GT(padded.outcome.grad_norm, 0);
  ASSERT_LT(cut.gradient.size(), padded.gradient.size());
  EXPECT_NEAR(cut.outcome.loss, padded.outcome.loss, 1e-6 * padded.outcome.loss);
  EXPECT_NEAR(cut.outcome.grad_norm, padded.outcome.grad_norm, 1e-5 * padded.outcome.grad_norm);
}

// A slice is at most a part of a layer, so that decoding can run in between.
TEST_F(InvarianceTest, AStepIsManySlices) {
  const StepResult step = Step(InGroups(12, 12), kAllKept, 0);
  // Embedding, 3 layers of 4 parts forward, at least one of loss, 3 layers of 4 parts back, reading
  // back, the update.
  EXPECT_GE(step.slices, 1 + 12 + 1 + 12 + 1 + 1);
}

TEST_F(InvarianceTest, AnUpdateInPartsIsBitEqual) {
  learning_rate_ = 1e-2;
  for (const OptimizerKind kind : {OptimizerKind::kAdamW, OptimizerKind::kAdamW8Bit}) {
    kind_ = kind;
    optimizer_ = {};
    const StepResult whole = Step(InGroups(12, 12), kAllKept, 0);
    const auto elements = static_cast<int64_t>(whole.params.size());
    for (const int64_t size : {256, 1024, 5 * 256}) {
      optimizer_.slice_elements = size;
      const StepResult parts = Step(InGroups(12, 12), kAllKept, 0);
      EXPECT_EQ(parts.params, whole.params);
      EXPECT_EQ(parts.slices, whole.slices - 1 + (elements + size - 1) / size);
    }
  }
}

}  // namespace
}  // namespace lorad
