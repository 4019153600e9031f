// The LoRA part of a linear layer on the CPU, one segment at a time.
#ifndef LORAD_ENGINE_OPS_CPU_LORA_TERMS_H_
#define LORAD_ENGINE_OPS_CPU_LORA_TERMS_H_

#include <cstdint>

#include "engine/ops/cpu/flop_meter.h"
#include "engine/ops/linear.h"

namespace lorad::cpu {

// Rows [begin, end) of the batch that lie in the segment: xa = drop(x) A^T, y += scaling * xa B^T.
// x [num_tokens, in], y [num_tokens, out]. `dropped` [num_tokens, in] when there is dropout. With
// `row_invariant` each row is computed on its own.
template <typename T>
void LoraForward(const LoraSegment& segment, const LoraDropout& dropout, const T* x, int64_t in,
                 T* y, int64_t out, int64_t begin, int64_t end, bool row_invariant, T* dropped,
                 FlopMeter flops);

// The backward pass of one segment of one term: x [num_tokens, in], dy [num_tokens, out].
template <typename T>
struct LoraGradient {
  const LoraSegment* segment;
  const LoraDropout* dropout;
  const T* x;
  int64_t in;
  const T* dy;
  int64_t out;
  T* dx;       // [num_tokens, in]; null: not wanted
  T* s;        // scratch [rows of the segment, rank]
  T* dropped;  // scratch [num_tokens, in] when there is dropout
  FlopMeter flops;
};

// Rows [begin, end) of the batch that lie in the segment: s = scaling * dy B, dx += drop'(s A), and
// drop(x) for LoraBackwardA.
template <typename T>
void LoraBackwardRows(const LoraGradient<T>& g, int64_t begin, int64_t end);

// After all rows: db += scaling * dy^T xa for outputs [begin, end).
template <typename T>
void LoraBackwardB(const LoraGradient<T>& g, int64_t begin, int64_t end);
// After all rows: da += s^T drop(x) for inputs [begin, end).
template <typename T>
void LoraBackwardA(const LoraGradient<T>& g, int64_t begin, int64_t end);

}  // namespace lorad::cpu

#endif  // LORAD_ENGINE_OPS_CPU_LORA_TERMS_H_
