// What the ops keep for each stream: the matrix library's scratch and cuDNN's context.
#ifndef LORAD_ENGINE_OPS_CUDA_STREAM_SCRATCH_H_
#define LORAD_ENGINE_OPS_CUDA_STREAM_SCRATCH_H_

#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "engine/device/cuda/cuda_allocator.h"
#include "engine/device/cuda/cuda_stream.h"
#include "engine/ops/cuda/cudnn_library.h"
#include "engine/ops/cuda/matmul.h"

namespace lorad::cuda {

// Blocks of kMatmulWorkspaceBytes, and counters behind them. The first ones are taken when the
// device is, so that memory plans see them; a stream gives its block back when it ends.
// Thread-safe.
class StreamScratchPool {
 public:
  // `allocator` must outlive the pool, the pool every stream.
  StreamScratchPool(int device, CudaAllocator& allocator)
      : device_(device), allocator_(allocator) {}

  absl::Status Reserve(int streams);
  // For ops on `stream`, which holds the block from its first call on.
  absl::StatusOr<LinearScratch> For(CudaStream& stream);
  // The stream's own, made when first asked for. kUnavailable without cuDNN.
  absl::StatusOr<CudnnHandle*> Cudnn(CudaStream& stream);

 private:
  class Held;

  absl::StatusOr<Held*> Hold(CudaStream& stream);
  absl::StatusOr<DeviceBuffer> Take();
  absl::StatusOr<DeviceBuffer> Allocate();
  void GiveBack(DeviceBuffer block);

  const int device_;
  CudaAllocator& allocator_;
  absl::Mutex mutex_;
  std::vector<DeviceBuffer> free_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_STREAM_SCRATCH_H_
