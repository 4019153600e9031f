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
  // `rows` ascending and disjoint. The xa scratch of the widest module comes from `arena` and is
  // shared by all modules.
  static absl::StatusOr<LoraBatch> Create(std::vector<AdapterRows> rows, const Backend& backend,
                                          Arena& arena);
  absl::Span<LoraSegment> Segments(ModuleId id) override;
  LoraDropout Dropout(ModuleId) const override { return {}; }

 private:
  LoraBatch() = default;
  std::vector<AdapterRows> rows_;
  std::vector<TensorView> xa_;  // one per entry of rows_, [end - begin, max_rank]
  // q, k, v (or gate, up) are in use at once: one list per projection.
  std::array<std::vector<LoraSegment>, kNumProjections> segments_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_LORA_BATCH_H_
