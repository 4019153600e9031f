#include "engine/model/layer.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "engine/core/status_macros.h"
#include "engine/device/backend.h"
#include "tests/support/full_forward.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace lorad {
namespace {

constexpr int64_t kTokens = 9, kHidden = 32, kBlock = 64 << 20;

class PackedAttention final : public LayerAttention {
 public:
  PackedAttention(Backend& backend, ConstTensorView cu_seqlens, TensorView lse, float scale)
      : backend_(backend), cu_seqlens_(cu_seqlens), lse_(lse), scale_(scale) {}
  absl::Status Attend(int64_t, TensorView q, TensorView k, ConstTensorView v, TensorView o,
                      Stream& stream) override {
    return backend_.ops().Attention({q, k, v, cu_seqlens_, o, lse_, scale_}, stream);
  }

 private:
  Backend& backend_;
  ConstTensorView cu_seqlens_;
  TensorView lse_;
  float scale_;
};

class LayerTest : public testing::Test {
 protected:
  void SetUp() override {
    TinyModel().Write(dir_.path());
    ASSERT_OK_AND_ASSIGN(model_, Model::Load(dir_.path(), QuantSpec(), *backend_));
    stream_ = *backend_->CreateStream();
    buffer_ = *backend_->allocator().Allocate(kBlock, MemoryTag::kTraining);
    arena_ = Arena("test", buffer_.data(), kBlock);
    lora_ = std::make_unique<TestLora>(RandomAdapter(model_->config(), {3, 5}, 4), *backend_,
                                       kTokens, dropout_);
  }
  LayerContext Context(TensorView workspace) {
    return {.model = *model_,
            .backend = *backend_,
            .positions = {positions_.data(), DType::kI32, {kTokens}},
            .lora = lora_.get(),
            .row_invariant = false,
            .workspace = workspace};
  }
  int64_t WorkspaceBytes(bool backward) {
    return LayerWorkspaceBytes(*model_, *backend_, kTokens,
                               {.backward = backward, .max_rank = 5, .dropout = true});
  }
  absl::Status Forward(LayerActivations& act, TensorView y) {
    PackedAttention attention(*backend_, CuSeqlens(), act.lse, AttentionScale(model_->config()));
    const TensorView workspace = *arena_.Allocate(DType::kU8, {WorkspaceBytes(false)});
    return LayerForward(1, Context(workspace), attention, act, y, *stream_);
  }
  LayerActivations Activations(bool for_backward) {
    LayerActivations act;
    EXPECT_OK(Allocate(for_backward, arena_, act));
    act.x = Tensor(input_);
    return act;
  }
  absl::Status Allocate(bool for_backward, Arena& arena, LayerActivations& act) {
    const LayerBatch batch = Batch(for_backward);
    RETURN_IF_ERROR(AllocateLayerScratch(model_->config(), *backend_, batch, arena, act));
    return AllocateLayerActivations(model_->config(), *backend_, batch, arena, act);
  }
  static LayerBatch Batch(bool for_backward) {
    return {.num_tokens = kTokens, .for_backward = for_backward, .ranks = {}};
  }
  SequenceBounds Sequences() const { return {.cu_seqlens = CuSeqlens(), .max_seqlen = 5}; }
  TensorView Tensor(const std::vector<float>& values) {
    const TensorView view = *arena_.Allocate(DType::kF32, {kTokens, kHidden});
    std::memcpy(view.data, values.data(), view.size_bytes());
    return view;
  }
  ConstTensorView CuSeqlens() const {
    return {cu_seqlens_.data(), DType::kI32, {static_cast<int64_t>(cu_seqlens_.size())}};
  }

  const TempDir dir_;
  const std::unique_ptr<Backend> backend_ = CreateCpuBackend();
  const std::vector<float> input_ = RandomValues(kTokens * kHidden, 1, 3);
  const std::vector<int32_t> positions_ = {0, 1, 2, 3, 4, 0, 1, 2, 0};
  const std::vector<int32_t> cu_seqlens_ = {0, 5, 8, 9};
  const LoraDropout dropout_ = [] {
    LoraDropout dropout;
    dropout.probability = 0.25f;
    return dropout;
  }();
  std::shared_ptr<const Model> model_;
  std::unique_ptr<Stream> stream_;
  DeviceBuffer buffer_;
  Arena arena_{"", nullptr, 0};
  std::unique_ptr<TestLora> lora_;
};

// Recomputation in the backward pass rests on this: a forward pass that keeps nothing, in place or
// not, gives bit for bit what the one that keeps everything gives.
TEST_F(LayerTest, AllWaysForwardGiveTheSameBits) {
  LayerActivations kept = Activations(/*for_backward=*/true);
  const TensorView y = Tensor(std::vector<float>(kTokens * kHidden, 7));
  ASSERT_OK(Forward(kept, y));
  EXPECT_EQ(ToFloats(kept.x), input_);
  const std::vector<float> expected = ToFloats(y);
  EXPECT_NE(expected, input_);

  LayerActivations reused = Activations(/*for_backward=*/false);
  const TensorView y2 = Tensor(std::vector<float>(kTokens * kHidden, 7));
  ASSERT_OK(Forward(reused, y2));
  EXPECT_EQ(ToFloats(y2), expected);
  EXPECT_EQ(ToFloats(reused.x), input_) << "x is needed for recomputation";

  LayerActivations in_place = Activations(/*for_backward=*/false);
  ASSERT_OK(Forward(in_place, in_place.x));
  EXPECT_EQ(ToFloats(in_place.x), expected);
}

// Computed again without the down projection, a layer leaves the same for its backward pass.
TEST_F(LayerTest, RecomputationLeavesOutTheDownProjectionAlone) {
  LayerActivations first = Activations(/*for_backward=*/true);
  const TensorView y = Tensor(std::vector<float>(kTokens * kHidden, 0));
  ASSERT_OK(Forward(first, y));
  const TensorView dy = Tensor(RandomValues(kTokens * kHidden, 1, 11));
  const TensorView workspace = *arena_.Allocate(DType::kU8, {WorkspaceBytes(true)});
  ASSERT_OK(
      LayerBackward(1, Context(workspace), Sequences(), Batch(true), first, dy, arena_, *stream_));

  LayerActivations again = Activations(/*for_backward=*/true);
  const TensorView dy2 = Tensor(RandomValues(kTokens * kHidden, 1, 11));
  ASSERT_OK(Forward(again, TensorView{}));
  ASSERT_OK(
      LayerBackward(1, Context(workspace), Sequences(), Batch(true), again, dy2, arena_, *stream_));
  EXPECT_EQ(ToFloats(dy2), ToFloats(dy));
  EXPECT_NE(ToFloats(dy), RandomValues(kTokens * kHidden, 1, 11));
}

TEST_F(LayerTest, MeasuredLayoutIsTheRealOneAndServingSharesMemory) {
  int64_t bytes[2];
  for (const bool for_backward : {false, true}) {
    Arena measure = Arena::Measuring("measure");
    LayerActivations act;
    ASSERT_OK(Allocate(for_backward, measure, act));
    const int64_t before = arena_.Mark();
    ASSERT_OK(Allocate(for_backward, arena_, act));
    EXPECT_EQ(arena_.Mark() - before, measure.peak_bytes());
    EXPECT_EQ(measure.used_bytes(), measure.peak_bytes()) << "the peak must stay reserved";
    bytes[for_backward] = measure.peak_bytes();
  }
  EXPECT_LT(bytes[false], bytes[true] / 2);
}

TEST_F(LayerTest, KeptActivationsDoNotOverlap) {
  const LayerActivations act = Activations(/*for_backward=*/true);
  std::vector<std::pair<const char*, const char*>> ranges;
  for (const TensorView& view : {act.x, act.norm, act.inv_rms1, act.q, act.k, act.v, act.o, act.lse,
                                 act.h, act.inv_rms2, act.gate, act.up, act.act}) {
    ASSERT_FALSE(view.empty());
    const char* begin = static_cast<const char*>(view.data);
    for (const auto& [other_begin, other_end] : ranges)
      EXPECT_TRUE(begin >= other_end || begin + view.size_bytes() <= other_begin);
    ranges.push_back({begin, begin + view.size_bytes()});
  }
}

// Forward and backward stay within the scratch they asked for, and give the arena back.
TEST_F(LayerTest, ScratchIsEnoughAndTheArenaIsReleased) {
  LayerActivations act = Activations(/*for_backward=*/true);
  const TensorView y = Tensor(std::vector<float>(kTokens * kHidden, 0));
  ASSERT_OK(Forward(act, y));
  constexpr int64_t kGuard = 4096;
  const int64_t bytes = WorkspaceBytes(/*backward=*/true);
  EXPECT_GE(bytes, WorkspaceBytes(/*backward=*/false));
  const TensorView block = *arena_.Allocate(DType::kU8, {bytes + kGuard});
  std::memset(block.data, 0x5a, block.size_bytes());
  const LayerContext context = Context({block.data, DType::kU8, {bytes}});
  const TensorView dy = Tensor(RandomValues(kTokens * kHidden, 1, 11));
  const int64_t mark = arena_.Mark();
  ASSERT_OK(LayerBackward(1, context, Sequences(), Batch(true), act, dy, arena_, *stream_));
  EXPECT_EQ(arena_.Mark(), mark);
  const uint8_t* guard = block.as<uint8_t>() + bytes;
  EXPECT_TRUE(std::all_of(guard, guard + kGuard, [](uint8_t byte) { return byte == 0x5a; }));

  Arena small("small", buffer_.data(), 1024);
  EXPECT_THAT(LayerBackward(1, context, Sequences(), Batch(true), act, dy, small, *stream_),
              StatusIs(absl::StatusCode::kResourceExhausted, "small"));
  EXPECT_EQ(small.Mark(), 0);
}

TEST_F(LayerTest, ScratchGrowsWithWhatItIsFor) {
  const auto bytes = [&](const LayerWorkspaceOptions& options) {
    return LayerWorkspaceBytes(*model_, *backend_, /*num_tokens=*/1 << 20, options);
  };
  EXPECT_GT(bytes({.backward = true, .max_rank = 64}), bytes({.backward = true}));
  EXPECT_GT(bytes({.max_rank = 8, .dropout = true}), bytes({.max_rank = 8}));
  EXPECT_EQ(bytes({.dropout = true}), bytes({}));  // no adapter, no dropout
}

}  // namespace
}  // namespace lorad
