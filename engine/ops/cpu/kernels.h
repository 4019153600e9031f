// The CPU backend's ops for an activation type T (float, or double where gradients are checked).
// Arguments have been validated; `flops` hears of what is computed, by the convention of
// engine/core/flop_counter.h. Each file of this folder defines one group and instantiates both.
#ifndef LORAD_ENGINE_OPS_CPU_KERNELS_H_
#define LORAD_ENGINE_OPS_CPU_KERNELS_H_

#include <cstdint>

#include "engine/ops/attention.h"
#include "engine/ops/cpu/flop_meter.h"
#include "engine/ops/cpu/rope_table.h"
#include "engine/ops/cpu/thread_pool.h"
#include "engine/ops/cross_entropy.h"
#include "engine/ops/dequantize.h"
#include "engine/ops/embedding.h"
#include "engine/ops/linear.h"
#include "engine/ops/optimizer.h"
#include "engine/ops/rms_norm.h"
#include "engine/ops/rope.h"
#include "engine/ops/sample.h"
#include "engine/ops/swiglu.h"

namespace lorad::cpu {

template <typename T>
void Embedding(const EmbeddingArgs& args, ThreadPool& pool);
template <typename T>
void RmsNorm(const RmsNormArgs& args, ThreadPool& pool, FlopMeter flops);
template <typename T>
void RmsNormBackward(const RmsNormBackwardArgs& args, ThreadPool& pool, FlopMeter flops);
template <typename T>
void Rope(const RopeArgs& args, RopeTable<T>& table, ThreadPool& pool, FlopMeter flops);
template <typename T>
void SwiGlu(const SwiGluArgs& args, ThreadPool& pool, FlopMeter flops);
template <typename T>
void SwiGluBackward(const SwiGluBackwardArgs& args, ThreadPool& pool, FlopMeter flops);
template <typename T>
void Linear(const LinearArgs& args, ThreadPool& pool, FlopMeter flops);
template <typename T>
void LinearBackward(const LinearBackwardArgs& args, ThreadPool& pool, FlopMeter flops);
template <typename T>
void Attention(const AttentionArgs& args, ThreadPool& pool, FlopMeter flops);
template <typename T>
void AttentionBackward(const AttentionBackwardArgs& args, ThreadPool& pool, FlopMeter flops);
template <typename T>
void PagedAttention(const PagedAttentionArgs& args, ThreadPool& pool, FlopMeter flops);
template <typename T>
void KvWrite(const KvWriteArgs& args);
template <typename T>
void Sample(const SampleArgs& args, ThreadPool& pool);
template <typename T>
void LinearCrossEntropy(const LinearCrossEntropyArgs& args, ThreadPool& pool, FlopMeter flops);
template <typename T>
void AdamW(const AdamWArgs& args, ThreadPool& pool, FlopMeter flops);
template <typename T>
void SumSquares(const SumSquaresArgs& args, FlopMeter flops);

template <typename T>
int64_t LinearWorkspaceBytes(const LinearArgs& args, const ThreadPool& pool);
template <typename T>
int64_t LinearBackwardWorkspaceBytes(const LinearBackwardArgs& args, const ThreadPool& pool);
template <typename T>
int64_t LinearCrossEntropyWorkspaceBytes(const LinearCrossEntropyArgs& args,
                                         const ThreadPool& pool);

// T: BFloat16, float or double.
template <typename T>
void Dequantize(const DequantizeArgs& args, ThreadPool& pool, FlopMeter flops);

// A part of a weight matrix.
struct WeightTile {
  int64_t out_begin, out_end, in_begin, in_end;
};
// out [out_end - out_begin, in_end - in_begin]: the tile's values, already rounded to bf16. T:
// BFloat16, float or double.
template <typename T>
void DequantizeTile(const WeightView& weight, const WeightTile& tile, T* out);

}  // namespace lorad::cpu

#endif  // LORAD_ENGINE_OPS_CPU_KERNELS_H_
