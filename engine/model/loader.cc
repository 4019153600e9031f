// Loads a checkpoint onto a device: plan and check everything, then one layer at a time.
#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/io/safetensors_checkpoint.h"
#include "engine/model/checkpoint_digest.h"
#include "engine/model/checkpoint_plan.h"
#include "engine/model/host_values.h"
#include "engine/model/model_builder.h"
#include "engine/model/weights.h"
#include "engine/quant/code_book.h"
#include "engine/quant/quant.h"

namespace lorad {
namespace {

std::vector<float> Floats(const SafetensorsEntry& entry) {
  const float* values = static_cast<const float*>(entry.data);
  return std::vector<float>(values, values + entry.size_bytes / sizeof(float));
}

class ModelLoader {
 public:
  static absl::StatusOr<std::shared_ptr<const Model>> Load(const std::string& model_dir,
                                                           const QuantSpec& quant, Backend& backend,
                                                           const ModelOptions& options) {
    RETURN_IF_ERROR(ValidateQuantSpec(quant));
    ASSIGN_OR_RETURN(ModelConfig config, LoadModelConfig(model_dir));
    ASSIGN_OR_RETURN(const SafetensorsCheckpoint checkpoint,
                     SafetensorsCheckpoint::Open(model_dir));
    ASSIGN_OR_RETURN(const CheckpointPlan plan, PlanCheckpoint(config, checkpoint));
    ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, backend.CreateStream());
    CheckpointDigest digest(checkpoint);
    const QuantSpec& spec = plan.packed != nullptr ? plan.packed->packed->spec : quant;
    RETURN_IF_ERROR(CheckModelOptions(options, spec));
    ModelLoader loader(std::move(config), spec, plan, backend, *stream, options);
    RETURN_IF_ERROR(loader.LoadTensors());
    const Model& model = loader.builder_.model();
    std::string identity = digest.Finish(model.config(), model.quant());
    for (const SafetensorsFile& file : checkpoint.files()) RETURN_IF_ERROR(file.CheckUnchanged());
    RETURN_IF_ERROR(loader.builder_.Arrange());
    return loader.builder_.Finish(std::move(identity));
  }

 private:
  ModelLoader(ModelConfig config, const QuantSpec& quant, const CheckpointPlan& plan,
              Backend& backend, Stream& stream, const ModelOptions& options)
      : plan_(plan),
        stream_(stream),
        builder_(std::move(config), quant, backend, stream, options) {}

  absl::Status LoadTensors() {
    RETURN_IF_ERROR(builder_.PlaceShared());
    RETURN_IF_ERROR(LoadShared());
    for (size_t i = 0; i < plan_.layers.size(); ++i) {
      const LayerSource& source = plan_.layers[i];
      RETURN_IF_ERROR(builder_.PlaceLayer(static_cast<int64_t>(i), SixteenBit(source)));
      RETURN_IF_ERROR(LoadLayer(source, builder_.layer(static_cast<int64_t>(i))));
    }
    return absl::OkStatus();
  }

  // A checkpoint that is quantised keeps 16 bits where it has 16 bits (llm_int8_skip_modules).
  std::array<bool, kNumProjections> SixteenBit(const LayerSource& source) const {
    std::array<bool, kNumProjections> sixteen_bit = {};
    for (int i = 0; plan_.packed != nullptr && i < kNumProjections; ++i)
      sixteen_bit[i] = !source.linear[i].packed.has_value();
    return sixteen_bit;
  }

  absl::Status LoadShared() {
    const Model& model = builder_.model();
    RETURN_IF_ERROR(LoadBFloat16(*plan_.embedding, model.embedding()));
    if (plan_.head != nullptr) RETURN_IF_ERROR(LoadBFloat16(*plan_.head, model.head().dense));
    RETURN_IF_ERROR(LoadFloat(*plan_.final_norm, model.final_norm()));
    RETURN_IF_ERROR(builder_.Upload(RopeInverseFrequencies(model.config()), model.rope_inv_freq()));
    const QuantSpec& quant = model.quant();
    if (quant.format == QuantFormat::kNone) return absl::OkStatus();
    std::vector<float> code_book = CodeBook(quant.format);
    std::vector<float> nested_code(DynamicMap().begin(), DynamicMap().end());
    if (plan_.packed != nullptr) {
      const BitsAndBytesParts& parts = *plan_.packed->packed;
      code_book = Floats(*parts.quant_map);
      if (quant.double_quant) nested_code = Floats(*parts.nested_quant_map);
    }
    RETURN_IF_ERROR(builder_.Upload(code_book, builder_.code_book()));
    RETURN_IF_ERROR(builder_.Upload(nested_code, builder_.nested_code()));
    if (builder_.quant_head() == nullptr) return absl::OkStatus();
    return LoadQuantized(plan_.head != nullptr ? *plan_.head : *plan_.embedding,
                         *builder_.quant_head());
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

  absl::Status LoadFloat(const SafetensorsEntry& entry, const ConstTensorView& to) {
    std::vector<float> values(to.num_elements());
    RETURN_IF_ERROR(ReadFloats(entry, 0, to.num_elements(), values.data()));
    return builder_.Upload(values, to);
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
          RETURN_IF_ERROR(builder_.Queue(pieces[slot].data(), 2 * (end - begin), to, 2 * begin));
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
          RETURN_IF_ERROR(builder_.Queue(piece.codes.data(),
                                         static_cast<int64_t>(piece.codes.size()), weight.codes,
                                         begin * CodeBits(single.format) / 8));
          return stream_.Synchronize();
        }));
    if (!weight.spec.double_quant) return builder_.Upload(scales.scales, weight.scales);
    QuantizeScales(scales);
    weight.nested_offset = scales.nested_offset;
    RETURN_IF_ERROR(builder_.Upload(scales.nested_scales, weight.nested_scales));
    return builder_.Upload(
        ConstTensorView(scales.scales_u8.data(), DType::kU8, weight.scales_u8.shape),
        weight.scales_u8);
  }

  absl::Status LoadPacked(const LinearSource& source, WeightView& weight) {
    const BitsAndBytesParts& parts = *source.packed;
    RETURN_IF_ERROR(
        builder_.Queue(source.weight->data, source.weight->size_bytes, weight.codes, 0));
    const ConstTensorView& scales = weight.spec.double_quant ? weight.scales_u8 : weight.scales;
    RETURN_IF_ERROR(builder_.Queue(parts.absmax->data, parts.absmax->size_bytes, scales, 0));
    if (weight.spec.double_quant) {
      weight.nested_offset = parts.nested_offset;
      RETURN_IF_ERROR(builder_.Queue(parts.nested_absmax->data, parts.nested_absmax->size_bytes,
                                     weight.nested_scales, 0));
    }
    return stream_.Synchronize();
  }

  const CheckpointPlan& plan_;
  Stream& stream_;
  ModelBuilder builder_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Model>> Model::Load(const std::string& model_dir,
                                                         const QuantSpec& quant, Backend& backend,
                                                         const ModelOptions& options) {
  return ModelLoader::Load(model_dir, quant, backend, options);
}

}  // namespace lorad
