#include "engine/model/random_model.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/core/checked_math.h"
#include "engine/core/float16.h"
#include "engine/core/philox.h"
#include "engine/core/status_macros.h"
#include "engine/model/host_values.h"
#include "engine/model/model_builder.h"
#include "engine/quant/code_book.h"
#include "engine/quant/quant.h"

namespace lorad {
namespace {

// Elements of the longest piece; the block has two of them. The largest is a multiple of every
// group; the smallest leaves small models some places to choose from.
constexpr int64_t kMinPieceElements = int64_t{1} << 18;
constexpr int64_t kMaxPieceElements = int64_t{1} << 23;

// Streams of random numbers: the last word of Philox's counter.
constexpr uint32_t kNumbers = 0, kPlaces = 1;

// Four independent standard normal numbers. Source: Box and Muller, 1958.
void StandardNormals(uint64_t seed, uint32_t index, float out[4]) {
  const PhiloxBlock block = Philox4x32(seed, index, 0, 0, kNumbers);
  for (int i = 0; i < 4; i += 2) {
    const float radius = std::sqrt(-2 * std::log(1 - UniformFloat(block.words[i])));
    const float angle = 2 * std::numbers::pi_v<float> * UniformFloat(block.words[i + 1]);
    out[i] = radius * std::cos(angle);
    out[i + 1] = radius * std::sin(angle);
  }
}

int64_t LargestMatrix(const ModelConfig& config) {
  int64_t largest = config.vocab_size * config.hidden_size;
  for (const Projection p : kAllProjections)
    largest = std::max(largest, InFeatures(config, p) * OutFeatures(config, p));
  return largest;
}

std::vector<float> Scaled(const std::vector<float>& values, float factor) {
  std::vector<float> scaled(values.size());
  std::transform(values.begin(), values.end(), scaled.begin(),
                 [factor](float value) { return value * factor; });
  return scaled;
}

// Part [from, from + size) of the block goes to elements [begin, begin + size) of a tensor.
struct Piece {
  int64_t begin = 0, size = 0, from = 0;
};

// The block: standard normal numbers, and what they are when quantised. Other deviations are
// multiples of it, made when first asked for and kept, as queued copies read them.
class RandomBlock {
 public:
  RandomBlock(const ModelConfig& config, const QuantSpec& quant, uint64_t seed)
      : quant_(quant),
        seed_(seed),
        group_(int64_t{quant.block} * kNestedBlock),
        piece_(RoundUp(std::clamp(LargestMatrix(config), kMinPieceElements, kMaxPieceElements),
                       group_)) {}

  absl::Status Fill() {
    normals_.resize(2 * piece_);
    quantized_.spec = quant_;
    quantized_.spec.double_quant = false;
    std::vector<QuantizedMatrix> parts(MaxPiecesAtOnce());
    RETURN_IF_ERROR(ForEachPiece(
        2 * piece_,
        [&](int slot, int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; i += 4)
            StandardNormals(seed_, static_cast<uint32_t>(i / 4), &normals_[i]);
          if (quant_.format != QuantFormat::kNone)
            parts[slot] = Quantize(quantized_.spec, 1, end - begin, &normals_[begin]);
          return absl::OkStatus();
        },
        [&](int slot, int64_t, int64_t) {
          const QuantizedMatrix& part = parts[slot];
          quantized_.codes.insert(quantized_.codes.end(), part.codes.begin(), part.codes.end());
          quantized_.scales.insert(quantized_.scales.end(), part.scales.begin(), part.scales.end());
          return absl::OkStatus();
        }));
    if (quant_.format != QuantFormat::kNone && quant_.double_quant) QuantizeScales(quantized_);
    return absl::OkStatus();
  }

  // How a tensor is cut. Places are whole groups of the second quantisation from the block's
  // beginning, so that scales and nested scales go with their codes.
  std::vector<Piece> Pieces(int64_t num_elements) {
    std::vector<Piece> pieces;
    const auto places = static_cast<uint32_t>(piece_ / group_ + 1);
    for (int64_t begin = 0; begin < num_elements; begin += piece_) {
      const uint32_t word = Philox4x32(seed_, draws_++, 0, 0, kPlaces).words[0];
      pieces.push_back({begin, std::min(piece_, num_elements - begin), word % places * group_});
    }
    return pieces;
  }

  const QuantizedMatrix& quantized() const { return quantized_; }  // of deviation 1

  const std::vector<float>& Floats(float stddev) {
    return Cached(floats_, stddev, [&] { return Scaled(normals_, stddev); });
  }
  const std::vector<BFloat16>& BFloat16s(float stddev) {
    return Cached(bfloat16s_, stddev, [&] {
      std::vector<BFloat16> rounded(normals_.size());
      std::transform(normals_.begin(), normals_.end(), rounded.begin(),
                     [stddev](float value) { return ToBFloat16(value * stddev); });
      return rounded;
    });
  }
  const std::vector<float>& Scales(float stddev) {
    return Cached(scales_, stddev, [&] { return Scaled(quantized_.scales, stddev); });
  }
  const std::vector<float>& NestedScales(float stddev) {
    return Cached(nested_scales_, stddev, [&] { return Scaled(quantized_.nested_scales, stddev); });
  }

 private:
  template <typename T>
  using Cache = std::map<float, std::vector<T>>;  // by standard deviation

  template <typename T, typename Make>
  static const std::vector<T>& Cached(Cache<T>& cache, float stddev, const Make& make) {
    const auto found = cache.find(stddev);
    return found != cache.end() ? found->second : cache.emplace(stddev, make()).first->second;
  }

  const QuantSpec quant_;
  const uint64_t seed_;
  const int64_t group_;  // elements
  const int64_t piece_;  // elements of the longest piece: whole groups
  uint32_t draws_ = 0;
  std::vector<float> normals_;
  QuantizedMatrix quantized_;
  Cache<float> floats_, scales_, nested_scales_;
  Cache<BFloat16> bfloat16s_;
};

class RandomWriter {
 public:
  RandomWriter(ModelBuilder& builder, RandomBlock& block) : builder_(builder), block_(block) {}

  absl::Status Write() {
    RETURN_IF_ERROR(builder_.PlaceShared());
    RETURN_IF_ERROR(WriteShared());
    for (int64_t i = 0; i < builder_.model().config().num_layers; ++i) {
      RETURN_IF_ERROR(builder_.PlaceLayer(i));
      RETURN_IF_ERROR(WriteLayer(builder_.layer(i)));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status WriteShared() {
    const Model& model = builder_.model();
    const ModelConfig& config = model.config();
    RETURN_IF_ERROR(WriteBFloat16(kRandomStddev, model.embedding()));
    if (!config.tie_word_embeddings)
      RETURN_IF_ERROR(WriteBFloat16(kRandomStddev, model.head().dense));
    RETURN_IF_ERROR(WriteOnes(model.final_norm()));
    RETURN_IF_ERROR(builder_.Upload(RopeInverseFrequencies(config), model.rope_inv_freq()));
    if (model.quant().format == QuantFormat::kNone) return absl::OkStatus();
    RETURN_IF_ERROR(builder_.Upload(CodeBook(model.quant().format), builder_.code_book()));
    const std::vector<float> nested_code(DynamicMap().begin(), DynamicMap().end());
    RETURN_IF_ERROR(builder_.Upload(nested_code, builder_.nested_code()));
    if (builder_.quant_head() == nullptr) return absl::OkStatus();
    return WriteWeight(kRandomStddev, *builder_.quant_head());
  }

  absl::Status WriteLayer(LayerWeights& layer) {
    RETURN_IF_ERROR(WriteOnes(layer.input_norm));
    RETURN_IF_ERROR(WriteOnes(layer.post_attention_norm));
    for (LinearWeights& linear : layer.linear) {
      const auto in = static_cast<float>(linear.weight.in_features);
      RETURN_IF_ERROR(WriteWeight(1 / std::sqrt(in), linear.weight));
      if (!linear.bias.empty()) RETURN_IF_ERROR(WriteFloat(kRandomStddev, linear.bias));
    }
    return absl::OkStatus();
  }

  absl::Status WriteWeight(float stddev, WeightView& weight) {
    if (weight.spec.format == QuantFormat::kNone) return WriteBFloat16(stddev, weight.dense);
    weight.nested_offset = block_.quantized().nested_offset * stddev;
    for (const Piece& piece : block_.Pieces(weight.num_elements()))
      RETURN_IF_ERROR(WriteQuantized(stddev, piece, weight));
    return absl::OkStatus();
  }

  absl::Status WriteQuantized(float stddev, const Piece& piece, const WeightView& weight) {
    const QuantizedMatrix& unit = block_.quantized();
    const int bits = CodeBits(weight.spec.format);
    RETURN_IF_ERROR(builder_.Queue(&unit.codes[piece.from * bits / 8],
                                   CeilDiv(piece.size * bits, 8), weight.codes,
                                   piece.begin * bits / 8));
    const int64_t block = weight.spec.block;
    const int64_t to = piece.begin / block, from = piece.from / block;
    const int64_t blocks = CeilDiv(piece.size, block);
    if (!weight.spec.double_quant)
      return builder_.Queue(&block_.Scales(stddev)[from], 4 * blocks, weight.scales, 4 * to);
    RETURN_IF_ERROR(builder_.Queue(&unit.scales_u8[from], blocks, weight.scales_u8, to));
    return builder_.Queue(&block_.NestedScales(stddev)[from / kNestedBlock],
                          4 * CeilDiv(blocks, kNestedBlock), weight.nested_scales,
                          4 * (to / kNestedBlock));
  }

  absl::Status WriteBFloat16(float stddev, const ConstTensorView& to) {
    const std::vector<BFloat16>& values = block_.BFloat16s(stddev);
    for (const Piece& piece : block_.Pieces(to.num_elements()))
      RETURN_IF_ERROR(builder_.Queue(&values[piece.from], 2 * piece.size, to, 2 * piece.begin));
    return absl::OkStatus();
  }

  absl::Status WriteFloat(float stddev, const ConstTensorView& to) {
    const std::vector<float>& values = block_.Floats(stddev);
    for (const Piece& piece : block_.Pieces(to.num_elements()))
      RETURN_IF_ERROR(builder_.Queue(&values[piece.from], 4 * piece.size, to, 4 * piece.begin));
    return absl::OkStatus();
  }

  absl::Status WriteOnes(const ConstTensorView& to) {
    return builder_.Upload(std::vector<float>(to.num_elements(), 1.0f), to);
  }

  ModelBuilder& builder_;
  RandomBlock& block_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Model>> RandomModel(const ModelConfig& config,
                                                         const QuantSpec& quant, uint64_t seed,
                                                         Backend& backend,
                                                         const ModelOptions& options) {
  RETURN_IF_ERROR(ValidateQuantSpec(quant));
  RETURN_IF_ERROR(CheckModelOptions(options, quant));
  ASSIGN_OR_RETURN(const std::unique_ptr<Stream> stream, backend.CreateStream());
  RandomBlock block(config, quant, seed);
  RETURN_IF_ERROR(block.Fill());
  ModelBuilder builder(config, quant, backend, *stream, options);
  const absl::Status written = RandomWriter(builder, block).Write();
  // Queued copies read the block, and write to memory that goes back when this fails.
  const absl::Status copied = stream->Synchronize();
  RETURN_IF_ERROR(written);
  RETURN_IF_ERROR(copied);
  RETURN_IF_ERROR(builder.Arrange());
  return builder.Finish(absl::StrCat("random ", seed));
}

}  // namespace lorad
