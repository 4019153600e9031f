#include "engine/lora/batch.h"

#include <algorithm>
#include <utility>

#include "engine/core/checked_math.h"
#include "engine/core/status_macros.h"

namespace lorad {
namespace {

// Modules that one op call works on together have scratch of their own; the others reuse it.
int Slot(Projection projection) {
  switch (projection) {
    case Projection::kK:
    case Projection::kUp:
      return 1;
    case Projection::kV:
      return 2;
    default:
      return 0;
  }
}

}  // namespace

int64_t LoraBatch::ScratchBytes(int64_t num_rows, int64_t num_adapters, int64_t max_rank,
                                const Backend& backend) {
  const int64_t elements = num_rows * max_rank;
  return kSlots *
         (elements * SizeOf(backend.activation_dtype()) + num_adapters * Arena::kAlignment);
}

absl::StatusOr<LoraBatch> LoraBatch::Create(std::vector<AdapterRows> rows, const Backend& backend,
                                            Arena& arena) {
  LoraBatch batch;
  for (const AdapterRows& r : rows) {
    std::array<TensorView, kSlots> slots;
    for (TensorView& slot : slots) {
      ASSIGN_OR_RETURN(slot, arena.Allocate(backend.activation_dtype(),
                                            {r.end - r.begin, r.adapter->max_rank()}));
    }
    batch.xa_.push_back(slots);
  }
  batch.rows_ = std::move(rows);
  return batch;
}

absl::Span<LoraSegment> LoraBatch::Segments(ModuleId id) {
  std::vector<LoraSegment>& segments = segments_[static_cast<int>(id.projection)];
  segments.clear();
  for (size_t i = 0; i < rows_.size(); ++i) {
    const AdapterRows& rows = rows_[i];
    const DeviceAdapter::Module* module = rows.adapter->Find(id);
    if (module == nullptr) continue;
    const TensorView& scratch = xa_[i][Slot(id.projection)];
    LoraSegment segment;
    segment.row_begin = rows.begin;
    segment.row_end = rows.end;
    segment.a = module->a;
    segment.b = module->b;
    segment.scaling = module->scaling;
    segment.xa = {scratch.data, scratch.dtype, {rows.end - rows.begin, module->rank}};
    segments.push_back(segment);
  }
  return absl::MakeSpan(segments);
}

}  // namespace lorad
