// Which optimiser a job uses.
#ifndef LORAD_ENGINE_PLAN_OPTIMIZER_KIND_H_
#define LORAD_ENGINE_PLAN_OPTIMIZER_KIND_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "engine/core/arena.h"
#include "engine/core/checked_math.h"
#include "engine/core/dtype.h"

namespace lorad {

// AdamW with its moments in fp32 or in 8 bits, on the device or paged: in pinned host memory, which
// the update reads and writes over the bus. Paging changes no number, 8 bits do.
// Source: Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2022, and "QLoRA", 2023.
enum class OptimizerKind : uint8_t { kAdamW, kAdamW8Bit, kPagedAdamW, kPagedAdamW8Bit };

constexpr bool IsEightBit(OptimizerKind kind) {
  return kind == OptimizerKind::kAdamW8Bit || kind == OptimizerKind::kPagedAdamW8Bit;
}
constexpr bool IsPaged(OptimizerKind kind) {
  return kind == OptimizerKind::kPagedAdamW || kind == OptimizerKind::kPagedAdamW8Bit;
}

// Elements that an fp32 matrix of `elements` takes in the flat tensors of weights, gradients and
// moments: matrices begin where a tensor, or a block of 8-bit moments, would
// (engine/train/trainable_adapter.cc). The gaps are zero, and updated with the rest.
constexpr int64_t FlatElements(OptimizerKind kind, int64_t elements) {
  constexpr int64_t kMomentBlock = 256;  // engine/ops/optimizer.h
  return RoundUp(elements,
                 IsEightBit(kind) ? kMomentBlock : Arena::kAlignment / SizeOf(DType::kF32));
}

// The kind that TrainingSpec::optim names. kInvalidArgument gives the value and the known ones.
absl::StatusOr<OptimizerKind> ParseOptimizerKind(const std::string& optim);

}  // namespace lorad

#endif  // LORAD_ENGINE_PLAN_OPTIMIZER_KIND_H_
