#ifndef LORAD_ENGINE_LORA_BATCH_H_
#define LORAD_ENGINE_LORA_BATCH_H_

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/core/arena.h"
#include "engine/lora/adapter.h"
#include "engine/model/layer.h"

namespace lorad {

// Rows [begin, end) of a batch go through `adapter` (not null; base rows have no entry).
struct AdapterRows {
  int64_t begin = 0;
  int64_t end = 0;
  const DeviceAdapter* adapter = nullptr;  // not owned; outlives the step
};

// The serving side of LayerLora: one step's rows over any mix of adapters, each at its own rank.
// Thread-compatible.
class LoraBatch final : public LayerLora {
 public:
  // `rows` ascending and disjoint. Scratch for x A^T comes from `arena`: one set for each module
  // that shares an op call (q, k, v), of the adapter's largest rank; used again by later calls.
  static absl::StatusOr<LoraBatch> Create(std::vector<AdapterRows> rows, const Backend& backend,
                                          Arena& arena);
  // What Create takes from its arena, at most.
  static int64_t ScratchBytes(int64_t num_rows, int64_t num_adapters, int64_t max_rank,
                              const Backend& backend);

  absl::Span<LoraSegment> Segments(ModuleId id) override;
  LoraDropout Dropout(ModuleId) const override { return {}; }

 private:
  static constexpr int kSlots = 3;

  LoraBatch() = default;
  std::vector<AdapterRows> rows_;
  // Per entry of rows_, [end - begin, max_rank].
  std::vector<std::array<TensorView, kSlots>> xa_;
  // q, k, v (or gate, up) are in use at once: one list per projection.
  std::array<std::vector<LoraSegment>, kNumProjections> segments_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_LORA_BATCH_H_
