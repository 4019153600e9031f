// What a model takes of a device's memory, from its config alone: known before a weight is read.
// Training's share is measured by running its own layout (engine/train/training_memory.h), the KV
// cache's is KvPageBytes (engine/kv).
#ifndef LORAD_ENGINE_PLAN_MEMORY_H_
#define LORAD_ENGINE_PLAN_MEMORY_H_

#include <cstdint>

#include "engine/core/quant_spec.h"
#include "engine/model/config.h"

namespace lorad {

// Bytes of a loaded 16 or 32 bit checkpoint whose decoder linears take `quant`: codes, scales,
// embeddings, head, norms, biases and code books, each aligned as an arena aligns it. Exact, so
// also for a checkpoint that bitsandbytes has quantised whole with that spec; where it left some
// linears in 16 bits (llm_int8_skip_modules), those take more.
int64_t ModelWeightBytes(const ModelConfig& config, const QuantSpec& quant);

}  // namespace lorad

#endif  // LORAD_ENGINE_PLAN_MEMORY_H_
