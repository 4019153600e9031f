#include "engine/ops/cuda/stream_scratch.h"

#include <memory>
#include <utility>

#include "engine/core/status_macros.h"
#include "engine/device/cuda/cuda_error.h"
#include "engine/ops/cuda/row_product.h"

namespace lorad::cuda {
namespace {

constexpr int64_t kCounterBytes = kRowProductCounters * sizeof(uint32_t);

}  // namespace

class StreamScratchPool::Held final : public StreamState {
 public:
  Held(StreamScratchPool& pool, DeviceBuffer block) : pool_(pool), block_(std::move(block)) {}
  ~Held() override { pool_.GiveBack(std::move(block_)); }

  void* data() { return block_.data(); }
  std::unique_ptr<CudnnHandle>& cudnn() { return cudnn_; }

 private:
  StreamScratchPool& pool_;
  DeviceBuffer block_;
  std::unique_ptr<CudnnHandle> cudnn_;
};

absl::Status StreamScratchPool::Reserve(int streams) {
  for (int i = 0; i < streams; ++i) {
    ASSIGN_OR_RETURN(DeviceBuffer block, Allocate());
    GiveBack(std::move(block));
  }
  return absl::OkStatus();
}

absl::StatusOr<StreamScratchPool::Held*> StreamScratchPool::Hold(CudaStream& stream) {
  if (stream.state() == nullptr) {
    ASSIGN_OR_RETURN(DeviceBuffer block, Take());
    stream.state() = std::make_unique<Held>(*this, std::move(block));
  }
  return static_cast<Held*>(stream.state().get());
}

absl::StatusOr<LinearScratch> StreamScratchPool::For(CudaStream& stream) {
  ASSIGN_OR_RETURN(Held * held, Hold(stream));
  return LinearScratch{.stream = stream.handle(),
                       .lt_workspace = held->data(),
                       .lt_workspace_bytes = kMatmulWorkspaceBytes,
                       .counters = reinterpret_cast<uint32_t*>(static_cast<char*>(held->data()) +
                                                               kMatmulWorkspaceBytes)};
}

absl::StatusOr<CudnnHandle*> StreamScratchPool::Cudnn(CudaStream& stream) {
  ASSIGN_OR_RETURN(Held * held, Hold(stream));
  if (held->cudnn() == nullptr) {
    ASSIGN_OR_RETURN(held->cudnn(), CudnnHandle::Create(device_, stream.handle()));
  }
  return held->cudnn().get();
}

absl::StatusOr<DeviceBuffer> StreamScratchPool::Take() {
  {
    absl::MutexLock lock(&mutex_);
    if (!free_.empty()) {
      DeviceBuffer block = std::move(free_.back());
      free_.pop_back();
      return block;
    }
  }
  return Allocate();
}

// The counters lie behind the workspace. They are cleared once: a stream leaves them as it wants to
// find them.
absl::StatusOr<DeviceBuffer> StreamScratchPool::Allocate() {
  ASSIGN_OR_RETURN(DeviceBuffer block, allocator_.Allocate(kMatmulWorkspaceBytes + kCounterBytes,
                                                           MemoryTag::kWorkspace));
  RETURN_IF_ERROR(ToStatus(
      cudaMemset(static_cast<char*>(block.data()) + kMatmulWorkspaceBytes, 0, kCounterBytes),
      "cudaMemset"));
  return block;
}

void StreamScratchPool::GiveBack(DeviceBuffer block) {
  absl::MutexLock lock(&mutex_);
  free_.push_back(std::move(block));
}

}  // namespace lorad::cuda
