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
  for (const int64_t seqlen : {0, 3}) {
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
          const int64_t in_slice = seqlen == 0
                                       ? t * slice_heads + j
                                       : (t / seqlen * slice_heads + j) * seqlen + t % seqlen;
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

// What is set aside for a number of tokens is enough for any sequences of as many or fewer, in any
// number of slices, with room for the scores of one sequence.
TEST(CudnnAttentionLayoutTest, WorkspaceIsEnoughForAnySequences) {
  for (const bool deterministic : {true, false}) {
    CudnnAttentionSizes sizes = {true, deterministic, 1000, 1001, 8, 4, 64};
    const int64_t bytes = CudnnWorkspaceBytes(sizes, int64_t{1} << 40);
    AttentionBackwardParams p{};
    p.num_heads = 8;
    p.num_kv_heads = 4;
    p.head_dim = 64;
    p.q_stride = p.k_stride = p.v_stride = p.o_stride = p.dout_stride = 1032;
    p.dq_stride = p.dk_stride = p.dv_stride = 1032;
    for (p.num_tokens = 1; p.num_tokens <= 1000; p.num_tokens += 37) {
      for (p.num_sequences = 1; p.num_sequences <= p.num_tokens; p.num_sequences += 11) {
        for (const int64_t slices : {1, 2, 4}) {
          const CudnnAttentionProblem problem = BackwardProblem(p, 0, deterministic, slices);
          const CudnnAttentionLayout layout(problem, p.num_tokens, slices);
          ASSERT_LE(layout.plan, bytes) << p.num_tokens << ", " << p.num_sequences;
          if (p.num_sequences == 1) {
            ASSERT_LE(layout.plan + ScoreBytes(problem), bytes) << p.num_tokens;
          }
        }
      }
    }
    sizes.backward = false;
    EXPECT_LT(CudnnWorkspaceBytes(sizes, int64_t{1} << 40), bytes);
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
  for (int bits = 0; bits < 16; ++bits) {
    CudnnAttentionProblem problem;
    problem.backward = bits & 1;
    problem.ragged = bits & 2;
    problem.deterministic = bits & 4;
    problem.sequences = 4;
    problem.seqlen = 256;
    problem.heads = 8;
    problem.kv_heads = bits & 8 ? 8 : 2;
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
