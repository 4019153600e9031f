// The LoRA part of a linear layer on the CPU, one segment at a time.
#ifndef LORAD_ENGINE_OPS_CPU_LORA_TERMS_H_
#define LORAD_ENGINE_OPS_CPU_LORA_TERMS_H_

#include <cstdint>

#include "engine/ops/linear.h"

namespace lorad::cpu {

// xa = drop(x) A^T;  y += scaling * xa B^T, for the segment's rows. x [num_tokens, in],
// y [num_tokens, out]. `scratch`: [rows, in] when there is dropout. With `row_invariant` each row
// is computed on its own.
template <typename T>
void LoraForward(const LoraSegment& segment, const LoraDropout& dropout, const T* x, int64_t in,
                 T* y, int64_t out, bool row_invariant, T* scratch);

// db += scaling * dy^T xa;  s = scaling * dy B;  da += s^T drop(x);  dx += drop'(s A).
// dx null: not wanted. `scratch`: [rows, rank + in].
template <typename T>
void LoraBackward(const LoraSegment& segment, const LoraDropout& dropout, const T* x, int64_t in,
                  const T* dy, int64_t out, T* dx, T* scratch);

}  // namespace lorad::cpu

#endif  // LORAD_ENGINE_OPS_CPU_LORA_TERMS_H_
