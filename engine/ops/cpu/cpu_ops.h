#ifndef LORAD_ENGINE_OPS_CPU_CPU_OPS_H_
#define LORAD_ENGINE_OPS_CPU_CPU_OPS_H_

#include <memory>

#include "engine/core/flop_counter.h"
#include "engine/ops/ops.h"

namespace lorad {

// The definition of every op, in float, or in double where gradients are checked. Work is done at
// the call, on `num_threads` threads, the caller's included. Sets OpenBLAS to one thread for the
// whole process. `flops`, which is not owned, counts what ops compute; null: nobody counts.
std::unique_ptr<Ops> CreateCpuOps(bool double_precision, int num_threads,
                                  FlopCounter* flops = nullptr);

}  // namespace lorad

#endif  // LORAD_ENGINE_OPS_CPU_CPU_OPS_H_
