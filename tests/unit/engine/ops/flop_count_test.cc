// Operations that the CPU's ops report, against figures worked out by hand from the convention of
// engine/core/flop_counter.h.
#include <numeric>

#include "engine/core/flop_counter.h"
#include "tests/unit/engine/ops/linear_fixture.h"

namespace lorad {
namespace {

constexpr QuantSpec kNf4 = {QuantFormat::kNf4, 64, true};
constexpr auto kForward = FlopPass::kForward, kBackward = FlopPass::kBackward;

class FlopCountTest : public testing::Test {
 protected:
  FlopCounter counter_;
  OpRunner<float> run_{2, &counter_};
};

// 300 rows of 64 to 40 columns with a bias; rows 10 to 199 through rank 3 and dropout.
class LinearFlopCountTest : public FlopCountTest {
 protected:
  LinearFlopCountTest() : layer_(kNf4, 300, 40, 64, true, {{10, 200, 3, 0.5f}}, 0.25f, 1) {}

  FlopTally Forward() const {
    FlopTally tally;
    tally.at(FlopOp::kLinear, kForward) = 2 * 300 * 64 * 40 + 300 * 40;
    tally.at(FlopOp::kLora, kForward) = 190 * (2 * 3 * 64 + 2 * 3 * 40 + 40);
    tally.at(FlopOp::kDropout, kForward) = 190 * 64 * 2;
    tally.at(FlopOp::kDequantize, kForward) = 64 * 40;
    return tally;
  }

  Layer<float> layer_;
  Tensor<float> x_ = Random<float>({300, 64}, 2);
};

TEST_F(LinearFlopCountTest, RowsOneByOne) {
  LinearTerm terms[] = {layer_.Term()};
  ASSERT_OK(run_.Linear({x_.View(), absl::MakeSpan(terms), false, true, {}}));
  EXPECT_EQ(counter_.Tally(), Forward());
}

TEST_F(LinearFlopCountTest, MatricesDecodeAgainForRowsBeyondTheFirstTile) {
  LinearTerm terms[] = {layer_.Term()};
  ASSERT_OK(run_.Linear({x_.View(), absl::MakeSpan(terms), false, false, {}}));
  FlopTally expected = Forward();
  expected.at(FlopOp::kTiling, kForward) = 64 * 40;  // for rows 256 to 299
  EXPECT_EQ(counter_.Tally(), expected);
}

TEST_F(LinearFlopCountTest, Backward) {
  Tensor<float> dy = Random<float>({300, 40}, 3), dx({300, 64});
  LinearBackwardTerm terms[] = {layer_.BackwardTerm(dy)};
  ASSERT_OK(run_.LinearBackward({x_.View(), absl::MakeSpan(terms), dx.View(), false, {}}));
  FlopTally expected;
  expected.at(FlopOp::kLinear, kBackward) = 2 * 300 * 64 * 40;
  const int64_t s = 190 * (2 * 40 * 3 + 3), ds_a = 2 * 190 * 3 * 64;
  const int64_t db = 40 * 3 * (2 * 190 + 1), da = 2 * 3 * 64 * 190;
  expected.at(FlopOp::kLora, kBackward) = s + ds_a + db + da;
  expected.at(FlopOp::kDropout, kBackward) = 190 * 64 * (3 + 2);
  expected.at(FlopOp::kDequantize, kBackward) = 64 * 40;
  expected.at(FlopOp::kTiling, kBackward) = 64 * 40;
  EXPECT_EQ(counter_.Tally(), expected);
}

// Two sequences, of 70 and of 600 tokens: tiles of 64 queries and 512 keys.
TEST_F(FlopCountTest, AttentionCountsThePairsThatSeeEachOther) {
  const int64_t tokens = 670, heads = 4, kv = 2, d = 8;
  const auto q = Random<float>({tokens, heads, d}, 1), k = Random<float>({tokens, kv, d}, 2),
             v = Random<float>({tokens, kv, d}, 3), dout = Random<float>({tokens, heads, d}, 4);
  const Tensor<int32_t> starts({3}, {0, 70, 670});
  Tensor<float> o({tokens, heads, d}), lse({tokens, heads}), dq({tokens, heads, d}),
      dk({tokens, kv, d}), dv({tokens, kv, d});
  const int64_t pairs = heads * (70 * 71 / 2 + 600 * 601 / 2), rows = heads * tokens;
  // Ten full tiles on the diagonal, one of 6 queries and one of 24.
  const int64_t masked = heads * (10 * 64 * 63 / 2 + 6 * 5 / 2 + 24 * 23 / 2);
  const int64_t again = heads * 88;  // queries from 512 on
  FlopTally expected;
  expected.at(FlopOp::kScores, kForward) = pairs * 2 * d;
  expected.at(FlopOp::kValues, kForward) = pairs * 2 * d;
  expected.at(FlopOp::kSoftmax, kForward) = 4 * pairs + rows * (1 + 1 + d + 2);
  expected.at(FlopOp::kTiling, kForward) = 4 * d * masked + again * (5 + d);

  ASSERT_OK(run_.ops().Attention({.q = q.View(),
                                  .k = k.View(),
                                  .v = v.View(),
                                  .cu_seqlens = starts.View(),
                                  .o = o.View(),
                                  .lse = lse.View(),
                                  .scale = 0.5f},
                                 run_.stream()));
  EXPECT_EQ(counter_.Tally(), expected);

  expected.at(FlopOp::kScores, kBackward) = pairs * 3 * 2 * d;
  expected.at(FlopOp::kValues, kBackward) = pairs * 2 * 2 * d;
  expected.at(FlopOp::kSoftmax, kBackward) = 7 * pairs + rows * 2 * d;
  expected.at(FlopOp::kTiling, kBackward) = (10 * d + 3) * masked;
  ASSERT_OK(run_.ops().AttentionBackward({.dout = dout.View(),
                                          .q = q.View(),
                                          .k = k.View(),
                                          .v = v.View(),
                                          .o = o.View(),
                                          .lse = lse.View(),
                                          .cu_seqlens = starts.View(),
                                          .dq = dq.View(),
                                          .dk = dk.View(),
                                          .dv = dv.View(),
                                          .scale = 0.5f},
                                         run_.stream()));
  EXPECT_EQ(counter_.Tally(), expected);
}

TEST_F(FlopCountTest, LossCountsTheRowsWithALabel) {
  const auto head = MakeWeight({QuantFormat::kNone, 64, false}, 48, 32, 1);
  Tensor<float> hidden = Random<float>({5, 32}, 2), loss({5}), gradient({5, 32});
  const Tensor<int32_t> labels({5}, {1, kIgnoreLabel, 47, kIgnoreLabel, 0});
  LinearCrossEntropyArgs args{.hidden = hidden.View(),
                              .head = head->view,
                              .labels = labels.View(),
                              .loss = loss.View(),
                              .dhidden = {},
                              .workspace = {}};
  FlopTally expected;
  expected.at(FlopOp::kHead, kForward) = 3 * 2 * 32 * 48;
  expected.at(FlopOp::kLoss, kForward) = 3 * (4 * 48 + 3);
  ASSERT_OK(run_.LinearCrossEntropy(args));
  EXPECT_EQ(counter_.Tally(), expected);

  args.dhidden = gradient.View();
  ASSERT_OK(run_.LinearCrossEntropy(args));
  const FlopTally with_gradient = counter_.Tally() - expected;
  expected.at(FlopOp::kHead, kBackward) = 3 * 2 * 32 * 48;
  expected.at(FlopOp::kLoss, kBackward) = 3 * (48 + 2);
  EXPECT_EQ(with_gradient, expected);
}

TEST_F(FlopCountTest, ElementwiseOps) {
  const auto gamma = Random<float>({16}, 1), x = Random<float>({3, 16}, 2);
  Tensor<float> y({3, 16}), dx({3, 16}), inv_rms({3});
  FlopTally expected;
  // Sum of squares, scaled twice; mean, epsilon, root, inverse.
  expected.at(FlopOp::kNorm, kForward) = 3 * (4 * 16 + 4);
  ASSERT_OK(
      run_.ops().RmsNorm({x.View(), gamma.View(), y.View(), inv_rms.View(), 1e-6f}, run_.stream()));
  expected.at(FlopOp::kNorm, kBackward) = 3 * (7 * 16 + 3) + 3 * (8 * 16 + 3);
  for (const bool accumulate : {false, true}) {
    ASSERT_OK(run_.ops().RmsNormBackward(
        {y.View(), x.View(), gamma.View(), inv_rms.View(), dx.View(), accumulate}, run_.stream()));
  }
  expected.at(FlopOp::kSwiGlu, kForward) = 5 * 48;  // exp, 1 +, 1 /, two products
  ASSERT_OK(run_.ops().SwiGlu({x.View(), x.View(), y.View()}, run_.stream()));
  expected.at(FlopOp::kSwiGlu, kBackward) = 11 * 48;
  Tensor<float> dup({3, 16});
  ASSERT_OK(run_.ops().SwiGluBackward({y.View(), x.View(), x.View(), dx.View(), dup.View()},
                                      run_.stream()));
  expected.at(FlopOp::kRope, kForward) = expected.at(FlopOp::kRope, kBackward) = 3 * 2 * 4 * 6;
  const Tensor<int32_t> positions({3}, {0, 1, 9000});
  const auto frequencies = Random<float>({4}, 3);
  TensorView heads = y.View();
  heads.shape = {3, 2, 8};
  for (const bool inverse : {false, true}) {
    ASSERT_OK(
        run_.ops().Rope({heads, positions.View(), frequencies.View(), inverse}, run_.stream()));
  }
  EXPECT_EQ(counter_.Tally(), expected);
}

TEST_F(FlopCountTest, Optimizer) {
  Tensor<float> param = Random<float>({1000}, 1), m({1000}), v({1000});
  const auto grad = Random<float>({1000}, 2);
  const AdamWTensor tensor{
      .param = param.View(), .grad = grad.View(), .m = m.View(), .v = v.View()};
  ASSERT_OK(run_.ops().AdamW({.tensors = absl::MakeConstSpan(&tensor, 1)}, run_.stream()));
  Tensor<double> sum({1});
  const ConstTensorView grads[] = {grad.View()};
  ASSERT_OK(run_.ops().SumSquares({.tensors = grads, .out = sum.View()}, run_.stream()));
  FlopTally expected;
  expected.at(FlopOp::kOptimizer, kBackward) = 1000 * (15 + 2);
  EXPECT_EQ(counter_.Tally(), expected);
}

}  // namespace
}  // namespace lorad
