// Floating point operations of a step or a pass, by operation and by what they are for.
#ifndef LORAD_ENGINE_PLAN_FLOP_COUNT_H_
#define LORAD_ENGINE_PLAN_FLOP_COUNT_H_

#include <array>
#include <cstdint>
#include <string_view>

#include "absl/numeric/int128.h"
#include "absl/status/statusor.h"

namespace lorad {

// In the order in which a token meets them. What each holds: FlopOp of core/flop_counter.h, with
// the linear layers by group.
enum class PlanOp : uint8_t {
  kEmbedding,
  kNorm,
  kQkv,
  kRope,
  kScores,
  kSoftmax,
  kValues,
  kOutput,  // the projection behind attention
  kGateUp,
  kSwiGlu,
  kDown,
  kLora,
  kDropout,
  kHead,
  kLoss,
  kOptimizer,
  kDequantize,
  kTiling,
};
inline constexpr int kNumPlanOps = 18;
// "qkv", "gate_up", ...
std::string_view Name(PlanOp op);

// Recompute: of the forward pass, again, for the backward pass. The optimiser counts as backward.
enum class FlopPhase : uint8_t { kForward, kBackward, kRecompute };
inline constexpr int kNumFlopPhases = 3;

struct PhaseFlops {
  std::array<int64_t, kNumFlopPhases> by_phase{};

  int64_t operator[](FlopPhase phase) const { return by_phase[static_cast<int>(phase)]; }
  int64_t total() const { return by_phase[0] + by_phase[1] + by_phase[2]; }
  bool operator==(const PhaseFlops&) const = default;
};

// All its sums fit 64 bits.
struct FlopCount {
  std::array<PhaseFlops, kNumPlanOps> ops;

  const PhaseFlops& operator[](PlanOp op) const { return ops[static_cast<int>(op)]; }
  PhaseFlops Sum() const;
  int64_t total() const { return Sum().total(); }
};

// Adds up in 128 bits. Within the bounds of engine/plan/flop_shapes.h no term and no sum
// overflows those; whether 64 bits hold the result is asked at the end.
class FlopSheet {
 public:
  void Add(PlanOp op, FlopPhase phase, absl::int128 flops) {
    sums_[static_cast<int>(op)][static_cast<int>(phase)] += flops;
  }
  void Add(const FlopSheet& other, absl::int128 times);
  // kOutOfRange gives the sum and the bound.
  absl::StatusOr<FlopCount> Finish() const;

 private:
  std::array<std::array<absl::int128, kNumFlopPhases>, kNumPlanOps> sums_{};
};

// How long `flops` take at `flops_per_second`, in seconds. kInvalidArgument where the rate is not
// in (0, 10^21].
absl::StatusOr<double> SecondsAt(int64_t flops, double flops_per_second);

}  // namespace lorad

#endif  // LORAD_ENGINE_PLAN_FLOP_COUNT_H_
