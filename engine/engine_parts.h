// An engine over parts that its maker already has: benchmarks and tests make models of any shape
// and adapters in any number without a file.
#ifndef LORAD_ENGINE_ENGINE_PARTS_H_
#define LORAD_ENGINE_ENGINE_PARTS_H_

#include <memory>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/engine_device.h"
#include "engine/lora/store.h"
#include "engine/model/weights.h"

namespace lorad {

struct EngineParts {
  SelectedDevice device;               // where `model` is; one engine at a time may be on it
  std::shared_ptr<const Model> model;  // not null
  AdapterReader read_adapter;          // see AdapterStoreOptions; may be empty
};

// CreateEngine(config) without reading a checkpoint: config.model_dir is the model's name alone,
// and device, quant and num_threads are what `parts` say. There is no tokenizer: ids are served,
// and datasets must be tokenised. The engine leaves its limits on the device's allocator: whoever
// makes another engine on that device removes them first. kInvalidArgument and kResourceExhausted
// as there.
absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(const EngineConfig& config, EngineParts parts);

}  // namespace lorad

#endif  // LORAD_ENGINE_ENGINE_PARTS_H_
