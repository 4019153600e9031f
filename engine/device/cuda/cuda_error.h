// cudaError_t as absl::Status.
#ifndef LORAD_ENGINE_DEVICE_CUDA_CUDA_ERROR_H_
#define LORAD_ENGINE_DEVICE_CUDA_CUDA_ERROR_H_

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace lorad::cuda {

// kResourceExhausted: the device has no memory left; kUnavailable: no device or no usable driver;
// kInternal: anything else, which poisons the engine. `what` names the call.
absl::Status ToStatus(cudaError_t error, absl::string_view what);

// For destructors, which cannot return an error and must not lose one.
void LogIfError(cudaError_t error, const char* what);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_DEVICE_CUDA_CUDA_ERROR_H_
