// What attention through cuDNN is built of: launchers that translate its inputs; and, without a
// GPU, buckets, the division of the workspace, and the graphs themselves.
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "engine/device/cuda/cuda_stream.h"
#include "engine/ops/cuda/cudnn_attention_graph.h"
#include "engine/ops/cuda/cudnn_attention_layout.h"
#include "engine/ops/cuda/cudnn_library.h"
#include "engine/ops/cuda/cudnn_offsets.h"
#include "tests/parity/parity_fixture.h"

namespace lorad::cuda {
namespace {

class CudnnOffsetsTest : public ParityTest {};

TEST_F(CudnnOffsetsTest, EmptySequencesFollowTheRealOnes) {
  const Both<int32_t> starts = Same<int32_t>({4}, std::vector<int32_t>{0, 130, 130, 331});
  constexpr int64_t kPitch = 7;
  const int64_t strides[] = {6144, 8};
  const Both<int32_t> lengths = Same<int32_t>({5}, std::vector<int32_t>(5, -1));
  const Both<int32_t> offsets = Same<int32_t>({2 * kPitch}, std::vector<int32_t>(2 * kPitch, -1));
  ASSERT_EQ(LaunchCudnnOffsets(starts.cuda().as<int32_t>(), 3, 4, strides, 2, kPitch,
                               lengths.cuda().as<int32_t>(), offsets.cuda().as<int32_t>(),
                               Handle(stream())),
            cudaSuccess);
  EXPECT_EQ(Fetch(lengths), (std::vector<int32_t>{130, 0, 201, 0, -1}));
  EXPECT_EQ(Fetch(offsets),
            (std::vector<int32_t>{0, 130 * 6144, 130 * 6144, 331 * 6144, 331 * 6144, -1, -1,  //
                                  0, 130 * 8, 130 * 8, 331 * 8, 331 * 8, -1, -1}));
}

TEST_F(CudnnOffsetsTest, StatisticsGoToCudnnsOrderAndBack) {
  constexpr int64_t kTokens = 6, kHeads = 4;
  for (const int64_t seqlen : {6, 3}) {
    for (const int64_t slice_heads : {4, 2}) {
      const CudnnStatisticsOrder order = {kTokens, kHeads, slice_heads, kTokens * slice_heads + 5,
                                          seqlen};
      std::vector<float> values(kTokens * kHeads);
      for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i + 1);
      const int64_t room = kHeads / slice_heads * order.slice_stride;
      std::vector<float> expected(room, -1);
      for (int64_t t = 0; t < kTokens; ++t) {
        for (int64_t h = 0; h < kHeads; ++h) {
          const int64_t j = h % slice_heads;
          const int64_t in_slice = (t / seqlen * slice_heads + j) * seqlen + t % seqlen;
          expected[h / slice_heads * order.slice_stride + in_slice] = values[t * kHeads + h];
        }
      }
      const Both<float> lse = Same<float>({kTokens, kHeads}, values);
      const Both<float> statistics = Same<float>({room}, std::vector<float>(room, -1));
      const Both<float> back = Same<float>({kTokens, kHeads}, std::vector<float>(values.size()));
      ASSERT_EQ(LaunchStatisticsToCudnn(lse.cuda().as<float>(), order,
                                        statistics.cuda().as<float>(), Handle(stream())),
                cudaSuccess);
      ASSERT_EQ(LaunchStatisticsFromCudnn(statistics.cuda().as<float>(), order,
                                          back.cuda().as<float>(), Handle(stream())),
                cudaSuccess);
      EXPECT_EQ(Fetch(statistics), expected) << seqlen << ", " << slice_heads;
      EXPECT_EQ(Fetch(back), values) << seqlen << ", " << slice_heads;
    }
  }
}

TEST(CudnnAttentionLayoutTest, BucketsHoldWhatTheyAreFor) {
  EXPECT_EQ(SequenceCountBucket(1), 1);
  EXPECT_EQ(SequenceCountBucket(5), 8);
  EXPECT_EQ(SequenceCountBucket(8), 8);
  const std::pair<int64_t, int64_t> lengths[] = {{1, 128},   {128, 128}, {129, 256},  {257, 384},
                                                 {385, 512}, {513, 768}, {769, 1024}, {1025, 1536}};
  for (const auto& [length, bucket] : lengths) EXPECT_EQ(SequenceLengthBucket(length), bucket);
}

TEST(CudnnAttentionLayoutTest, DenseWhereAllSequencesFillTheLongest) {
  AttentionForwardParams p{};
  p.num_heads = 8;
  p.num_kv_heads = 2;
  p.head_dim = 64;
  p.num_tokens = 768;
  p.num_sequences = 3;
  EXPECT_FALSE(ForwardProblem(p, 256).ragged);
  EXPECT_EQ(ForwardProblem(p, 256).sequences, 3);
  EXPECT_EQ(ForwardProblem(p, 256).seqlen, 256);
  EXPECT_TRUE(ForwardProblem(p, 512).ragged);
  EXPECT_EQ(ForwardProblem(p, 512).sequences, 4);
  EXPECT_TRUE(ForwardProblem(p, 0).ragged);
  EXPECT_EQ(ForwardProblem(p, 0).seqlen, 768);
  p.num_sequences = 1;
  EXPECT_FALSE(ForwardProblem(p, 0).ragged);
  p.num_tokens = 600;
  p.num_sequences = 3;
  EXPECT_TRUE(ForwardProblem(p, 200).ragged) << "200 is no multiple of 128";
}

TEST(CudnnAttentionLayoutTest, ABackwardPassIsDenseAndInEqualParts) {
  AttentionBackwardParams p{};
  p.num_heads = 8;
  p.num_kv_heads = 4;
  p.head_dim = 64;
  p.num_tokens = 768;
  p.num_sequences = 3;
  const CudnnAttentionProblem problem = BackwardProblem(p, true, 2);
  EXPECT_FALSE(problem.ragged);
  EXPECT_EQ(problem.sequences, 3);
  EXPECT_EQ(problem.seqlen, 256);
  EXPECT_EQ(problem.heads, 4);
  EXPECT_EQ(problem.kv_heads, 2);
  EXPECT_EQ(ScoreBytes(problem), 3 * 4 * 256 * 256 * 2);
  EXPECT_EQ(ScoreBytes(BackwardProblem(p, false, 2)), 0);
}

// What is set aside for a number of tokens and sequences is enough for fewer, too. Sizes at which
// each part is larger than the slack.
TEST(CudnnAttentionLayoutTest, ForwardWorkspaceIsEnoughForAnySequences) {
  AttentionForwardParams p{};
  p.num_heads = 8;
  p.num_kv_heads = 4;
  p.head_dim = 64;
  p.num_tokens = p.num_sequences = 1'000'000;
  const int64_t bytes = CudnnForwardWorkspaceBytes(p);
  for (p.num_tokens = 1; p.num_tokens <= 1'000'000; p.num_tokens += 37'037) {
    for (p.num_sequences = 1; p.num_sequences <= p.num_tokens; p.num_sequences *= 3) {
      ASSERT_LE(CudnnAttentionLayout(ForwardProblem(p, 0), p.num_tokens, 1).plan, bytes)
          << p.num_tokens << ", " << p.num_sequences;
    }
  }
  p.num_tokens = p.num_sequences = 1'000'000;
  EXPECT_LE(CudnnAttentionLayout(ForwardProblem(p, 0), p.num_tokens, 1).plan, bytes);
}

// All that a problem takes: its layout; dk and dv of each query head of a group; scores.
int64_t NeededBytes(const AttentionBackwardParams& p, bool deterministic, int64_t slices) {
  const CudnnAttentionProblem problem = BackwardProblem(p, deterministic, slices);
  const int64_t head_gradients = problem.group() == 1
                                     ? 0
                                     : 2 * p.num_tokens * problem.heads * problem.head_dim *
                                           static_cast<int64_t>(sizeof(BFloat16));
  return CudnnAttentionLayout(problem, p.num_tokens, slices).plan + head_gradients +
         ScoreBytes(problem);
}

// As many parts as bring the scores of one below the bound, or below twice that where no smaller
// part is possible, fit the workspace, whatever the lengths.
TEST(CudnnAttentionLayoutTest, BackwardWorkspaceIsEnoughForAnyDenseSequences) {
  constexpr int64_t kTokens = 8192, kScores = int64_t{100} << 20;
  AttentionBackwardParams p{};
  p.num_heads = 8;
  p.head_dim = 64;
  for (const int64_t kv_heads : {4, 8}) {
    for (const bool deterministic : {true, false}) {
      p.num_kv_heads = kv_heads;
      p.num_tokens = p.num_sequences = kTokens;
      const int64_t bytes = CudnnBackwardWorkspaceBytes(p, 0, deterministic, kScores);
      int fits = 0;
      for (int64_t seqlen = 128; seqlen <= kTokens; seqlen += 128) {
        for (p.num_sequences = 1; p.num_sequences * seqlen <= kTokens; ++p.num_sequences) {
          p.num_tokens = p.num_sequences * seqlen;
          for (int64_t slices = 1; slices <= (deterministic ? kv_heads : 1); slices *= 2) {
            const int64_t scores = ScoreBytes(BackwardProblem(p, deterministic, slices));
            if (scores > (slices == kv_heads ? 2 : 1) * kScores) continue;
            ASSERT_LE(NeededBytes(p, deterministic, slices), bytes)
                << p.num_sequences << " of " << seqlen << ", " << slices << " slices";
            ++fits;
          }
        }
      }
      EXPECT_GT(fits, 250);
    }
  }
}

TEST(CudnnAttentionLayoutTest, BackwardWorkspaceIsLittleMoreThanEnough) {
  constexpr int64_t kUnbounded = int64_t{1} << 40;
  AttentionBackwardParams p{};
  p.num_heads = 8;
  p.num_kv_heads = 4;
  p.head_dim = 64;
  p.num_tokens = 8192;
  for (const bool deterministic : {true, false}) {
    for (const int64_t seqlen : {8192, 512}) {
      p.num_sequences = p.num_tokens / seqlen;
      const int64_t spare = CudnnBackwardWorkspaceBytes(p, seqlen, deterministic, kUnbounded) -
                            NeededBytes(p, deterministic, 1);
      EXPECT_GE(spare, 0);
      EXPECT_LE(spare, int64_t{2} << 20);
    }
  }
}

// cuDNN accepts every operation, tensor and attribute; which engine runs the graph it only says
// with a GPU.
TEST(CudnnAttentionGraphTest, CudnnTakesEveryGraph) {
  const auto library = CudnnLibrary::Get();
  if (!library.ok()) {
    const char* required = std::getenv("LORAD_REQUIRE_CUDNN");
    if (required != nullptr && std::strcmp(required, "1") == 0) FAIL() << library.status();
    GTEST_SKIP() << library.status();
  }
  for (int bits = 0; bits < 8; ++bits) {
    CudnnAttentionProblem problem;
    problem.backward = bits & 1;
    problem.ragged = !problem.backward && bits & 2;
    problem.deterministic = problem.backward && bits & 2;
    problem.sequences = 4;
    problem.seqlen = 256;
    problem.heads = 8;
    problem.kv_heads = bits & 4 ? 8 : 2;
    problem.head_dim = 128;
    const int64_t q = problem.heads * problem.head_dim, k = problem.kv_heads * problem.head_dim;
    problem.q_stride = problem.k_stride = problem.v_stride = q + 2 * k;
    problem.o_stride = problem.dout_stride = problem.dq_stride = q;
    problem.dk_stride = problem.dv_stride = k;
    EXPECT_OK((problem.backward ? AttentionBackwardGraph(**library, problem)
                                : AttentionForwardGraph(**library, problem))
                  ->Finalize(nullptr))
        << bits;
  }
}

}  // namespace
}  // namespace lorad::cuda
