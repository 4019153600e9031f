// Operations of small shapes by hand, of published ones against their known sizes, and refusals.
// What the engine's account is held against is what the ops count: tests/train/training_flops_test,
// tests/unit/engine/infer/serving_flops_test.
#include "engine/plan/flops.h"

#include <limits>
#include <string>
#include <vector>

#include "engine/plan/presets.h"
#include "engine/plan/textbook_flops.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using absl::StatusCode;
using testing::AllOf;
using testing::HasSubstr;
using Phases = std::array<int64_t, kNumFlopPhases>;

constexpr QuantSpec kDense = {QuantFormat::kNone, 64, false};

// Two layers: hidden 8, 2 heads of 4 over 1 of keys, 12 in the MLP, 10 tokens of vocabulary.
ModelConfig Tiny() {
  ModelConfig config;
  config.hidden_size = 8;
  config.intermediate_size = 12;
  config.num_layers = 2;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = 4;
  config.vocab_size = 10;
  return config;
}
AdaptedModel Adapted(const ModelConfig& config, int64_t rank, const QuantSpec& quant = kDense) {
  return {config, quant, AdaptProjections(config, kAllProjections, rank)};
}
ModelConfig Preset(const std::string& name) { return *FindPreset(name); }

TrainingShape Step(int64_t batch, int64_t length, const ActivationCheckpointing& checkpointing) {
  return {.micro_batches = {{.sequences = {{length, batch}}}}, .checkpointing = checkpointing};
}
constexpr ActivationCheckpointing kEveryLayer = {.layers_per_segment = 1};

// 3 sequences of 5 tokens: 15 tokens, 75 pairs, 12 targets. The second layer is still there.
TEST(TextbookFlopsTest, FullTrainingByHand) {
  const AdaptedModel model{Tiny(), kDense, {}};
  ASSERT_OK_AND_ASSIGN(const FlopCount count,
                       CountTextbookStep(model, Step(3, 5, kEveryLayer), /*trains_all=*/true));
  const auto layers = [](int64_t flops) { return Phases{2 * flops, 4 * flops, flops}; };
  EXPECT_EQ(count[PlanOp::kQkv].by_phase, layers(2 * 15 * 8 * (8 + 4 + 4)));
  EXPECT_EQ(count[PlanOp::kScores].by_phase, layers(2 * 75 * 2 * 4));
  EXPECT_EQ(count[PlanOp::kSoftmax].by_phase, layers(5 * 75 * 2));
  EXPECT_EQ(count[PlanOp::kValues].by_phase, layers(2 * 75 * 2 * 4));
  EXPECT_EQ(count[PlanOp::kOutput].by_phase, layers(2 * 15 * 8 * 8));
  EXPECT_EQ(count[PlanOp::kGateUp].by_phase, layers(2 * 15 * 8 * 24));
  EXPECT_EQ(count[PlanOp::kSwiGlu].by_phase, layers(5 * 15 * 12));
  EXPECT_EQ(count[PlanOp::kDown].by_phase, layers(2 * 15 * 12 * 8));
  EXPECT_EQ(count[PlanOp::kRope].by_phase, layers(3 * 15 * (8 + 4)));
  // Two of each layer, and the last, of the rows with a target.
  const int64_t norms = 2 * 20 * 15 * 8, last = 20 * 12 * 8;
  EXPECT_EQ(count[PlanOp::kNorm].by_phase, (Phases{2 * norms + last, 4 * norms + 2 * last, norms}));
  EXPECT_EQ(count[PlanOp::kHead].by_phase, (Phases{2 * 12 * 8 * 10, 4 * 12 * 8 * 10, 0}));
  EXPECT_EQ(count[PlanOp::kLoss].by_phase, (Phases{5 * 12 * 10, 10 * 12 * 10, 0}));
  EXPECT_EQ(count[PlanOp::kOptimizer].by_phase, (Phases{0, 15 * ParameterCount(Tiny()), 0}));
  EXPECT_EQ(count[PlanOp::kLora].total() + count[PlanOp::kDequantize].total(), 0);
}

TEST(TextbookFlopsTest, FrozenWeightsHaveNoGradientOfTheirOwn) {
  const AdaptedModel model = Adapted(Tiny(), 2, {QuantFormat::kNf4, 64, true});
  ASSERT_OK_AND_ASSIGN(const FlopCount count,
                       CountTextbookStep(model, Step(3, 5, kEveryLayer), /*trains_all=*/false));
  const int64_t gate_up = 2 * 2 * 15 * 8 * 24;
  EXPECT_EQ(count[PlanOp::kGateUp].by_phase, (Phases{gate_up, gate_up, gate_up / 2}));
  // in + out of q, k, v, o, gate, up, down.
  const int64_t sides = 16 + 12 + 12 + 16 + 20 + 20 + 20, lora = 2 * 2 * 15 * 2 * sides;
  EXPECT_EQ(count[PlanOp::kLora].by_phase, (Phases{lora, 2 * lora, lora / 2}));
  const int64_t weights = LinearParameterCount(Tiny());
  EXPECT_EQ(count[PlanOp::kDequantize].by_phase, (Phases{weights, weights, weights / 2}));
  EXPECT_EQ(count[PlanOp::kOptimizer].total(), 15 * 2 * 2 * sides);
}

// 6 operations a parameter and token, and attention on top: Hoffmann et al., 2022, appendix F.
TEST(TextbookFlopsTest, FullTrainingIsSixTimesParametersTimesTokens) {
  const ModelConfig config = Preset("llama-65b");
  TrainingShape shape = Step(4, 2048, {.layers_per_segment = config.num_layers});
  ASSERT_OK_AND_ASSIGN(const FlopCount count,
                       CountTextbookStep({config, kDense, {}}, shape, /*trains_all=*/true));
  const double products =
      static_cast<double>(count[PlanOp::kQkv].total() + count[PlanOp::kOutput].total() +
                          count[PlanOp::kGateUp].total() + count[PlanOp::kDown].total());
  EXPECT_EQ(products, 6.0 * static_cast<double>(LinearParameterCount(config)) * 4 * 2048);
  const double rule = 6.0 * static_cast<double>(ParameterCount(config)) * 4 * 2048;
  EXPECT_GT(static_cast<double>(count.total()), rule);
  EXPECT_LT(static_cast<double>(count.total()), 1.1 * rule);
}

TEST(TextbookFlopsTest, DecodingIsTwiceTheParametersATokenAndItsContext) {
  const SequenceGroup contexts[] = {{100, 3}};
  ASSERT_OK_AND_ASSIGN(const FlopCount count, CountTextbookDecode({Tiny(), kDense, {}}, contexts));
  EXPECT_EQ(count[PlanOp::kQkv].by_phase, (Phases{2 * 2 * 3 * 8 * 16, 0, 0}));
  EXPECT_EQ(count[PlanOp::kScores].by_phase, (Phases{2 * 2 * 3 * 100 * 8, 0, 0}));
  EXPECT_EQ(count[PlanOp::kHead].by_phase, (Phases{2 * 3 * 8 * 10, 0, 0}));
  ASSERT_OK_AND_ASSIGN(const FlopCount prefill,
                       CountTextbookPrefill({Tiny(), kDense, {}}, {.prompt_tokens = 6}));
  EXPECT_EQ(prefill[PlanOp::kScores].by_phase, (Phases{2 * 2 * 36 * 8, 0, 0}));
  EXPECT_EQ(prefill[PlanOp::kHead].by_phase, (Phases{2 * 8 * 10, 0, 0}));
}

TEST(EngineFlopsTest, MicroBatchesAddUp) {
  const AdaptedModel model = Adapted(Tiny(), 2);
  TrainingShape shape = Step(3, 5, kEveryLayer);
  ASSERT_OK_AND_ASSIGN(const FlopCount one, CountTrainingStep(model, shape));
  shape.micro_batches[0].count = 7;
  ASSERT_OK_AND_ASSIGN(const FlopCount seven, CountTrainingStep(model, shape));
  shape.micro_batches.assign(7, {.sequences = {{5, 1}, {5, 2}}});
  ASSERT_OK_AND_ASSIGN(const FlopCount listed, CountTrainingStep(model, shape));
  EXPECT_EQ(seven.ops, listed.ops);
  const int64_t update = one[PlanOp::kOptimizer].total();
  EXPECT_EQ(seven.total() - update, 7 * (one.total() - update));
}

TEST(EngineFlopsTest, NothingGoesBackBelowTheLowestAdaptedLayer) {
  ModelConfig config = Tiny();
  config.num_layers = 10;
  const Projection q[] = {Projection::kQ};
  const AdaptedModel model{config, kDense, AdaptProjections(config, q, 2, /*first_layer=*/7)};
  ASSERT_OK_AND_ASSIGN(const FlopCount count, CountTrainingStep(model, Step(1, 5, kEveryLayer)));
  const PhaseFlops& down = count[PlanOp::kDown];
  EXPECT_EQ(down[FlopPhase::kBackward] * 10, down[FlopPhase::kForward] * 3);
  const PhaseFlops& qkv = count[PlanOp::kQkv];
  EXPECT_EQ(qkv[FlopPhase::kRecompute] * 10, qkv[FlopPhase::kForward] * 2);  // layers 8 and 7
}

TEST(EngineFlopsTest, OneGradientOfTwoAndHalfThePairsAreLess) {
  const ModelConfig config = Preset("llama-3-8b");
  const ActivationCheckpointing kept{.layers_per_segment = config.num_layers, .keeps_act = true};
  ASSERT_OK_AND_ASSIGN(const FlopCount engine,
                       CountTrainingStep(Adapted(config, 16), Step(4, 2048, kept)));
  ASSERT_OK_AND_ASSIGN(
      const FlopCount textbook,
      CountTextbookStep(Adapted(config, 16), Step(4, 2048, kept), /*trains_all=*/false));
  EXPECT_EQ(engine[PlanOp::kGateUp].by_phase, textbook[PlanOp::kGateUp].by_phase);
  // (s + 1) / 2 of s keys each.
  EXPECT_EQ(engine[PlanOp::kScores][FlopPhase::kForward] * 2 * 2048,
            textbook[PlanOp::kScores][FlopPhase::kForward] * 2049);
  EXPECT_LT(engine.total(), textbook.total());
}

struct Refusal {
  const char* name;
  void (*change)(AdaptedModel&, TrainingShape&);
  StatusCode code;
  std::vector<std::string> says;
};

class FlopRefusalTest : public testing::TestWithParam<Refusal> {};

TEST_P(FlopRefusalTest, NamesTheFieldTheValueAndTheBound) {
  AdaptedModel model = Adapted(Tiny(), 2);
  TrainingShape shape = Step(1, 5, kEveryLayer);
  ASSERT_OK(CountTrainingStep(model, shape));
  GetParam().change(model, shape);
  for (const absl::StatusOr<FlopCount>& count :
       {CountTrainingStep(model, shape), CountTextbookStep(model, shape, false)}) {
    EXPECT_EQ(count.status().code(), GetParam().code) << count.status();
    for (const std::string& part : GetParam().says)
      EXPECT_THAT(std::string(count.status().message()), HasSubstr(part));
  }
}

constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();
using M = AdaptedModel;
using S = TrainingShape;
const Refusal kRefusals[] = {
    {"no_layers",
     [](M& m, S&) { m.config.num_layers = 0; },
     StatusCode::kInvalidArgument,
     {"num_hidden_layers is 0", "[1, "}},
    {"huge_hidden_size",
     [](M& m, S&) { m.config.hidden_size = kHuge; },
     StatusCode::kInvalidArgument,
     {"hidden_size is 9223372036854775807"}},
    {"huge_model",
     [](M& m, S&) {
       m.config.hidden_size = 1 << 20;
       m.config.intermediate_size = 1 << 22;
       m.config.num_layers = 1 << 14;
     },
     StatusCode::kInvalidArgument,
     {"parameters", "1e+14"}},
    {"rank_above_the_dimension",
     [](M& m, S&) { m.modules[0].rank = 9; },
     StatusCode::kInvalidArgument,
     {"rank of q_proj is 9", "[1, 8]"}},
    {"rank_above_the_smaller_side",
     [](M& m, S&) { m.modules[1].rank = 5; },
     StatusCode::kInvalidArgument,
     {"rank of k_proj is 5", "[1, 4]"}},
    {"no_rank",
     [](M& m, S&) { m.modules[2].rank = 0; },
     StatusCode::kInvalidArgument,
     {"rank of v_proj is 0"}},
    {"layer_that_is_not_there",
     [](M& m, S&) { m.modules[0].id.layer = 2; },
     StatusCode::kInvalidArgument,
     {"layer of an adapted module is 2", "[0, 1]"}},
    {"module_twice",
     [](M& m, S&) { m.modules.push_back(m.modules[3]); },
     StatusCode::kInvalidArgument,
     {"model.layers.0.self_attn.o_proj is adapted twice"}},
    {"nothing_adapted",
     [](M& m, S&) { m.modules.clear(); },
     StatusCode::kInvalidArgument,
     {"no module is adapted"}},
    {"no_micro_batch",
     [](M&, S& s) { s.micro_batches.clear(); },
     StatusCode::kInvalidArgument,
     {"no micro-batch"}},
    {"no_sequence",
     [](M&, S& s) { s.micro_batches[0].sequences.clear(); },
     StatusCode::kInvalidArgument,
     {"no sequence"}},
    {"no_length",
     [](M&, S& s) { s.micro_batches[0].sequences[0].length = 0; },
     StatusCode::kInvalidArgument,
     {"sequence length is 0", "[1, "}},
    {"huge_length",
     [](M&, S& s) { s.micro_batches[0].sequences[0].length = kHuge; },
     StatusCode::kInvalidArgument,
     {"sequence length is 9223372036854775807", "4294967296"}},
    {"negative_count",
     [](M&, S& s) { s.micro_batches[0].sequences[0].count = -1; },
     StatusCode::kInvalidArgument,
     {"number of sequences is -1"}},
    {"huge_step",
     [](M&, S& s) {
       s.micro_batches[0].sequences[0] = {int64_t{1} << 32, int64_t{1} << 32};
       s.micro_batches[0].count = int64_t{1} << 32;
     },
     StatusCode::kInvalidArgument,
     {"7.92282e+28 tokens", "1099511627776"}},
    {"too_many_targets",
     [](M&, S& s) { s.micro_batches[0].target_tokens = 6; },
     StatusCode::kInvalidArgument,
     {"target_tokens is 6", "[-1, 5]"}},
    {"no_segment",
     [](M&, S& s) { s.checkpointing.layers_per_segment = 0; },
     StatusCode::kInvalidArgument,
     {"layers_per_segment is 0"}},
    {"too_many_kept",
     [](M&, S& s) { s.checkpointing.kept_layers = 3; },
     StatusCode::kInvalidArgument,
     {"kept_layers is 3", "[0, 2]"}},
    {"more_than_64_bits",
     [](M& m, S& s) {
       m = Adapted(Preset("llama-65b"), 64);
       s.micro_batches[0].sequences[0] = {int64_t{1} << 32, 256};
     },
     StatusCode::kOutOfRange,
     {"operations", "9223372036854775807", "fewer tokens"}},
    // As much of everything as there may be: 10 * 2^71 pairs * 2^28 features * 2^14 layers and some
    // more. 128 bits hold it.
    {"most_of_everything",
     [](M& m, S& s) {
       m.config.hidden_size = m.config.intermediate_size = 1;
       m.config.num_heads = m.config.num_kv_heads = m.config.head_dim = 1 << 14;
       m.config.num_layers = 1 << 14;
       m = Adapted(m.config, 1);
       s.micro_batches[0].sequences[0] = {int64_t{1} << 32, 256};
     },
     StatusCode::kOutOfRange,
     {"e+35 operations"}}};

INSTANTIATE_TEST_SUITE_P(Cases, FlopRefusalTest, testing::ValuesIn(kRefusals),
                         [](const testing::TestParamInfo<Refusal>& info) {
                           return std::string(info.param.name);
                         });

TEST(FlopRefusalTest, PromptsAndContexts) {
  const AdaptedModel model = Adapted(Tiny(), 2);
  EXPECT_THAT(CountPrefill(model, {.prompt_tokens = 0}).status().ToString(),
              HasSubstr("prompt_tokens is 0"));
  EXPECT_THAT(CountPrefill(model, {.prompt_tokens = 5, .cached_tokens = 5}).status().ToString(),
              AllOf(HasSubstr("cached_tokens is 5"), HasSubstr("[0, 4]")));
  EXPECT_THAT(CountPrefill(model, {.prompt_tokens = 5, .chunk_tokens = -1}).status().ToString(),
              HasSubstr("chunk_tokens is -1"));
  EXPECT_THAT(CountDecode(model, {}).status().ToString(), HasSubstr("no sequence"));
  const SequenceGroup huge[] = {{kHuge, kHuge}};
  EXPECT_THAT(CountDecode(model, huge).status().ToString(), HasSubstr("sequence length"));
}

TEST(FlopTimeTest, SecondsAreOperationsOverTheRate) {
  ASSERT_OK_AND_ASSIGN(const double seconds, SecondsAt(int64_t{3'000'000'000'000}, 6e12));
  EXPECT_EQ(seconds, 0.5);
  for (const double rate : {0.0, -1.0, 2e21, std::numeric_limits<double>::quiet_NaN(),
                            std::numeric_limits<double>::infinity()}) {
    EXPECT_THAT(SecondsAt(1, rate).status().ToString(), HasSubstr("it must be in (0, 1e+21]"));
  }
}

}  // namespace
}  // namespace lorad
