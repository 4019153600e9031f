// Decoding on CUDA as recorded graphs: the same tokens and logprobs to the bit as kernel by kernel,
// whatever the inputs were when the graph was recorded.
#include "engine/infer/pass_graphs.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "engine/infer/runner.h"
#include "engine/infer/sampler.h"
#include "gtest/gtest.h"
#include "tests/parity/skip_without_gpu.h"
#include "tests/support/forwarding_backend.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace lorad {
namespace {

constexpr int kMostRows = 20;
constexpr int64_t kContext = 2048;  // two widths of the page table
constexpr int32_t kTop = 3;

// Counts what is recorded and launched.
class CountingBackend final : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;
  absl::StatusOr<std::unique_ptr<Graph>> Record(Stream& stream,
                                                absl::FunctionRef<absl::Status()> queue) override {
    absl::StatusOr<std::unique_ptr<Graph>> graph = base().Record(stream, queue);
    if (!graph.ok()) return graph;
    ++records;
    return std::make_unique<CountingGraph>(*this, *std::move(graph));
  }
  int records = 0, launches = 0;

 private:
  class CountingGraph final : public Graph {
   public:
    CountingGraph(CountingBackend& backend, std::unique_ptr<Graph> base)
        : backend_(backend), base_(std::move(base)) {}
    absl::Status Launch(Stream& stream) override {
      ++backend_.launches;
      return base_->Launch(stream);
    }

   private:
    CountingBackend& backend_;
    const std::unique_ptr<Graph> base_;
  };
};

class PassGraphsParityTest : public testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<Backend>> cuda = CreateCudaBackend(0);
    SKIP_WITHOUT_GPU(cuda.status());
    device_ = std::make_unique<CountingBackend>(*std::move(cuda));
    TinyModel tiny(QuickKernelsModel());
    tiny.config["max_position_embeddings"] = std::to_string(kContext);
    tiny.Write(dir_.path());
    ASSERT_OK_AND_ASSIGN(model_, Model::Load(dir_.path(), QuantSpec{}, *device_));
    const ModelConfig& config = model_->config();
    ASSERT_OK_AND_ASSIGN(cache_, KvCache::Create({.num_layers = config.num_layers,
                                                  .num_kv_heads = config.num_kv_heads,
                                                  .head_dim = config.head_dim,
                                                  .num_pages = kMostRows * kContext / 64,
                                                  .page_tokens = 64,
                                                  .dtype = device_->activation_dtype()},
                                                 *device_));
    ASSERT_OK_AND_ASSIGN(runner_, Runner::Create(model_, *device_, *cache_,
                                                 {.max_sequences = kMostRows,
                                                  .max_tokens = 512,
                                                  .context_tokens = kContext,
                                                  .max_rank = 0}));
  }
  void TearDown() override {
    for (KvTable& table : tables_) cache_->Release(table);
  }

  static int32_t Id(int row, int64_t step) {
    return static_cast<int32_t>((7919 * (row + 1) + 104729 * step) % QuickKernelsModel().vocab);
  }
  // Sequence `row` has tokens [0, length) in the cache.
  void Fill(int row, int64_t length) {
    ASSERT_TRUE(cache_->Reserve(tables_[row], length + 1));
    lengths_[row] = length;
    std::vector<int32_t> ids;
    for (int64_t begin = 0; begin < length; begin += 512) {
      ids.clear();
      for (int64_t i = begin; i < std::min(begin + 512, length); ++i) ids.push_back(Id(row, i));
      const SequenceRows rows = {ids, begin, tables_[row].pages()};
      ASSERT_OK(runner_->Forward({rows}, PassKind::kRowInvariant));
    }
  }
  // One more token for each of `count` sequences, in the place after what they hold; which ones,
  // and how the next are drawn, is decided by `step`. Half of the rows are drawn at random.
  std::vector<DrawResult> Step(int count, int64_t step, int32_t top = kTop) {
    std::vector<int32_t> ids(count);
    std::vector<SequenceRows> batch;
    std::vector<DrawRequest> requests(count);
    for (int row = 0; row < count; ++row) {
      ids[row] = Id(row, 1000 + step);
      batch.push_back({absl::MakeConstSpan(&ids[row], 1), lengths_[row], tables_[row].pages()});
      if (row % 2 == 1) requests[row].params = MakeDrawParams(1.5, 40, 0.9, 0, 17 + step);
      requests[row].params.top = top;
    }
    std::vector<DrawResult> drawn(count);
    EXPECT_OK(runner_->Draw(batch, PassKind::kRowInvariant, requests, absl::MakeSpan(drawn)));
    return drawn;
  }
  static void ExpectSame(const std::vector<DrawResult>& a, const std::vector<DrawResult>& b) {
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) {
      EXPECT_EQ(a[i].token.id, b[i].token.id) << i;
      EXPECT_EQ(a[i].token.logprob, b[i].token.logprob) << i;
      EXPECT_EQ(a[i].token.top, b[i].token.top) << i;
    }
  }

  TempDir dir_;
  std::unique_ptr<CountingBackend> device_;
  std::shared_ptr<const Model> model_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Runner> runner_;
  KvTable tables_[kMostRows];
  int64_t lengths_[kMostRows] = {};
};

TEST_F(PassGraphsParityTest, TheSameAsKernelByKernel) {
  constexpr int kSteps = 4;
  for (int row = 0; row < kMostRows; ++row) Fill(row, 1 + 37 * row);
  for (const int count : {1, 3, 8, 17, kMostRows}) {
    std::vector<std::vector<DrawResult>> expected;
    for (int64_t step = 0; step < kSteps; ++step) {
      expected.push_back(Step(count, step));
      Step(count == 2 ? 1 : 2, step);  // nothing comes twice in a row, nothing is recorded
    }
    device_->records = device_->launches = 0;
    for (int i = 0; i < PassGraphs::kUses; ++i) Step(count, /*step=*/100);
    EXPECT_EQ(device_->records, 1) << count << " rows";
    for (int64_t step = 0; step < kSteps; ++step) {
      SCOPED_TRACE(testing::Message() << count << " rows, step " << step);
      ExpectSame(Step(count, step), expected[step]);
    }
    EXPECT_EQ(device_->launches, kSteps + 1);
  }
}

// A graph serves all lengths that need no wider page table.
TEST_F(PassGraphsParityTest, WhileSequencesGrow) {
  for (const int64_t length : {3, 900, 1020, 1300, 2000}) {
    Fill(0, length);
    std::vector<DrawResult> expected = Step(1, length, kTop + 1);  // comes once: not recorded
    expected[0].token.top.pop_back();
    for (int i = 0; i < PassGraphs::kUses; ++i) ExpectSame(Step(1, length), expected);
  }
  EXPECT_EQ(device_->records, 2);  // up to 1,024 tokens, and up to 2,048
}

}  // namespace
}  // namespace lorad
