// Loads a checkpoint onto a device: plan and check everything, then one layer at a time.
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/core/arena.h"
#include "engine/core/checked_math.h"
#include "engine/core/status_macros.h"
#include "engine/io/safetensors_checkpoint.h"
#include "engine/model/checkpoint_digest.h"
#include "engine/model/checkpoint_plan.h"
#include "engine/model/host_values.h"
#include "engine/model/weights.h"
#include "engine/quant/code_book.h"
#include "engine/quant/quant.h"

namespace lorad {
namespace {

ConstTensorView Vector(const std::vector<float>& values) {
  return {values.data(), DType::kF32, {static_cast<int64_t>(values.size())}};
}

std::vector<float> Floats(const SafetensorsEntry& entry) {
  const float* values = static_cast<const float*>(entry.data);
  return std::vector<float>(values, values + entry.size_bytes / sizeof(float));
}

}  // namespace

class ModelLoader {
 public:
  static absl::StatusOr<std::shared_ptr<const Model>> Load(const std::string& model_dir,
                                                           const QuantSpec& quant,
                                                           Backend& backend) {
    RETURN_IF_ERROR(ValidateQuantSpec(quant));
    ASSIGN_OR_RETURN(ModelConfig config, LoadModelConfig(model_dir));
    ASSIGN_OR_RETURN(const SafetensorsCheckpoint checkpoint,
                     SafetensorsCheckpoint::Open(model_dir));
    ASSIGN_OR_RETURN(const CheckpointPlan plan, PlanCheckpoint(config, checkpoint));
    ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, backend.CreateStream());
    CheckpointDigest digest(checkpoint);
    ModelLoader loader(std::move(config), quant, plan, backend, *stream);
    RETURN_IF_ERROR(loader.LoadTensors());
    Model& model = *loader.model_;
    model.num_parameters_ = CountParameters(model);
    model.digest_ = digest.Finish(model.config_, model.quant_);
    for (const SafetensorsFile& file : checkpoint.files()) RETURN_IF_ERROR(file.CheckUnchanged());
    return std::shared_ptr<const Model>(std::move(loader.model_));
  }

 private:
  ModelLoader(ModelConfig config, const QuantSpec& quant, const CheckpointPlan& plan,
              Backend& backend, Stream& stream)
      : plan_(plan), backend_(backend), stream_(stream), model_(new Model) {
    model_->config_ = std::move(config);
    model_->quant_ = plan.packed != nullptr ? plan.packed->packed->spec : quant;
    model_->layers_.resize(plan.layers.size());
  }

  static int64_t CountParameters(const Model& model) {
    int64_t count = model.embedding_.num_elements() + model.final_norm_.num_elements();
    if (!model.config_.tie_word_embeddings) count += model.head_.num_elements();
    for (const LayerWeights& layer : model.layers_) {
      count += layer.input_norm.num_elements() + layer.post_attention_norm.num_elements();
      for (const LinearWeights& linear : layer.linear) {
        count += linear.weight.num_elements();
        if (!linear.bias.empty()) count += linear.bias.num_elements();
      }
    }
    return count;
  }

  absl::Status LoadTensors() {
    RETURN_IF_ERROR(Place([this](Arena& arena) { return PlaceShared(arena); }));
    RETURN_IF_ERROR(LoadShared());
    for (size_t i = 0; i < plan_.layers.size(); ++i) {
      LayerWeights& layer = model_->layers_[i];
      const LayerSource& source = plan_.layers[i];
      RETURN_IF_ERROR(Place([&](Arena& arena) { return PlaceLayer(source, arena, layer); }));
      RETURN_IF_ERROR(LoadLayer(source, layer));
    }
    return absl::OkStatus();
  }

  // Runs a layout twice: for its size, then over one block of device memory of that size.
  template <typename Layout>
  absl::Status Place(const Layout& layout) {
    Arena measure = Arena::Measuring("weights");
    RETURN_IF_ERROR(layout(measure));
    ASSIGN_OR_RETURN(DeviceBuffer buffer,
                     backend_.allocator().Allocate(measure.peak_bytes(), MemoryTag::kWeights));
    Arena arena("weights", buffer.data(), buffer.size_bytes());
    model_->weight_bytes_ += buffer.size_bytes();
    model_->buffers_.push_back(std::move(buffer));
    return layout(arena);
  }

  absl::Status PlaceShared(Arena& arena) {
    const ModelConfig& config = model_->config_;
    const Shape matrix = {config.vocab_size, config.hidden_size};
    ASSIGN_OR_RETURN(model_->embedding_, arena.Allocate(DType::kBF16, matrix));
    model_->head_ = {};
    model_->head_.out_features = config.vocab_size;
    model_->head_.in_features = config.hidden_size;
    model_->head_.dense = model_->embedding_;
    if (plan_.head != nullptr) {
      ASSIGN_OR_RETURN(model_->head_.dense, arena.Allocate(DType::kBF16, matrix));
    }
    ASSIGN_OR_RETURN(model_->final_norm_, arena.Allocate(DType::kF32, {config.hidden_size}));
    ASSIGN_OR_RETURN(model_->rope_inv_freq_, arena.Allocate(DType::kF32, {config.head_dim / 2}));
    if (model_->quant_.format == QuantFormat::kNone) return absl::OkStatus();
    const int64_t codes = int64_t{1} << CodeBits(model_->quant_.format);
    ASSIGN_OR_RETURN(code_book_, arena.Allocate(DType::kF32, {codes}));
    ASSIGN_OR_RETURN(nested_code_, arena.Allocate(DType::kF32, {256}));
    return absl::OkStatus();
  }

  absl::Status PlaceLayer(const LayerSource& source, Arena& arena, LayerWeights& layer) {
    const Shape norm = {model_->config_.hidden_size};
    ASSIGN_OR_RETURN(layer.input_norm, arena.Allocate(DType::kF32, norm));
    ASSIGN_OR_RETURN(layer.post_attention_norm, arena.Allocate(DType::kF32, norm));
    for (int i = 0; i < kNumProjections; ++i) {
      const LinearSource& linear = source.linear[i];
      RETURN_IF_ERROR(PlaceWeight(linear, arena, layer.linear[i].weight));
      if (linear.bias == nullptr) continue;
      ASSIGN_OR_RETURN(layer.linear[i].bias, arena.Allocate(DType::kF32, {linear.out_features}));
    }
    return absl::OkStatus();
  }

  absl::Status PlaceWeight(const LinearSource& source, Arena& arena, WeightView& weight) {
    weight.out_features = source.out_features;
    weight.in_features = source.in_features;
    // A checkpoint that is quantised keeps 16 bits where it has 16 bits (llm_int8_skip_modules).
    const bool dense = plan_.packed != nullptr ? !source.packed.has_value()
                                               : model_->quant_.format == QuantFormat::kNone;
    if (dense) {
      ASSIGN_OR_RETURN(weight.dense,
                       arena.Allocate(DType::kBF16, {source.out_features, source.in_features}));
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

  absl::Status LoadShared() {
    RETURN_IF_ERROR(LoadBFloat16(*plan_.embedding, model_->embedding_));
    if (plan_.head != nullptr) RETURN_IF_ERROR(LoadBFloat16(*plan_.head, model_->head_.dense));
    RETURN_IF_ERROR(LoadFloat(*plan_.final_norm, model_->final_norm_));
    RETURN_IF_ERROR(
        Upload(Vector(RopeInverseFrequencies(model_->config_)), model_->rope_inv_freq_));
    const QuantSpec& quant = model_->quant_;
    if (quant.format == QuantFormat::kNone) return absl::OkStatus();
    std::vector<float> code_book = CodeBook(quant.format);
    std::vector<float> nested_code(DynamicMap().begin(), DynamicMap().end());
    if (plan_.packed != nullptr) {
      const BitsAndBytesParts& parts = *plan_.packed->packed;
      code_book = Floats(*parts.quant_map);
      if (quant.double_quant) nested_code = Floats(*parts.nested_quant_map);
    }
    RETURN_IF_ERROR(Upload(Vector(code_book), code_book_));
    return Upload(Vector(nested_code), nested_code_);
  }

  absl::Status LoadLayer(const LayerSource& source, LayerWeights& layer) {
    RETURN_IF_ERROR(LoadFloat(*source.input_norm, layer.input_norm));
    RETURN_IF_ERROR(LoadFloat(*source.post_attention_norm, layer.post_attention_norm));
    for (int i = 0; i < kNumProjections; ++i) {
      const LinearSource& linear = source.linear[i];
      WeightView& weight = layer.linear[i].weight;
      if (linear.bias != nullptr) RETURN_IF_ERROR(LoadFloat(*linear.bias, layer.linear[i].bias));
      if (linear.packed.has_value()) {
        RETURN_IF_ERROR(LoadPacked(linear, weight));
      } else if (weight.spec.format == QuantFormat::kNone) {
        RETURN_IF_ERROR(LoadBFloat16(*linear.weight, weight.dense));
      } else {
        RETURN_IF_ERROR(LoadQuantized(*linear.weight, weight));
      }
    }
    return absl::OkStatus();
  }

  // Queues a copy to a view of model_'s own buffers.
  absl::Status Queue(const void* from, int64_t bytes, const ConstTensorView& to, int64_t offset) {
    return backend_.Copy(static_cast<char*>(const_cast<void*>(to.data)) + offset, from, bytes,
                         stream_);
  }
  // Copies; `from` may go away on return.
  absl::Status Upload(const ConstTensorView& from, const ConstTensorView& to) {
    RETURN_IF_ERROR(Queue(from.data, from.size_bytes(), to, 0));
    return stream_.Synchronize();
  }

  absl::Status LoadFloat(const SafetensorsEntry& entry, const ConstTensorView& to) {
    std::vector<float> values(to.num_elements());
    RETURN_IF_ERROR(ReadFloats(entry, 0, to.num_elements(), values.data()));
    return Upload(Vector(values), to);
  }

  absl::Status LoadBFloat16(const SafetensorsEntry& entry, const ConstTensorView& to) {
    std::vector<std::vector<BFloat16>> pieces(MaxPiecesAtOnce());
    return ForEachPiece(
        to.num_elements(),
        [&](int slot, int64_t begin, int64_t end) {
          pieces[slot].resize(end - begin);
          return ReadBFloat16s(entry, begin, end, pieces[slot].data());
        },
        [&](int slot, int64_t begin, int64_t end) -> absl::Status {
          RETURN_IF_ERROR(Queue(pieces[slot].data(), 2 * (end - begin), to, 2 * begin));
          return stream_.Synchronize();
        });
  }

  // Encodes piece by piece: beside the codes on the device only the scales and the pieces in work
  // are ever held.
  absl::Status LoadQuantized(const SafetensorsEntry& entry, WeightView& weight) {
    QuantSpec single = weight.spec;
    single.double_quant = false;
    QuantizedMatrix scales;
    scales.spec = single;
    scales.scales.reserve(weight.num_blocks());
    std::vector<QuantizedMatrix> pieces(MaxPiecesAtOnce());
    RETURN_IF_ERROR(ForEachPiece(
        weight.num_elements(),
        [&](int slot, int64_t begin, int64_t end) -> absl::Status {
          std::vector<float> values(end - begin);
          RETURN_IF_ERROR(ReadFloats(entry, begin, end, values.data()));
          pieces[slot] = Quantize(single, 1, end - begin, values.data());
          return absl::OkStatus();
        },
        [&](int slot, int64_t begin, int64_t) -> absl::Status {
          const QuantizedMatrix& piece = pieces[slot];
          scales.scales.insert(scales.scales.end(), piece.scales.begin(), piece.scales.end());
          RETURN_IF_ERROR(Queue(piece.codes.data(), static_cast<int64_t>(piece.codes.size()),
                                weight.codes, begin * CodeBits(single.format) / 8));
          return stream_.Synchronize();
        }));
    if (!weight.spec.double_quant) return Upload(Vector(scales.scales), weight.scales);
    QuantizeScales(scales);
    weight.nested_offset = scales.nested_offset;
    RETURN_IF_ERROR(Upload(Vector(scales.nested_scales), weight.nested_scales));
    return Upload({scales.scales_u8.data(), DType::kU8, weight.scales_u8.shape}, weight.scales_u8);
  }

  absl::Status LoadPacked(const LinearSource& source, WeightView& weight) {
    const BitsAndBytesParts& parts = *source.packed;
    RETURN_IF_ERROR(Queue(source.weight->data, source.weight->size_bytes, weight.codes, 0));
    const ConstTensorView& scales = weight.spec.double_quant ? weight.scales_u8 : weight.scales;
    RETURN_IF_ERROR(Queue(parts.absmax->data, parts.absmax->size_bytes, scales, 0));
    if (weight.spec.double_quant) {
      weight.nested_offset = parts.nested_offset;
      RETURN_IF_ERROR(Queue(parts.nested_absmax->data, parts.nested_absmax->size_bytes,
                            weight.nested_scales, 0));
    }
    return stream_.Synchronize();
  }

  const CheckpointPlan& plan_;
  Backend& backend_;
  Stream& stream_;
  std::unique_ptr<Model> model_;
  ConstTensorView code_book_, nested_code_;  // of all matrices
};

absl::StatusOr<std::shared_ptr<const Model>> Model::Load(const std::string& model_dir,
                                                         const QuantSpec& quant, Backend& backend) {
  return ModelLoader::Load(model_dir, quant, backend);
}

}  // namespace lorad
