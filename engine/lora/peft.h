// PEFT adapter directories: adapter_config.json and adapter_model.safetensors.
#ifndef LORAD_ENGINE_LORA_PEFT_H_
#define LORAD_ENGINE_LORA_PEFT_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/lora/adapter.h"
#include "engine/model/config.h"

namespace lorad {

// Reads and checks an adapter against the base model: every tensor must belong to a module that the
// config targets, A and B come in pairs, shapes and ranks agree, values are finite. F32, F16 and
// BF16. kNotFound names a missing file; kInvalidArgument the tensor or key at fault; kUnimplemented
// a setting that changes the maths and is not supported (use_dora, modules_to_save, bias, ...).
absl::StatusOr<HostAdapter> ReadPeftAdapter(const std::string& dir, const ModelConfig& model);

// Writes `dir` as a whole or not at all: minimal config (keys that old PEFT versions know), F32
// tensors sorted by name, metadata {"format":"pt"}; the same content gives the same bytes.
absl::Status WritePeftAdapter(const HostAdapter& adapter, const std::string& dir);

}  // namespace lorad

#endif  // LORAD_ENGINE_LORA_PEFT_H_
