// The directory that a finished job leaves.
#ifndef LORAD_ENGINE_TRAIN_OUTPUT_H_
#define LORAD_ENGINE_TRAIN_OUTPUT_H_

#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/lora/adapter.h"
#include "engine/model/config.h"

namespace lorad {

// kInternal, naming the module, when a weight is not finite.
absl::Status CheckFinite(absl::Span<const AdapterModuleView> modules);

// kFailedPrecondition when something other than an empty directory is at `dir`.
absl::Status CheckOutputUnused(const std::string& dir);

// Writes the PEFT directory, making its parents. An adapter of the same content that is already
// there is left: a job that was interrupted after this point writes it twice.
// kFailedPrecondition when anything else is there; errors of CheckFinite.
absl::Status WriteOutput(const HostAdapter& adapter, const ModelConfig& config,
                         const std::string& dir);

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_OUTPUT_H_
