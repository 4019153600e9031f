#include "engine/engine_device.h"

#include <cstdint>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/core/status_macros.h"

namespace lorad {

absl::StatusOr<SelectedDevice> SelectDevice(const std::string& device, int32_t num_threads) {
  CpuBackendOptions cpu;
  cpu.num_threads = num_threads;
  if (device == "cpu") return SelectedDevice{CreateCpuBackend(cpu), ""};
  if (device == "auto") {
    absl::StatusOr<std::unique_ptr<Backend>> cuda = CreateCudaBackend(0);
    if (cuda.ok()) return SelectedDevice{*std::move(cuda), ""};
    return SelectedDevice{CreateCpuBackend(cpu),
                          absl::StrCat("running on the CPU: ", cuda.status().message())};
  }
  absl::string_view rest = device;
  int index = -1;
  if (absl::ConsumePrefix(&rest, "cuda:") && absl::SimpleAtoi(rest, &index) && index >= 0) {
    ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, CreateCudaBackend(index));
    return SelectedDevice{std::move(backend), ""};
  }
  return absl::InvalidArgumentError(
      absl::StrCat("device is \"", device, "\"; it must be auto, cpu or cuda:N"));
}

}  // namespace lorad
