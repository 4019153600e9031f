// Launcher of the sampling kernel. Meaning: engine/ops/sample.h.
#ifndef LORAD_ENGINE_OPS_CUDA_SAMPLE_H_
#define LORAD_ENGINE_OPS_CUDA_SAMPLE_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/core/dtype.h"
#include "engine/ops/sample_params.h"

namespace lorad::cuda {

struct SampleOutputs {
  int32_t* ids = nullptr;         // [rows]
  float* logprobs = nullptr;      // [rows]
  int32_t* top_ids = nullptr;     // [rows, top_columns]
  float* top_logprobs = nullptr;  // [rows, top_columns]
  int top_columns = 0;            // at most kMaxTopLogprobs
};

// Rows of logits begin `stride` elements apart; aligned to 16 bytes, with a stride that is a
// multiple of 8, they are read 16 bytes at a time. params [rows] in device memory. The same inputs
// give the same bits. Takes no scratch; nothing about the launch depends on params.
// REQUIRES: 1 <= vocab < 2^24.
cudaError_t LaunchSample(const BFloat16* logits, int64_t stride, int64_t rows, int64_t vocab,
                         const DrawParams* params, const SampleOutputs& outputs,
                         cudaStream_t stream);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_SAMPLE_H_
