// Operations that the CPU's ops count in prefill and decoding against those that
// engine/plan/flops.h works out: equal.
#include <memory>
#include <utility>
#include <vector>

#include "engine/core/flop_counter.h"
#include "engine/infer/runner.h"
#include "engine/kv/kv_cache.h"
#include "engine/plan/flops.h"
#include "gtest/gtest.h"
#include "tests/support/block_adapter_memory.h"
#include "tests/support/golden.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

constexpr int64_t kRank = 3;

class ServingFlopsTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    backend_ = CreateCpuBackend({.num_threads = 2, .flops = &counter_});
    ASSERT_OK_AND_ASSIGN(model_,
                         Model::Load(Golden(GetParam()).model_dir(), QuantSpec{}, *backend_));
    const ModelConfig& config = model_->config();
    ASSERT_OK_AND_ASSIGN(cache_, KvCache::Create({.num_layers = config.num_layers,
                                                  .num_kv_heads = config.num_kv_heads,
                                                  .head_dim = config.head_dim,
                                                  .num_pages = 128,
                                                  .page_tokens = 16,
                                                  .dtype = backend_->activation_dtype()},
                                                 *backend_));
    ASSERT_OK_AND_ASSIGN(
        runner_,
        Runner::Create(
            model_, *backend_, *cache_,
            {.max_sequences = 8, .max_tokens = 700, .context_tokens = 700, .max_rank = kRank}));
    ASSERT_OK_AND_ASSIGN(stream_, backend_->CreateStream());
    memory_ = std::make_unique<BlockAdapterMemory>(*backend_, 4096);
    ASSERT_OK_AND_ASSIGN(adapter_,
                         MakeDeviceAdapter(Adapter(), "a", *memory_, *backend_, *stream_));
  }
  void TearDown() override {
    for (KvTable& table : tables_) cache_->Release(table);
  }

  // q and down of all layers.
  HostAdapter Adapter() const {
    const ModelConfig& config = model_->config();
    HostAdapter adapter;
    for (int32_t layer = 0; layer < config.num_layers; ++layer) {
      for (const Projection p : {Projection::kQ, Projection::kDown}) {
        AdapterModule module{
            .id = {layer, p}, .rank = kRank, .alpha = 3, .scaling = 1, .a = {}, .b = {}};
        module.a.assign(kRank * InFeatures(config, p), 0.01f);
        module.b.assign(kRank * OutFeatures(config, p), 0.01f);
        adapter.modules.push_back(std::move(module));
      }
    }
    return adapter;
  }
  AdaptedModel Planned(bool adapted) const {
    AdaptedModel planned{.config = model_->config(), .quant = model_->quant(), .modules = {}};
    const Projection targets[] = {Projection::kQ, Projection::kDown};
    if (adapted) planned.modules = AdaptProjections(model_->config(), targets, kRank);
    return planned;
  }

  // New tokens of sequence `s` after `position` others.
  SequenceRows RowsOf(int s, int64_t position, int64_t tokens, bool adapted) {
    EXPECT_TRUE(cache_->Reserve(tables_[s], position + tokens));
    return {.ids = absl::MakeConstSpan(ids_).subspan(0, tokens),
            .position = position,
            .pages = tables_[s].pages(),
            .adapter = adapted ? adapter_.get() : nullptr};
  }
  // Runs a pass and returns what it counted. Without `logits` the head stays away.
  FlopTally Run(const std::vector<SequenceRows>& batch, PassKind kind, bool logits) {
    const FlopTally before = counter_.Tally();
    const std::vector<DrawRequest> requests(batch.size(), {.logits = true, .params = {}});
    std::vector<DrawResult> results(batch.size());
    EXPECT_OK(logits ? runner_->Draw(batch, kind, requests, absl::MakeSpan(results))
                     : runner_->Forward(batch, kind));
    return counter_.Tally() - before;
  }

  static void ExpectEqual(const FlopCount& planned, const FlopTally& counted) {
    using P = PlanOp;
    const std::vector<std::pair<std::vector<PlanOp>, FlopOp>> rows = {
        {{P::kQkv, P::kOutput, P::kGateUp, P::kDown, P::kHead}, FlopOp::kLinear},
        {{P::kLora}, FlopOp::kLora},
        {{P::kScores}, FlopOp::kScores},
        {{P::kSoftmax}, FlopOp::kSoftmax},
        {{P::kValues}, FlopOp::kValues},
        {{P::kNorm}, FlopOp::kNorm},
        {{P::kRope}, FlopOp::kRope},
        {{P::kSwiGlu}, FlopOp::kSwiGlu},
        {{P::kDequantize}, FlopOp::kDequantize},
        {{P::kTiling}, FlopOp::kTiling}};
    int64_t total = 0;
    for (const auto& [plan_ops, op] : rows) {
      int64_t flops = 0;
      for (const PlanOp plan_op : plan_ops) flops += planned[plan_op].total();
      EXPECT_EQ(flops, counted.at(op, FlopPass::kForward)) << Name(plan_ops[0]);
      total += counted.at(op, FlopPass::kForward);
    }
    EXPECT_EQ(planned.total(), total);
    EXPECT_EQ(planned.Sum()[FlopPhase::kForward], planned.total());
  }

  FlopCounter counter_;
  std::unique_ptr<Backend> backend_;
  std::shared_ptr<const Model> model_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Runner> runner_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<BlockAdapterMemory> memory_;
  std::shared_ptr<const DeviceAdapter> adapter_;
  std::vector<int32_t> ids_ = std::vector<int32_t>(700, 5);
  KvTable tables_[8];
};

TEST_P(ServingFlopsTest, PrefillInChunks) {
  for (const bool adapted : {false, true}) {
    // 300 tokens in the cache, then chunks that end at 512 and at 600.
    Run({RowsOf(0, 0, 300, adapted)}, PassKind::kMatrix, false);
    FlopTally counted = Run({RowsOf(0, 300, 212, adapted)}, PassKind::kMatrix, false);
    const FlopTally last = Run({RowsOf(0, 512, 88, adapted)}, PassKind::kMatrix, true);
    counted = counted - (FlopTally() - last);
    const PrefillShape shape{.prompt_tokens = 600, .cached_tokens = 300, .chunk_tokens = 256};
    ASSERT_OK_AND_ASSIGN(const FlopCount planned, CountPrefill(Planned(adapted), shape, kCpuTiles));
    ExpectEqual(planned, counted);
  }
}

TEST_P(ServingFlopsTest, PrefillInOnePassDecodesAgainForTilesOfRows) {
  const FlopTally counted = Run({RowsOf(0, 0, 600, true)}, PassKind::kMatrix, true);
  ASSERT_OK_AND_ASSIGN(const FlopCount planned,
                       CountPrefill(Planned(true), {.prompt_tokens = 600}, kCpuTiles));
  ExpectEqual(planned, counted);
  EXPECT_GT(planned[PlanOp::kTiling].total(), 0);
}

TEST_P(ServingFlopsTest, DecodingAtSomeContexts) {
  const int64_t contexts[] = {1, 17, 17, 300, 650};
  for (const bool adapted : {false, true}) {
    std::vector<SequenceRows> batch;
    for (int s = 0; s < 5; ++s) batch.push_back(RowsOf(s, contexts[s] - 1, 1, adapted));
    const FlopTally counted = Run(batch, PassKind::kRowInvariant, true);
    const SequenceGroup groups[] = {{1, 1}, {17, 2}, {300, 1}, {650, 1}};
    ASSERT_OK_AND_ASSIGN(const FlopCount planned, CountDecode(Planned(adapted), groups));
    ExpectEqual(planned, counted);
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, ServingFlopsTest, testing::ValuesIn(kGoldenModels),
                         [](const testing::TestParamInfo<const char*>& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace lorad
