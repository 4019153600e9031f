// What the device has.
#ifndef LORAD_ENGINE_OPS_CUDA_DEVICE_ATTRIBUTE_CUH_
#define LORAD_ENGINE_OPS_CUDA_DEVICE_ATTRIBUTE_CUH_

#include <cuda_runtime_api.h>

namespace lorad::cuda {

// An attribute of the current device; all devices of a process are taken to be alike.
template <cudaDeviceAttr kAttribute>
int DeviceAttribute() {
  static const int value = [] {
    int device = 0, result = 0;
    if (cudaGetDevice(&device) != cudaSuccess) return 0;
    cudaDeviceGetAttribute(&result, kAttribute, device);
    return result;
  }();
  return value;
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_DEVICE_ATTRIBUTE_CUH_
