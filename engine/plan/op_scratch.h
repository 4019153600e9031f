// What the ops of a pass take of scratch on each kind of device, from shapes alone: the same sums
// as the ops' own WorkspaceBytes, for plans without a device. Held against them by
// tests/train/planned_memory_test.cc and, for CUDA, by bench_train's memory lines.
#ifndef LORAD_ENGINE_PLAN_OP_SCRATCH_H_
#define LORAD_ENGINE_PLAN_OP_SCRATCH_H_

#include <cstdint>
#include <memory>

#include "engine/core/dtype.h"
#include "engine/plan/memory_plan.h"

namespace lorad {

// How a device lays out a pass; see LinearLayout in engine/ops/linear.h.
class OpScratch {
 public:
  static std::unique_ptr<OpScratch> For(const MemoryRequest& request);
  virtual ~OpScratch() = default;

  virtual DType activation_dtype() const = 0;
  virtual bool side_by_side() const = 0;
  virtual int64_t spare_column_align() const = 0;
  virtual bool reuses_workspace() const = 0;
  // What the backend takes for its ops as long as it lives.
  virtual int64_t backend_bytes() const = 0;

  // Bytes for a group of linears over `tokens` rows: q k v (0), o (1), gate up (2), down (3).
  virtual int64_t Linear(int group, int64_t tokens, bool backward) const = 0;
  virtual int64_t Attention(int64_t tokens, bool backward) const = 0;
  virtual int64_t Loss(int64_t rows) const = 0;
};

// Projections [kPlanGroups[g], kPlanGroups[g + 1]) share an op call.
inline constexpr int kPlanGroups[] = {0, 3, 4, 6, 7};
inline constexpr int kNumPlanGroups = 4;

}  // namespace lorad

#endif  // LORAD_ENGINE_PLAN_OP_SCRATCH_H_
