// A batch of mixed adapters must compute for each row what that row alone would get.
#include "engine/lora/batch.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "engine/device/backend.h"
#include "engine/model/layer.h"
#include "engine/model/weights.h"
#include "tests/support/block_adapter_memory.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace lorad {
namespace {

constexpr int64_t kHidden = 32, kRows = 7, kMaxRank = 9;

// Every row is a sequence of one token: attention of a single key is its value.
class OwnTokenAttention final : public LayerAttention {
 public:
  explicit OwnTokenAttention(const ModelConfig& config) : config_(config) {}
  absl::Status Attend(int64_t, TensorView, TensorView, ConstTensorView v, TensorView o,
                      Stream&) override {
    const int64_t group = config_.num_heads / config_.num_kv_heads;
    for (int64_t t = 0; t < v.shape[0]; ++t) {
      for (int64_t h = 0; h < config_.num_heads; ++h) {
        std::memcpy(o.as<float>() + (t * config_.num_heads + h) * config_.head_dim,
                    v.as<float>() + (t * config_.num_kv_heads + h / group) * config_.head_dim,
                    config_.head_dim * sizeof(float));
      }
    }
    return absl::OkStatus();
  }

 private:
  const ModelConfig& config_;
};

class LoraBatchTest : public testing::Test {
 protected:
  void SetUp() override {
    TinyModel().Write(dir_.path());
    ASSERT_OK_AND_ASSIGN(model_, Model::Load(dir_.path(), QuantSpec(), *backend_));
    stream_ = *backend_->CreateStream();
    const std::vector<std::vector<int32_t>> ranks = {{8, 3}, {1, 9, 2}, {5}};
    for (size_t i = 0; i < ranks.size(); ++i) {
      HostAdapter host = RandomAdapter(model_->config(), ranks[i], i + 1);
      if (i == 2) host.modules.erase(host.modules.begin(), host.modules.begin() + 3);
      ASSERT_OK_AND_ASSIGN(auto adapter, MakeDeviceAdapter(host, "", memory_, *backend_, *stream_));
      adapters_.push_back(std::move(adapter));
    }
  }

  // Layer 0 over rows [begin, end) of a fixed input, in serving mode.
  std::vector<float> Run(int64_t begin, int64_t end, const std::vector<AdapterRows>& rows) {
    const int64_t count = end - begin;
    std::vector<char> block(1 << 20);
    void* base =
        reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(block.data()) + 255) / 256 * 256);
    Arena arena("test", base, static_cast<int64_t>(block.size()) - 256);
    const std::vector<float> input = RandomValues(kRows * kHidden, 1, 42);
    std::vector<float> x(input.begin() + begin * kHidden, input.begin() + end * kHidden);
    const std::vector<int32_t> positions(count, 3);
    const int64_t before = arena.Mark();
    absl::StatusOr<LoraBatch> lora = LoraBatch::Create(rows, *backend_, arena);
    EXPECT_OK(lora.status());
    EXPECT_LE(
        arena.Mark() - before,
        LoraBatch::ScratchBytes(count, static_cast<int64_t>(rows.size()), kMaxRank, *backend_));
    LayerActivations act;
    const LayerBatch batch = {.num_tokens = count, .for_backward = false, .ranks = {}};
    EXPECT_OK(AllocateLayerScratch(model_->config(), *backend_, batch, arena, act));
    EXPECT_OK(AllocateLayerActivations(model_->config(), *backend_, batch, arena, act));
    act.x = {x.data(), DType::kF32, {count, kHidden}};
    const int64_t workspace = LayerWorkspaceBytes(*model_, *backend_, count,
                                                  {.row_invariant = true, .max_rank = kMaxRank});
    const LayerContext context = {.model = *model_,
                                  .backend = *backend_,
                                  .positions = {positions.data(), DType::kI32, {count}},
                                  .lora = rows.empty() ? nullptr : &*lora,
                                  .row_invariant = true,
                                  .workspace = *arena.Allocate(DType::kU8, {workspace})};
    OwnTokenAttention attention(model_->config());
    EXPECT_OK(LayerForward(0, context, attention, act, act.x, *stream_));
    return x;
  }

  const TempDir dir_;
  const std::unique_ptr<Backend> backend_ = CreateCpuBackend();
  BlockAdapterMemory memory_{*backend_, 4096};
  std::unique_ptr<Stream> stream_;
  std::shared_ptr<const Model> model_;
  std::vector<std::shared_ptr<const DeviceAdapter>> adapters_;
};

TEST_F(LoraBatchTest, EveryRowIsBitwiseItsSoloRun) {
  // Rows 0-1 and 6 are base rows, 2-3, 4 and 5 three adapters of other ranks and modules.
  const std::vector<AdapterRows> mixed = {
      {2, 4, adapters_[0].get()}, {4, 5, adapters_[1].get()}, {5, 6, adapters_[2].get()}};
  const std::vector<float> together = Run(0, kRows, mixed);
  const std::vector<float> base = Run(0, kRows, {});
  for (int64_t row = 0; row < kRows; ++row) {
    std::vector<AdapterRows> alone;
    for (const AdapterRows& rows : mixed) {
      if (rows.begin <= row && row < rows.end) alone = {{0, 1, rows.adapter}};
    }
    const std::vector<float> solo = Run(row, row + 1, alone);
    const auto slice = [&](const std::vector<float>& values) {
      return std::vector<float>(values.begin() + row * kHidden,
                                values.begin() + (row + 1) * kHidden);
    };
    EXPECT_EQ(slice(together), solo) << "row " << row;
    if (alone.empty()) {
      EXPECT_EQ(slice(base), solo) << "row " << row;
    } else {
      EXPECT_NE(slice(base), solo) << "row " << row << " is not adapted";
    }
  }
}

TEST_F(LoraBatchTest, ModulesOfOneOpCallDoNotShareScratch) {
  std::vector<char> block(1 << 16);
  Arena arena("test", block.data(), static_cast<int64_t>(block.size()));
  ASSERT_OK_AND_ASSIGN(LoraBatch batch,
                       LoraBatch::Create({{0, 4, adapters_[0].get()}}, *backend_, arena));
  using P = Projection;
  for (const std::vector<P>& group :
       {std::vector<P>{P::kQ, P::kK, P::kV}, std::vector<P>{P::kGate, P::kUp}}) {
    std::vector<std::pair<const char*, const char*>> ranges;
    for (const P projection : group) {
      const LoraSegment& segment = batch.Segments({1, projection})[0];
      EXPECT_EQ(segment.xa.shape, (Shape{4, segment.a.shape[0]}));
      const char* begin = static_cast<const char*>(segment.xa.data);
      for (const auto& [other_begin, other_end] : ranges)
        EXPECT_TRUE(begin >= other_end || begin + segment.xa.size_bytes() <= other_begin);
      ranges.push_back({begin, begin + segment.xa.size_bytes()});
    }
  }
  EXPECT_EQ(batch.Dropout({1, P::kQ}).probability, 0);
}

TEST_F(LoraBatchTest, SaysWhenScratchDoesNotFit) {
  std::vector<char> block(256);
  Arena arena("workspace", block.data(), 256);
  EXPECT_THAT(LoraBatch::Create({{0, 400, adapters_[0].get()}}, *backend_, arena),
              StatusIs(absl::StatusCode::kResourceExhausted, "workspace"));
}

}  // namespace
}  // namespace lorad
