// What becomes of the sums of a strip of row_product_narrow.cu. Private to it.
#ifndef LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_NARROW_FINISH_CUH_
#define LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_NARROW_FINISH_CUH_

#include <cstdint>

#include "engine/ops/cuda/row_product_expand.cuh"
#include "engine/ops/cuda/row_product_lora.cuh"
#include "engine/ops/cuda/row_product_narrow_strips.cuh"
#include "engine/ops/cuda/row_product_tile.cuh"
#include "engine/ops/cuda/shared_barrier.cuh"

namespace lorad::cuda {

// Of each warp; four outputs more, so that rows do not meet in banks.
using StripSums = float[kSums][kTileRows][kTileOuts + 4];

// What one warp, a different one for each strip (or pair of gate and up), makes of all warps' sums,
// while the others go on. Where adapters add to them, a lane has what it has of a fragment; else
// lane 16 h + o has output o of rows h, h + 2, ...
template <bool kSwiGlu, typename Lora>
class StripFinisher {
 public:
  static constexpr int kItems = kTileRows * kTileOuts / 32;

  // `full` says when `partial` is written; afterwards it is free.
  __device__ __forceinline__ void Finish(const NarrowArgs<Lora>& all,
                                         const StripWalk<kSwiGlu, Lora>& strips,
                                         const StripSums& partial, SharedBarrier& full,
                                         uint32_t parity, SharedBarrier& empty, bool& has_xa) {
    const RowProductArgs& args = all.product;
    const int term = EntryOf(args, strips.strip());
    const RowProductEntry& entry = args.entries[term];
    const int64_t out = int64_t{strips.strip() - entry.first_tile} * kTileOuts;
    float residuals[kItems];
#pragma unroll
    for (int i = 0; i < kItems; ++i) {  // on their way before the sums are there
      residuals[i] = Row(i) < args.rows ? ResidualOf(entry.term, Row(i), out + Out(i)) : 0;
    }
    [[maybe_unused]] int adapter = kNoAdapter;
    [[maybe_unused]] uint2 xa;
    [[maybe_unused]] HeldB<kHeld> held;
    if constexpr (Lora::kPresent) {
      adapter = AdapterOfRow(all.lora, term, /*first_row=*/0);
      held.TakeFirst(all.lora, adapter, out);
      FindXa(all.lora, has_xa);
      const int lane = threadIdx.x % 32;
      xa = LoadXa(all.lora, adapter, lane / 4, 0, lane % 4);
    }
    full.Wait(parity);
    float values[kItems] = {};
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (Row(i) >= args.rows) continue;
      float sum = partial[0][Row(i)][Out(i)];
#pragma unroll
      for (int w = 1; w < kSums; ++w) sum += partial[w][Row(i)][Out(i)];
      values[i] = Completed(entry.term, out + Out(i), sum, residuals[i]);
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) empty.Arrive();
    if (kSwiGlu && strips.is_shared() && strips.is_up()) Receive(all.shared_pairs, strips);
    if constexpr (Lora::kPresent) {
      AddLora(all.lora, adapter, xa, /*first_row=*/0, out, held, values);
    }
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (Row(i) >= args.rows) continue;
      const float value = values[i];
      if constexpr (!kSwiGlu) {
        StoreResult(entry.term, Row(i), out + Out(i), value);
      } else if (!strips.is_up()) {
        gate_[i] = value;
      } else {
        StoreSwiGlu(args.swiglu, Row(i), out + Out(i), gate_[i], value);
      }
    }
    if (kSwiGlu && strips.is_shared() && !strips.is_up()) Leave(all.shared_pairs, strips);
  }

 private:
  static constexpr int kHeld = 4;  // adapters whose B is loaded at once
  static_assert(kItems == 4);

  static __device__ __forceinline__ int Row(int i) {
    const int lane = threadIdx.x % 32;
    return Lora::kPresent ? lane % 4 * 2 + i % 2 : 2 * i + lane / kTileOuts;
  }
  static __device__ __forceinline__ int Out(int i) {
    const int lane = threadIdx.x % 32;
    return Lora::kPresent ? lane / 4 + i / 2 * 8 : lane % kTileOuts;
  }
  // gate_ to the block of up, and from that of gate.
  __device__ __forceinline__ void Leave(const SharedPairs& pairs,
                                        const StripWalk<kSwiGlu, Lora>& strips) const {
    float* const gates = pairs.gates + strips.shared_pair() * kItems * 32 + threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < kItems; ++i) __stcg(gates + i * 32, gate_[kSwiGlu ? i : 0]);
    __threadfence();
    __syncwarp();
    if (threadIdx.x % 32 != 0) return;
    asm volatile("st.release.gpu.global.u32 [%0], 1;\n" ::"l"(pairs.ready + strips.shared_pair())
                 : "memory");
  }
  __device__ __forceinline__ void Receive(const SharedPairs& pairs,
                                          const StripWalk<kSwiGlu, Lora>& strips) {
    if (threadIdx.x % 32 == 0) {
      uint32_t* const ready = pairs.ready + strips.shared_pair();
      uint32_t now;
      do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];\n" : "=r"(now) : "l"(ready) : "memory");
      } while (now == 0);
      *ready = 0;
    }
    __syncwarp();
    const float* const gates = pairs.gates + strips.shared_pair() * kItems * 32 + threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < kItems; ++i) gate_[kSwiGlu ? i : 0] = __ldcg(gates + i * 32);
  }
  // The first warp of a block that wants xa waits for it.
  static __device__ __forceinline__ void FindXa(const Lora& lora, bool& has_xa) {
    if (threadIdx.x % 32 == 0 && !*const_cast<volatile bool*>(&has_xa)) {
      WaitForXa(lora);
      __threadfence_block();
      *const_cast<volatile bool*>(&has_xa) = true;
    }
    __threadfence_block();
    __syncwarp();
  }

  float gate_[kSwiGlu ? kItems : 1] = {};
};

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_NARROW_FINISH_CUH_
