#ifndef LORAD_ENGINE_TRAIN_SLICE_PHASE_H_
#define LORAD_ENGINE_TRAIN_SLICE_PHASE_H_

#include <cstdint>

namespace lorad {

// What a slice of training belongs to, for people.
enum class SlicePhase : uint8_t { kForward, kLoss, kBackward, kOptimizer, kCheckpoint, kOther };
inline constexpr int kNumSlicePhases = 6;
inline constexpr const char* kSlicePhaseNames[kNumSlicePhases] = {
    "forward", "loss", "backward", "optimizer", "checkpoint", "other"};

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_SLICE_PHASE_H_
