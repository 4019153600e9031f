// How the device's memory is shared out, before any of it is taken.
#ifndef LORAD_ENGINE_ENGINE_MEMORY_H_
#define LORAD_ENGINE_ENGINE_MEMORY_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/core/quant_spec.h"
#include "engine/device/backend.h"
#include "engine/engine.h"
#include "engine/infer/pass.h"
#include "engine/kv/kv_cache.h"
#include "engine/model/config.h"

namespace lorad {

// Ranks that one pass can serve; larger ones gain nothing at the widths of models that fit.
inline constexpr int32_t kMaxAdapterRank = 4096;

struct EngineMemory {
  int64_t total = 0;      // what lorad may take
  int64_t weights = 0;    // an estimate from the shapes
  int64_t workspace = 0;  // of serving
  int64_t adapters = 0;   // of the pages: what adapters add to them, and the most of one adapter
  int64_t training = 0;   // limit
  KvCacheOptions kv;      // its pages hold adapters, too
  RunnerLimits runner;
  PassKind prompt_kind = PassKind::kMatrix;
  int64_t chunk_tokens = 0;      // of prefill
  int64_t row_chunk_tokens = 0;  // ServingOptions'
  int64_t context_tokens = 0;    // longest sequence: the model's, or what the pages hold beside the
                                 // largest adapter
};

// kInvalidArgument names a field of the configuration, its value and range.
absl::Status ValidateEngineConfig(const EngineConfig& config);

// Tokens of a prefill chunk, at most max_batch_tokens: 256 on the CPU; on a GPU 2048, or with
// itl_target_ms so many that one is computed in about that time, a power of two from 256 on. The
// plan cuts it to whole pages.
int64_t ChunkTokens(const EngineConfig& config, const DeviceInfo& device);

// How prompts are run. kRowInvariant on a GPU whose itl_target_ms is shorter than two of the
// shortest chunks that are worth a matrix pass: such a chunk and a pass of decoding would not be
// done within it. The configuration alone decides, so an answer does not depend on the load.
PassKind PromptKind(const EngineConfig& config, const DeviceInfo& device);

// Weights and workspace take what they need. The cache takes kv_cache_tokens, or, when that is 0,
// what max_running_requests sequences of full length need, but at most half of what is left; of the
// rest a quarter is for adapters and three for training. Cache and adapters are then one set of
// pages: the shares say how many there are, not who has them; but the longest sequence and the
// largest adapter always fit beside each other. kResourceExhausted names what is needed and what
// there is. REQUIRES: ValidateEngineConfig(config) is OK.
absl::StatusOr<EngineMemory> PlanMemory(const EngineConfig& config, const ModelConfig& model,
                                        const QuantSpec& quant, Backend& backend);

}  // namespace lorad

#endif  // LORAD_ENGINE_ENGINE_MEMORY_H_
