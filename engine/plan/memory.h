// What a model takes of a device's memory, from its config alone: known before a weight is read.
#ifndef LORAD_ENGINE_PLAN_MEMORY_H_
#define LORAD_ENGINE_PLAN_MEMORY_H_

#include <cstdint>

#include "engine/core/dtype.h"
#include "engine/core/quant_spec.h"
#include "engine/model/config.h"

namespace lorad {

struct ModelBytes {
  int64_t values = 0;     // codes, 16-bit matrices, norms, biases
  int64_t constants = 0;  // of quantisation: scales, scales of scales, code books

  int64_t total() const { return values + constants; }
};

// Of a loaded 16 or 32 bit checkpoint whose decoder linears take `quant`, each tensor aligned as an
// arena aligns it. Exact, so also for a checkpoint that bitsandbytes has quantised whole with that
// spec; where it left some linears in 16 bits (llm_int8_skip_modules), those take more.
ModelBytes CountModelBytes(const ModelConfig& config, const QuantSpec& quant);
// Their total.
int64_t ModelWeightBytes(const ModelConfig& config, const QuantSpec& quant);

// What a head takes that is quantised for decoding (ModelOptions::quant_head), beside the model.
int64_t QuantHeadBytes(const ModelConfig& config, const QuantSpec& quant);

// Bits of one weight of a decoder linear with its share of the constants: 4.127 for nf4 in blocks
// of 64 with double quantisation, 4.5 without. Source: Dettmers et al., "QLoRA", 2023, section 3.
double BitsPerWeight(const QuantSpec& quant);

// Of what an arena takes for so many elements.
int64_t TensorBytes(DType dtype, int64_t elements);

}  // namespace lorad

#endif  // LORAD_ENGINE_PLAN_MEMORY_H_
