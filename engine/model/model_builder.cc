#include "engine/model/model_builder.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/core/checked_math.h"
#include "engine/core/status_macros.h"
#include "engine/ops/ops.h"

namespace lorad {
namespace {

int64_t CountParameters(const Model& model) {
  int64_t count = model.embedding().num_elements() + model.final_norm().num_elements();
  if (!model.config().tie_word_embeddings) count += model.head().num_elements();
  for (int64_t i = 0; i < model.config().num_layers; ++i) {
    const LayerWeights& layer = model.layer(i);
    count += layer.input_norm.num_elements() + layer.post_attention_norm.num_elements();
    for (const LinearWeights& linear : layer.linear) {
      count += linear.weight.num_elements();
      if (!linear.bias.empty()) count += linear.bias.num_elements();
    }
  }
  return count;
}

}  // namespace

absl::Status CheckModelOptions(const ModelOptions& options, const QuantSpec& quant) {
  if (!options.quant_head || quant.format != QuantFormat::kNone) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "quant_head is true, but the model is kept in 16 bits: its head would be quantised as its "
      "linears are; choose a quantisation, or leave quant_head");
}

ModelBuilder::ModelBuilder(ModelConfig config, const QuantSpec& quant, Backend& backend,
                           Stream& stream, const ModelOptions& options)
    : backend_(backend), stream_(stream), options_(options), model_(new Model) {
  model_->config_ = std::move(config);
  model_->quant_ = quant;
  model_->layers_.resize(model_->config_.num_layers);
}

absl::Status ModelBuilder::PlaceShared() {
  return Place([this](Arena& arena) { return LayOutShared(arena); });
}

absl::Status ModelBuilder::PlaceLayer(int64_t index,
                                      const std::array<bool, kNumProjections>& sixteen_bit) {
  return Place([&](Arena& arena) { return LayOutLayer(sixteen_bit, arena, layer(index)); });
}

absl::Status ModelBuilder::Place(const std::function<absl::Status(Arena&)>& layout) {
  Arena measure = Arena::Measuring("weights");
  RETURN_IF_ERROR(layout(measure));
  ASSIGN_OR_RETURN(DeviceBuffer buffer,
                   backend_.allocator().Allocate(measure.peak_bytes(), MemoryTag::kWeights));
  Arena arena("weights", buffer.data(), buffer.size_bytes());
  model_->weight_bytes_ += buffer.size_bytes();
  model_->buffers_.push_back(std::move(buffer));
  return layout(arena);
}

absl::Status ModelBuilder::LayOutShared(Arena& arena) {
  const ModelConfig& config = model_->config_;
  const Shape matrix = {config.vocab_size, config.hidden_size};
  ASSIGN_OR_RETURN(model_->embedding_, arena.Allocate(DType::kBF16, matrix));
  model_->head_ = {};
  model_->head_.out_features = config.vocab_size;
  model_->head_.in_features = config.hidden_size;
  model_->head_.dense = model_->embedding_;
  if (!config.tie_word_embeddings) {
    ASSIGN_OR_RETURN(model_->head_.dense, arena.Allocate(DType::kBF16, matrix));
  }
  ASSIGN_OR_RETURN(model_->final_norm_, arena.Allocate(DType::kF32, {config.hidden_size}));
  ASSIGN_OR_RETURN(model_->rope_inv_freq_, arena.Allocate(DType::kF32, {config.head_dim / 2}));
  model_->decode_head_ = model_->head_;
  if (model_->quant_.format == QuantFormat::kNone) return absl::OkStatus();
  const int64_t codes = int64_t{1} << CodeBits(model_->quant_.format);
  ASSIGN_OR_RETURN(code_book_, arena.Allocate(DType::kF32, {codes}));
  ASSIGN_OR_RETURN(nested_code_, arena.Allocate(DType::kF32, {256}));
  if (!options_.quant_head) return absl::OkStatus();
  model_->decode_head_.dense = {};
  return LayOutWeight(/*sixteen_bit=*/false, arena, model_->decode_head_);
}

absl::Status ModelBuilder::LayOutLayer(const std::array<bool, kNumProjections>& sixteen_bit,
                                       Arena& arena, LayerWeights& layer) {
  const ModelConfig& config = model_->config_;
  const Shape norm = {config.hidden_size};
  ASSIGN_OR_RETURN(layer.input_norm, arena.Allocate(DType::kF32, norm));
  ASSIGN_OR_RETURN(layer.post_attention_norm, arena.Allocate(DType::kF32, norm));
  for (const Projection projection : kAllProjections) {
    const int i = static_cast<int>(projection);
    LinearWeights& linear = layer.linear[i];
    linear.weight.out_features = OutFeatures(config, projection);
    linear.weight.in_features = InFeatures(config, projection);
    RETURN_IF_ERROR(LayOutWeight(sixteen_bit[i], arena, linear.weight));
    if (!HasBias(config, projection)) continue;
    ASSIGN_OR_RETURN(linear.bias, arena.Allocate(DType::kF32, {linear.weight.out_features}));
  }
  return absl::OkStatus();
}

absl::Status ModelBuilder::LayOutWeight(bool sixteen_bit, Arena& arena, WeightView& weight) {
  if (sixteen_bit || model_->quant_.format == QuantFormat::kNone) {
    ASSIGN_OR_RETURN(weight.dense,
                     arena.Allocate(DType::kBF16, {weight.out_features, weight.in_features}));
    return absl::OkStatus();
  }
  weight.spec = model_->quant_;
  weight.code_book = code_book_;
  const int64_t code_bytes = CeilDiv(weight.num_elements() * CodeBits(weight.spec.format), 8);
  const int64_t blocks = weight.num_blocks();
  ASSIGN_OR_RETURN(weight.codes, arena.Allocate(DType::kU8, {code_bytes}));
  if (!weight.spec.double_quant) {
    ASSIGN_OR_RETURN(weight.scales, arena.Allocate(DType::kF32, {blocks}));
    return absl::OkStatus();
  }
  weight.nested_code = nested_code_;
  ASSIGN_OR_RETURN(weight.scales_u8, arena.Allocate(DType::kU8, {blocks}));
  ASSIGN_OR_RETURN(weight.nested_scales,
                   arena.Allocate(DType::kF32, {CeilDiv(blocks, kNestedBlock)}));
  return absl::OkStatus();
}

absl::Status ModelBuilder::Queue(const void* from, int64_t bytes, const ConstTensorView& to,
                                 int64_t offset) {
  // The views are const for the model's users; the memory is this object's own.
  char* data = static_cast<char*>(const_cast<void*>(to.data));
  return backend_.Copy(data + offset, from, bytes, stream_);
}

absl::Status ModelBuilder::Upload(const ConstTensorView& from, const ConstTensorView& to) {
  RETURN_IF_ERROR(Queue(from.data, from.size_bytes(), to, 0));
  return stream_.Synchronize();
}

absl::Status ModelBuilder::Upload(const std::vector<float>& from, const ConstTensorView& to) {
  return Upload(ConstTensorView(from.data(), DType::kF32, {static_cast<int64_t>(from.size())}), to);
}

absl::Status ModelBuilder::Arrange() {
  std::vector<WeightView*> weights;
  if (options_.quant_head) weights.push_back(&model_->decode_head_);
  for (LayerWeights& layer : model_->layers_)
    for (LinearWeights& linear : layer.linear) weights.push_back(&linear.weight);
  Ops& ops = backend_.ops();
  int64_t bytes = 0;
  for (const WeightView* weight : weights)
    bytes = std::max(bytes, ops.ArrangeScratchBytes(*weight));
  if (bytes == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(const DeviceBuffer scratch,
                   backend_.allocator().Allocate(bytes, MemoryTag::kWorkspace));
  absl::Status queued;
  for (WeightView* weight : weights) {
    if (!queued.ok() || ops.ArrangeScratchBytes(*weight) == 0) continue;
    queued = ops.ArrangeWeight({.weight = weight, .scratch = scratch.View(DType::kU8, {bytes})},
                               stream_);
  }
  const absl::Status done = stream_.Synchronize();  // what is queued uses the scratch
  return queued.ok() ? done : queued;
}

std::shared_ptr<const Model> ModelBuilder::Finish(std::string digest) {
  model_->num_parameters_ = CountParameters(*model_);
  model_->digest_ = std::move(digest);
  return std::shared_ptr<const Model>(std::move(model_));
}

}  // namespace lorad
