#include "engine/plan/memory.h"

#include "engine/core/arena.h"
#include "engine/core/checked_math.h"
#include "engine/core/dtype.h"
#include "engine/model/modules.h"

namespace lorad {
namespace {

int64_t TensorBytes(DType dtype, int64_t elements) {
  return RoundUp(elements * SizeOf(dtype), Arena::kAlignment);
}

int64_t LinearBytes(const QuantSpec& quant, int64_t elements) {
  if (quant.format == QuantFormat::kNone) return TensorBytes(DType::kBF16, elements);
  const int64_t blocks = CeilDiv(elements, quant.block);
  const int64_t codes = TensorBytes(DType::kU8, CeilDiv(elements * CodeBits(quant.format), 8));
  if (!quant.double_quant) return codes + TensorBytes(DType::kF32, blocks);
  return codes + TensorBytes(DType::kU8, blocks) +
         TensorBytes(DType::kF32, CeilDiv(blocks, kNestedBlock));
}

int64_t LayerBytes(const ModelConfig& config, const QuantSpec& quant) {
  int64_t bytes = 2 * TensorBytes(DType::kF32, config.hidden_size);  // norms
  for (const Projection projection : kAllProjections) {
    const int64_t out = OutFeatures(config, projection);
    bytes += LinearBytes(quant, out * InFeatures(config, projection));
    if (HasBias(config, projection)) bytes += TensorBytes(DType::kF32, out);
  }
  return bytes;
}

// Of all quantised matrices: the values of codes, and of the codes of scales.
int64_t CodeBookBytes(const QuantSpec& quant) {
  if (quant.format == QuantFormat::kNone) return 0;
  return TensorBytes(DType::kF32, int64_t{1} << CodeBits(quant.format)) +
         TensorBytes(DType::kF32, 256);
}

}  // namespace

int64_t ModelWeightBytes(const ModelConfig& config, const QuantSpec& quant) {
  const int64_t matrices = config.tie_word_embeddings ? 1 : 2;  // embedding, head
  return matrices * TensorBytes(DType::kBF16, config.vocab_size * config.hidden_size) +
         TensorBytes(DType::kF32, config.hidden_size) +
         TensorBytes(DType::kF32, config.head_dim / 2) + CodeBookBytes(quant) +
         config.num_layers * LayerBytes(config, quant);
}

}  // namespace lorad
