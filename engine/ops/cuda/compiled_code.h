// What the kernels that run on the current device were compiled for. The device alone does not say:
// a newer one translates the code of an older architecture when it starts, and runs kernels whose
// newer instructions were left out when that was compiled.
#ifndef LORAD_ENGINE_OPS_CUDA_COMPILED_CODE_H_
#define LORAD_ENGINE_OPS_CUDA_COMPILED_CODE_H_

namespace lorad::cuda {

struct CompiledCode {
  int architecture = 0;    // of __CUDA_ARCH__: 800, 900; 0: it could not be found out
  bool has_wgmma = false;  // compiled for 9.0a, which no other device runs
};

// Runs a kernel when first asked, which waits for the device, and keeps the answer: all devices of
// a process are taken to be alike. Thread-safe.
const CompiledCode& RunningCode();

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_COMPILED_CODE_H_
