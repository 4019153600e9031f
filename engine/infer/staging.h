// Page-locked memory between the host and a forward pass. A copy from ordinary memory makes the
// host wait for it; from here, and to here, copies are queued like any other work.
#ifndef LORAD_ENGINE_INFER_STAGING_H_
#define LORAD_ENGINE_INFER_STAGING_H_

#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/core/arena.h"
#include "engine/device/backend.h"

namespace lorad {

// A tensor to be laid out: `view` gets its place.
struct BlockMember {
  TensorView* view;
  DType dtype;
  Shape shape;
};
// Lays tensors out side by side in one block of `arena`, so that one copy moves them all, each
// aligned to 16 bytes. Returns the block, kU8.
absl::StatusOr<TensorView> AllocateBlock(absl::Span<const BlockMember> members, Arena& arena);

struct StagingBytes {
  int64_t inputs = 0;   // of the largest block that goes to the device
  int64_t outputs = 0;  // of all that comes back from one pass
};

// One pass at a time: between Begin() and the synchronisation that ends it, memory belongs to
// copies in flight. Thread-compatible.
class Staging {
 public:
  // Takes the memory under MemoryTag::kPinned. `backend` is not owned.
  static absl::StatusOr<Staging> Create(const StagingBytes& bytes, Backend& backend);

  // REQUIRES: no copy is in flight.
  void Begin() { placed_ = 0; }
  // Keeps what is to go to `member` of `block`.
  void Put(const TensorView& block, const TensorView& member, const void* data);
  // Queues the copy of the block, of which all that matters was Put.
  absl::Status Upload(const TensorView& block, Stream& stream);
  // Where a dense tensor may arrive: the same place after each Begin() for the same tensors.
  void* PlaceFor(const ConstTensorView& tensor);
  // Queues a copy of the tensor to its place: there after the synchronisation, and until Begin().
  absl::Status Fetch(const ConstTensorView& tensor, void* place, Stream& stream);

 private:
  Staging(Backend& backend, DeviceBuffer inputs, DeviceBuffer outputs)
      : backend_(&backend), inputs_(std::move(inputs)), outputs_(std::move(outputs)) {}

  Backend* backend_;
  DeviceBuffer inputs_, outputs_;
  int64_t placed_ = 0;  // bytes of outputs_ in use
};

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_STAGING_H_
