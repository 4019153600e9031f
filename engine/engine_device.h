// Which device the engine runs on.
#ifndef LORAD_ENGINE_ENGINE_DEVICE_H_
#define LORAD_ENGINE_ENGINE_DEVICE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/device/backend.h"

namespace lorad {

struct SelectedDevice {
  std::shared_ptr<Backend> backend;
  std::string note;  // why "auto" did not take a GPU; empty otherwise
};

// auto | cpu | cuda:N. "auto" takes the first GPU if this binary and this machine have one, and the
// CPU otherwise. kInvalidArgument for another word; the errors of CreateCudaBackend for cuda:N.
// num_threads as in EngineConfig.
absl::StatusOr<SelectedDevice> SelectDevice(const std::string& device, int32_t num_threads);

}  // namespace lorad

#endif  // LORAD_ENGINE_ENGINE_DEVICE_H_
