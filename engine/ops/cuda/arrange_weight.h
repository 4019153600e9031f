// Putting 4-bit weights into tiles (WeightView::tiled in engine/ops/weight.h).
#ifndef LORAD_ENGINE_OPS_CUDA_ARRANGE_WEIGHT_H_
#define LORAD_ENGINE_OPS_CUDA_ARRANGE_WEIGHT_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/ops/cuda/dequantize.h"

namespace lorad::cuda {

// Bytes of scratch that the weight wants; 0: it stays as it is.
int64_t ArrangeScratchBytes(const PackedWeight& weight);

// Codes and scales_u8 of a weight that wants it, in place. `weight` says where they lie, not yet
// tiled; `codes` and `scales_u8` are those, to be written. scratch [ArrangeScratchBytes], aligned
// to 8 bytes as the codes are, scales to 4.
cudaError_t LaunchArrangeWeight(const PackedWeight& weight, void* codes, uint8_t* scales_u8,
                                void* scratch, cudaStream_t stream);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ARRANGE_WEIGHT_H_
