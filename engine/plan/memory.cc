#include "engine/plan/memory.h"

#include "engine/core/arena.h"
#include "engine/core/checked_math.h"
#include "engine/model/modules.h"

namespace lorad {
namespace {

void AddLinear(const QuantSpec& quant, int64_t elements, int64_t times, ModelBytes& bytes) {
  if (quant.format == QuantFormat::kNone) {
    bytes.values += times * TensorBytes(DType::kBF16, elements);
    return;
  }
  const int64_t blocks = CeilDiv(elements, quant.block);
  bytes.values += times * TensorBytes(DType::kU8, CeilDiv(elements * CodeBits(quant.format), 8));
  bytes.constants +=
      times * (quant.double_quant ? TensorBytes(DType::kU8, blocks) +
                                        TensorBytes(DType::kF32, CeilDiv(blocks, kNestedBlock))
                                  : TensorBytes(DType::kF32, blocks));
}

// Of all quantised matrices: the values of codes, and of the codes of scales.
int64_t CodeBookBytes(const QuantSpec& quant) {
  if (quant.format == QuantFormat::kNone) return 0;
  return TensorBytes(DType::kF32, int64_t{1} << CodeBits(quant.format)) +
         TensorBytes(DType::kF32, 256);
}

}  // namespace

int64_t TensorBytes(DType dtype, int64_t elements) {
  return RoundUp(elements * SizeOf(dtype), Arena::kAlignment);
}

ModelBytes CountModelBytes(const ModelConfig& config, const QuantSpec& quant) {
  const int64_t matrices = config.tie_word_embeddings ? 1 : 2;  // embedding, head
  const int64_t layers = config.num_layers;
  ModelBytes bytes;
  bytes.constants = CodeBookBytes(quant);
  bytes.values = matrices * TensorBytes(DType::kBF16, config.vocab_size * config.hidden_size) +
                 (2 * layers + 1) * TensorBytes(DType::kF32, config.hidden_size) +
                 TensorBytes(DType::kF32, config.head_dim / 2);
  for (const Projection projection : kAllProjections) {
    const int64_t out = OutFeatures(config, projection);
    AddLinear(quant, out * InFeatures(config, projection), layers, bytes);
    if (HasBias(config, projection)) bytes.values += layers * TensorBytes(DType::kF32, out);
  }
  return bytes;
}

int64_t ModelWeightBytes(const ModelConfig& config, const QuantSpec& quant) {
  return CountModelBytes(config, quant).total();
}

int64_t QuantHeadBytes(const ModelConfig& config, const QuantSpec& quant) {
  ModelBytes bytes;
  AddLinear(quant, config.vocab_size * config.hidden_size, 1, bytes);
  return bytes.total();
}

double BitsPerWeight(const QuantSpec& quant) {
  const double bits = CodeBits(quant.format), block = quant.block;
  if (quant.format == QuantFormat::kNone) return bits;
  return bits + (quant.double_quant ? 8 / block + 32 / (block * kNestedBlock) : 32 / block);
}

}  // namespace lorad
