// Linked instead of the CUDA backend in a CPU-only build: callers need no #ifdef.
#include "engine/device/backend.h"

namespace lorad {

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(int) {
  return absl::UnimplementedError(
      "this binary was built without CUDA; configure with the preset cuda, or use --device=cpu");
}

}  // namespace lorad
