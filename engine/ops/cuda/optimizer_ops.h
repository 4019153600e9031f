// The optimiser's ops: args of engine/ops/optimizer.h to launches.
#ifndef LORAD_ENGINE_OPS_CUDA_OPTIMIZER_OPS_H_
#define LORAD_ENGINE_OPS_CUDA_OPTIMIZER_OPS_H_

#include "absl/status/status.h"
#include "engine/ops/cuda/matmul.h"
#include "engine/ops/optimizer.h"

namespace lorad::cuda {

// REQUIRES: valid args.
absl::Status AdamW(const AdamWArgs& args, cudaStream_t stream);
// Partial sums stand at the start of the stream's scratch.
absl::Status SumSquares(const SumSquaresArgs& args, const LinearScratch& scratch);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_OPTIMIZER_OPS_H_
