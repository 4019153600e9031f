// The pieces into which training is cut, so that serving can run in between.
#ifndef LORAD_ENGINE_TRAIN_SLICE_H_
#define LORAD_ENGINE_TRAIN_SLICE_H_

#include <cstdint>

#include "engine/model/layer.h"
#include "engine/train/spec.h"

namespace lorad {

// Slices of one kind do the same work on each token. Parts of a layer stand in the order of
// LinearGroup; computing a layer again costs what its forward pass does.
enum class SliceKind : uint8_t {
  kPrepare,  // between steps, on the host: data, clearing gradients, the job's end
  kEmbedding,
  kForwardQkv,
  kForwardOutput,
  kForwardGateUp,
  kForwardDown,
  kLoss,
  kBackwardQkv,
  kBackwardOutput,
  kBackwardGateUp,
  kBackwardDown,
  kReadBack,  // of losses and the gradient's norm
  kUpdate,
  kSnapshot,  // copies weights, and moments, to the host
};
inline constexpr int kNumSliceKinds = 14;

struct Slice {
  SliceKind kind = SliceKind::kPrepare;
  int64_t tokens = 1;  // rows it works on; 1 where its time does not depend on them
};

inline SliceKind ForwardSliceOf(LinearGroup part) {
  return static_cast<SliceKind>(static_cast<int>(SliceKind::kForwardQkv) + static_cast<int>(part));
}
inline SliceKind BackwardSliceOf(LinearGroup part) {
  return static_cast<SliceKind>(static_cast<int>(SliceKind::kBackwardQkv) + static_cast<int>(part));
}

// Whether the call that queues such a slice waits for the device, or works on the host alone.
inline bool Blocks(SliceKind kind) {
  return kind == SliceKind::kPrepare || kind == SliceKind::kReadBack;
}

// Whether the device computes something, so that its time says something about other such kinds.
inline bool Computes(SliceKind kind) { return !Blocks(kind) && kind != SliceKind::kSnapshot; }

inline SlicePhase PhaseOf(SliceKind kind) {
  switch (kind) {
    case SliceKind::kForwardQkv:
    case SliceKind::kForwardOutput:
    case SliceKind::kForwardGateUp:
    case SliceKind::kForwardDown:
    case SliceKind::kEmbedding:
      return SlicePhase::kForward;
    case SliceKind::kLoss:
      return SlicePhase::kLoss;
    case SliceKind::kBackwardQkv:
    case SliceKind::kBackwardOutput:
    case SliceKind::kBackwardGateUp:
    case SliceKind::kBackwardDown:
      return SlicePhase::kBackward;
    case SliceKind::kReadBack:
    case SliceKind::kUpdate:
      return SlicePhase::kOptimizer;
    case SliceKind::kSnapshot:
      return SlicePhase::kCheckpoint;
    case SliceKind::kPrepare:
      break;
  }
  return SlicePhase::kOther;
}

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_SLICE_H_
