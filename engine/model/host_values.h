// Values of checkpoint tensors in the types that the model keeps. Internal to engine/model.
#ifndef LORAD_ENGINE_MODEL_HOST_VALUES_H_
#define LORAD_ENGINE_MODEL_HOST_VALUES_H_

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "engine/core/dtype.h"
#include "engine/io/safetensors.h"

namespace lorad {

// Elements [begin, end) of a BF16, F16 or F32 tensor; exact. kInvalidArgument names the tensor and
// the first element that is not finite.
absl::Status ReadFloats(const SafetensorsEntry& entry, int64_t begin, int64_t end, float* out);
// The same rounded to bf16; kInvalidArgument also when a value rounds to infinity.
absl::Status ReadBFloat16s(const SafetensorsEntry& entry, int64_t begin, int64_t end,
                           BFloat16* out);

// Elements of one piece: a multiple of every block size, so that pieces can be quantised alone.
inline constexpr int64_t kPieceElements = int64_t{1} << 20;

// How many pieces are worked on at once: one per core, at most 16.
int MaxPiecesAtOnce();

// Cuts [0, num_elements) into pieces. `work(slot, begin, end)` runs on threads of its own, up to
// MaxPiecesAtOnce() at a time, each with another slot; then `commit(slot, begin, end)` runs here,
// in order, before the slot is used again. Stops at the first error in the order of pieces.
absl::Status ForEachPiece(int64_t num_elements,
                          const std::function<absl::Status(int, int64_t, int64_t)>& work,
                          const std::function<absl::Status(int, int64_t, int64_t)>& commit);

}  // namespace lorad

#endif  // LORAD_ENGINE_MODEL_HOST_VALUES_H_
