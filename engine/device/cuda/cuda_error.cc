#include "engine/device/cuda/cuda_error.h"

#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"

namespace lorad::cuda {

absl::Status ToStatus(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string message =
      absl::StrCat(what, ": ", cudaGetErrorName(error), ": ", cudaGetErrorString(error));
  switch (error) {
    case cudaErrorMemoryAllocation:
      (void)cudaGetLastError();  // not sticky: the next launch must not report it again
      return absl::ResourceExhaustedError(message);
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorStubLibrary:
    case cudaErrorInitializationError:
    case cudaErrorSystemDriverMismatch:
      return absl::UnavailableError(message);
    default:
      return absl::InternalError(message);
  }
}

void LogIfError(cudaError_t error, const char* what) {
  // At exit the driver goes before our objects do.
  if (error == cudaSuccess || error == cudaErrorCudartUnloading) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorName(error));
}

}  // namespace lorad::cuda
