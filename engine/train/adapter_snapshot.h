#ifndef LORAD_ENGINE_TRAIN_ADAPTER_SNAPSHOT_H_
#define LORAD_ENGINE_TRAIN_ADAPTER_SNAPSHOT_H_

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/backend.h"
#include "engine/lora/adapter.h"
#include "engine/train/trainable_adapter.h"

namespace lorad {

// Weights and moments of a training adapter as they were at one point of a stream, in page-locked
// host memory that is taken once: taking a snapshot is queueing copies, and blocks nobody.
// Thread-compatible; between Done() and the next Begin() any number of threads may read.
class AdapterSnapshot {
 public:
  // `adapter` and `backend` are not owned. kResourceExhausted when the host has no more memory.
  static absl::StatusOr<std::unique_ptr<AdapterSnapshot>> Create(const TrainableAdapter& adapter,
                                                                 Backend& backend);
  // What Create takes under MemoryTag::kPinned; also of an adapter over a measuring arena.
  static int64_t BytesFor(const TrainableAdapter& adapter);

  // Queues the copies. REQUIRES: an earlier snapshot is done and nobody reads it. The stream must
  // be synchronised before this object goes.
  absl::Status Begin(bool with_moments, Stream& stream);
  // Whether the copies of Begin are done. Does not block.
  absl::StatusOr<bool> Done();

  // The weights where they stand, with the ids, ranks and scalings of `like`. REQUIRES: `like` has
  // the modules that the adapter was made of.
  std::vector<AdapterModuleView> Views(const HostAdapter& like) const;
  // Copies: `like` with the weights of the snapshot; the moments. REQUIRES: as Views; Begin was
  // called with moments.
  HostAdapter ToHost(const HostAdapter& like) const;
  HostMoments Moments() const;

 private:
  enum Part { kParam, kM, kV, kMScales, kVScales, kNumParts };
  struct Piece {
    TensorView from;
    int64_t offset = 0;  // in the block
  };
  using Pieces = std::array<Piece, kNumParts>;

  AdapterSnapshot(const TrainableAdapter& adapter, Backend& backend)
      : adapter_(adapter), backend_(backend) {}
  // Where the tensors stand in the block; returns its bytes.
  static int64_t LayOut(const TrainableAdapter& adapter, Pieces& pieces);
  template <typename T>
  std::vector<T> Copy(Part part) const;
  std::vector<float> Floats(Part part) const;  // of adapter dtype
  HostMoment Moment(Part values, Part scales) const;

  const TrainableAdapter& adapter_;
  Backend& backend_;
  DeviceBuffer block_;
  Pieces pieces_;
  std::unique_ptr<Event> copied_;
  bool copying_ = false;
  std::vector<float> narrow_;  // the weights in fp32, where the adapter's dtype is another
};

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_ADAPTER_SNAPSHOT_H_
