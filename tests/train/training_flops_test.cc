// Operations that the CPU's ops count during an optimiser step against those that
// engine/plan/flops.h works out from the model's shape: equal, by operation and by phase.
#include <algorithm>
#include <cctype>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/core/flop_counter.h"
#include "engine/model/random_model.h"
#include "engine/ops/cross_entropy.h"
#include "engine/plan/flops.h"
#include "engine/train/lora_init.h"
#include "engine/train/step.h"
#include "engine/train/training_memory.h"
#include "gtest/gtest.h"
#include "tests/support/golden.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

constexpr QuantSpec kDense = {QuantFormat::kNone, 64, false};

// Five layers of odd sizes with every bias there is.
ModelConfig FiveLayers() {
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.hidden_size = 64;
  config.intermediate_size = 160;
  config.num_layers = 5;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 24;
  config.vocab_size = 300;
  config.max_position_embeddings = 1024;
  config.rms_norm_eps = 1e-6;
  config.qkv_bias = config.o_bias = config.mlp_bias = true;
  return config;
}

struct Case {
  std::string name;
  std::string golden = {};  // empty: FiveLayers
  QuantSpec quant = {};
  std::string policy = "every_layer";
  int64_t kept_layers = 0;
  LoraSpec lora;
  std::vector<std::vector<int64_t>> lengths = {{40}};  // of the sequences of each micro-batch
  OptimizerKind optimizer = OptimizerKind::kAdamW;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

LoraSpec Lora(std::vector<std::string> targets, int32_t rank, double dropout = 0) {
  LoraSpec spec;
  spec.r = rank;
  spec.lora_alpha = 8;
  spec.lora_dropout = dropout;
  spec.target_modules = std::move(targets);
  return spec;
}

// Every third token is not in the loss.
MicroBatch BatchOf(const std::vector<int64_t>& lengths) {
  MicroBatch batch;
  batch.cu_seqlens.push_back(0);
  for (const int64_t length : lengths) {
    for (int64_t t = 0; t < length; ++t) {
      const auto token = static_cast<int32_t>((t * 31 + length) % 300);
      const bool target = t + 1 < length && t % 3 != 1;
      batch.ids.push_back(token);
      batch.labels.push_back(target ? (token + 7) % 300 : kIgnoreLabel);
      batch.positions.push_back(static_cast<int32_t>(t));
      batch.token_keys.push_back(static_cast<uint64_t>(t));
      batch.target_tokens += target;
    }
    batch.cu_seqlens.push_back(static_cast<int32_t>(batch.ids.size()));
  }
  return batch;
}

// What a linear counts as in a slice.
PlanOp LinearOf(SliceKind kind) {
  switch (kind) {
    case SliceKind::kForwardQkv:
    case SliceKind::kBackwardQkv:
      return PlanOp::kQkv;
    case SliceKind::kForwardOutput:
    case SliceKind::kBackwardOutput:
      return PlanOp::kOutput;
    case SliceKind::kForwardGateUp:
    case SliceKind::kBackwardGateUp:
      return PlanOp::kGateUp;
    default:
      return PlanOp::kDown;
  }
}

PlanOp PlanOpOf(FlopOp op, SliceKind kind) {
  switch (op) {
    case FlopOp::kLinear:
      return LinearOf(kind);
    case FlopOp::kLora:
      return PlanOp::kLora;
    case FlopOp::kDropout:
      return PlanOp::kDropout;
    case FlopOp::kScores:
      return PlanOp::kScores;
    case FlopOp::kSoftmax:
      return PlanOp::kSoftmax;
    case FlopOp::kValues:
      return PlanOp::kValues;
    case FlopOp::kNorm:
      return PlanOp::kNorm;
    case FlopOp::kRope:
      return PlanOp::kRope;
    case FlopOp::kSwiGlu:
      return PlanOp::kSwiGlu;
    case FlopOp::kHead:
      return PlanOp::kHead;
    case FlopOp::kLoss:
      return PlanOp::kLoss;
    case FlopOp::kOptimizer:
      return PlanOp::kOptimizer;
    case FlopOp::kDequantize:
      return PlanOp::kDequantize;
    case FlopOp::kTiling:
      return PlanOp::kTiling;
  }
  return PlanOp::kEmbedding;
}

// Adds what a slice counted. Forward ops after the loss are computed again.
void AddSlice(const FlopTally& tally, SliceKind kind, bool after_loss, FlopCount& count) {
  for (int op = 0; op < kNumFlopOps; ++op) {
    const auto flop_op = static_cast<FlopOp>(op);
    PhaseFlops& flops = count.ops[static_cast<int>(PlanOpOf(flop_op, kind))];
    const FlopPhase phase = after_loss ? FlopPhase::kRecompute : FlopPhase::kForward;
    flops.by_phase[static_cast<int>(phase)] += tally.at(flop_op, FlopPass::kForward);
    flops.by_phase[static_cast<int>(FlopPhase::kBackward)] +=
        tally.at(flop_op, FlopPass::kBackward);
  }
}

class TrainingFlopsTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const Case& c = GetParam();
    backend_ = CreateCpuBackend({.num_threads = 2, .flops = &counter_});
    if (c.golden.empty()) {
      ASSERT_OK_AND_ASSIGN(model_, RandomModel(FiveLayers(), c.quant, 1, *backend_));
    } else {
      ASSERT_OK_AND_ASSIGN(model_, Model::Load(Golden(c.golden).model_dir(), c.quant, *backend_));
    }
    ASSERT_OK_AND_ASSIGN(adapter_, InitialAdapter(c.lora, model_->config(), 3));
    ASSERT_OK_AND_ASSIGN(const ActivationPolicy policy,
                         ParseActivationPolicy(c.policy, model_->config().num_layers));
    checkpointing_ = policy.checkpointing;
    checkpointing_.kept_layers = c.kept_layers;
    for (const std::vector<int64_t>& lengths : c.lengths) batches_.push_back(BatchOf(lengths));
  }

  // Runs a step slice by slice.
  absl::Status RunStep(FlopCount& counted) {
    const Case& c = GetParam();
    TokenCounts tokens;
    for (const MicroBatch& batch : batches_) {
      tokens.micro_batch = std::max(tokens.micro_batch, batch.num_tokens());
      tokens.step += batch.num_tokens();
    }
    PassOptions pass{
        .backward = true, .checkpointing = checkpointing_, .dropout = c.lora.lora_dropout > 0};
    ASSIGN_OR_RETURN(
        const TrainingMemoryNeeds needs,
        MeasureTrainingMemory(*model_, *backend_, adapter_, pass, tokens, c.optimizer));
    ASSIGN_OR_RETURN(const DeviceBuffer block,
                     backend_->allocator().Allocate(needs.peak_bytes, MemoryTag::kTraining));
    Arena arena("test", block.data(), block.size_bytes());
    ASSIGN_OR_RETURN(TrainingMemory memory,
                     LayOutTrainingMemory(adapter_, *backend_, tokens, arena, c.optimizer));
    ASSIGN_OR_RETURN(const std::unique_ptr<Stream> stream, backend_->CreateStream());
    RETURN_IF_ERROR(memory.adapter.SetWeights(adapter_, *stream));
    ASSIGN_OR_RETURN(
        const std::unique_ptr<InputOffload> offload,
        CreateInputOffload(model_->config(), *backend_, checkpointing_, tokens.micro_batch));
    pass.offload = offload.get();
    TrainStep step(*model_, *backend_, memory.adapter, pass, {}, memory.loss, memory.norm);
    StepInput input{.micro_batches = batches_, .learning_rate = 1e-3, .dropout = {}};
    input.dropout.probability = static_cast<float>(c.lora.lora_dropout);
    RETURN_IF_ERROR(step.Begin(std::move(input), arena, *stream));
    FlopTally before = counter_.Tally();
    bool after_loss = false;
    for (bool more = true; more;) {
      const SliceKind kind = step.next_slice().kind;
      after_loss = kind != SliceKind::kEmbedding && kind != SliceKind::kLoss &&
                   (after_loss || last_ == SliceKind::kLoss);
      ASSIGN_OR_RETURN(more, step.Advance(*stream));
      const FlopTally now = counter_.Tally();
      AddSlice(now - before, kind, after_loss, counted);
      before = now;
      last_ = kind;
    }
    return step.outcome().updated ? absl::OkStatus() : absl::InternalError("no update");
  }

  AdaptedModel Planned() const {
    AdaptedModel planned{.config = model_->config(), .quant = model_->quant(), .modules = {}};
    for (const AdapterModule& module : adapter_.modules)
      planned.modules.push_back({module.id, module.rank});
    return planned;
  }
  TrainingShape PlannedShape() const {
    const Case& c = GetParam();
    TrainingShape shape{.micro_batches = {},
                        .checkpointing = checkpointing_,
                        .dropout = c.lora.lora_dropout > 0,
                        .optimizer = c.optimizer};
    for (size_t i = 0; i < batches_.size(); ++i) {
      MicroBatchShape batch{.sequences = {}, .target_tokens = batches_[i].target_tokens};
      for (const int64_t length : c.lengths[i]) batch.sequences.push_back({.length = length});
      shape.micro_batches.push_back(batch);
    }
    return shape;
  }

  FlopCounter counter_;
  std::unique_ptr<Backend> backend_;
  std::shared_ptr<const Model> model_;
  HostAdapter adapter_;
  ActivationCheckpointing checkpointing_;
  std::vector<MicroBatch> batches_;
  SliceKind last_ = SliceKind::kPrepare;
};

TEST_P(TrainingFlopsTest, CountedEqualsInstrumented) {
  FlopCount counted;
  ASSERT_OK(RunStep(counted));
  ASSERT_OK_AND_ASSIGN(const FlopCount planned,
                       CountTrainingStep(Planned(), PlannedShape(), kCpuTiles));
  for (int op = 0; op < kNumPlanOps; ++op)
    EXPECT_EQ(planned.ops[op].by_phase, counted.ops[op].by_phase) << Name(static_cast<PlanOp>(op));
  EXPECT_GT(counted.total(), 0);
  EXPECT_EQ(planned.total(), counted.total());
  // Without the tiles' share nothing else changes.
  ASSERT_OK_AND_ASSIGN(FlopCount needed, CountTrainingStep(Planned(), PlannedShape()));
  EXPECT_EQ(needed[PlanOp::kTiling].total(), 0);
  needed.ops[static_cast<int>(PlanOp::kTiling)] = planned[PlanOp::kTiling];
  EXPECT_EQ(needed.ops, planned.ops);
}

std::vector<Case> Cases() {
  const LoraSpec all = Lora({"all-linear"}, 4);
  std::vector<Case> cases;
  for (const char* golden : kGoldenModels)
    cases.push_back({.name = golden, .golden = golden, .lora = all, .lengths = {{17, 40, 3}}});
  for (const char* policy : {"none", "every_layer", "every_k:2", "every_k:3", "sqrt", "offload"})
    cases.push_back({.name = policy, .policy = policy, .lora = all, .lengths = {{30, 9}, {25}}});
  cases.push_back({.name = "kept", .kept_layers = 3, .lora = all});
  cases.push_back({.name = "kept_in_segments",
                   .policy = "every_k:2",
                   .kept_layers = 2,
                   .lora = Lora({"down_proj", "k_proj"}, 3)});
  for (const char* target : {"q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
    cases.push_back({.name = target, .lora = Lora({target}, 7)});
  // Only the upper layers are adapted: one of a segment, and the last alone.
  cases.push_back({.name = "upper_layers",
                   .policy = "every_k:2",
                   .lora = Lora({"layers.3.self_attn.q_proj", "layers.4.mlp.down_proj"}, 5)});
  cases.push_back({.name = "last_layer", .lora = Lora({"layers.4.mlp.gate_proj"}, 1)});
  cases.push_back({.name = "rank_of_the_dimension", .lora = Lora({"q_proj", "o_proj"}, 64)});
  cases.push_back({.name = "dropout", .lora = Lora({"all-linear"}, 4, 0.25)});
  cases.push_back({.name = "dense", .quant = kDense, .lora = all});
  cases.push_back({.name = "int8", .quant = {QuantFormat::kInt8, 64, false}, .lora = all});
  // Several tiles of rows, queries and keys.
  cases.push_back({.name = "long", .lora = all, .lengths = {{700}, {513, 1, 64, 65}}});
  cases.push_back({.name = "long_kept", .policy = "none", .lora = all, .lengths = {{1025}}});
  cases.push_back({.name = "eight_bit", .lora = all, .optimizer = OptimizerKind::kPagedAdamW8Bit});
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Cases, TrainingFlopsTest, testing::ValuesIn(Cases()),
                         [](const testing::TestParamInfo<Case>& info) {
                           std::string name = info.param.name;
                           std::replace_if(
                               name.begin(), name.end(),
                               [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); },
                               '_');
                           return name;
                         });

}  // namespace
}  // namespace lorad
