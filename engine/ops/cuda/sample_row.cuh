// One row of logits as the sampling block reads it: for its largest, for the logits that equal one
// number, and for any other walk. Private to sample.cu and sample_histogram.cuh.
#ifndef LORAD_ENGINE_OPS_CUDA_SAMPLE_ROW_CUH_
#define LORAD_ENGINE_OPS_CUDA_SAMPLE_ROW_CUH_

#include "engine/ops/cuda/block_sums.cuh"
#include "engine/ops/cuda/vector_access.cuh"
#include "engine/ops/sample_weight.h"

namespace lorad::cuda {

// The larger one, or NaN if there is one.
__device__ __forceinline__ float MaxOrNan(float a, float b) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}

// The keys of bf16 numbers: the upper 16 bits of SampleKey.
__device__ __forceinline__ uint32_t KeyOf(float logit) { return SampleKey(logit) >> 16; }
__device__ __forceinline__ float LogitOf(uint32_t key) {
  return LogitOfSampleKey(key << 16 | ((key & 0x8000u) != 0 ? 0u : 0xffffu));
}
inline constexpr uint32_t kKeyOfInfinity = kSampleKeyOfInfinity >> 16;
inline constexpr uint32_t kKeyOfMinusInfinity = kSampleKeyOfMinusInfinity >> 16;

template <int kWidth>
class SampleRow {
 public:
  __device__ SampleRow(const __nv_bfloat16* logits, int vocab) : logits_(logits), vocab_(vocab) {}

  // body(logit, id) for each, by all threads of the block, in no order.
  template <typename Body>
  __device__ __forceinline__ void ForEach(Body body) const {
    constexpr int kBatch = 4;  // packs that a thread loads before it uses the first
    const int whole = vocab_ / kWidth;
    for (int base = threadIdx.x; base < whole; base += kBatch * kBlockThreads) {
      Pack<kWidth> batch[kBatch];
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        const int pack = base + k * kBlockThreads;
        if (pack < whole) batch[k] = Load<kWidth>(logits_ + pack * kWidth);
      }
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        const int pack = base + k * kBlockThreads;
        if (pack >= whole) break;
        float values[kWidth];
        Unpack(batch[k], values);
#pragma unroll
        for (int j = 0; j < kWidth; ++j) body(values[j], pack * kWidth + j);
      }
    }
    const int last = whole * kWidth + static_cast<int>(threadIdx.x);
    if (last < vocab_) body(__bfloat162float(logits_[last]), last);
  }

  // The key of the largest logit, the same in all threads. `partial` [kBlockWarps] is shared
  // memory. Waits for the block.
  __device__ uint32_t LargestKey(float* partial) const {
    float largest = -INFINITY;
    ForEach([&](float logit, int) { largest = MaxOrNan(largest, logit); });
#pragma unroll
    for (int step = kWarpSize / 2; step > 0; step /= 2)
      largest = MaxOrNan(largest, __shfl_xor_sync(kAllLanes, largest, step));
    if (Lane() == 0) partial[Warp()] = largest;
    __syncthreads();
    return __reduce_max_sync(kAllLanes, KeyOf(partial[Lane()]));
  }

  // How many logits equal `value` in each warp's share of the row, into `equals` [kBlockWarps] in
  // shared memory. Shares follow one another in the row. Waits for the block.
  __device__ void CountEquals(float value, uint32_t* equals) const {
    const Share share = ShareOfWarp();
    uint32_t count = 0;
#pragma unroll 4
    for (int pack = share.begin + Lane(); pack < share.end; pack += kWarpSize)
      count += __popc(EqualsOf(pack, value));
    count = __reduce_add_sync(kAllLanes, count);
    if (Lane() == 0) equals[Warp()] = count;
    __syncthreads();
  }

  // The id of logit number `rank`, from 0 in order of ids, of those that equal `value`, into *id by
  // one thread. REQUIRES: CountEquals(value, equals), and that so many are there.
  __device__ void FindEqual(float value, uint32_t rank, const uint32_t* equals, int* id) const {
    const uint32_t before = __reduce_add_sync(kAllLanes, Lane() < Warp() ? equals[Lane()] : 0u);
    if (rank < before || rank >= before + equals[Warp()]) return;
    uint32_t left = rank - before;
    const Share share = ShareOfWarp();
    for (int base = share.begin; base < share.end; base += kWarpSize) {
      const int pack = base + Lane();
      uint32_t mask = pack < share.end ? EqualsOf(pack, value) : 0;
      const uint32_t count = __popc(mask), upto = SumUpToLane(count);
      const uint32_t all = __shfl_sync(kAllLanes, upto, kWarpSize - 1);
      if (left >= all) {
        left -= all;
        continue;
      }
      if (left >= upto - count && left < upto) {
        for (uint32_t skip = left - (upto - count); skip > 0; --skip) mask &= mask - 1;
        *id = pack * kWidth + __ffs(mask) - 1;
      }
      return;
    }
  }

 private:
  struct Share {
    int begin, end;  // packs; the last may reach past the row
  };
  __device__ Share ShareOfWarp() const {
    const int packs = (vocab_ + kWidth - 1) / kWidth;
    const int share = (packs + kBlockWarps - 1) / kBlockWarps;
    const int begin = min(Warp() * share, packs);
    return {begin, min(begin + share, packs)};
  }
  // A bit for each logit of the pack that equals `value`.
  __device__ __forceinline__ uint32_t EqualsOf(int pack, float value) const {
    const int begin = pack * kWidth;
    uint32_t mask = 0;
    if (begin + kWidth <= vocab_) {
      float values[kWidth];
      LoadValues(logits_ + begin, values);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) mask |= static_cast<uint32_t>(values[j] == value) << j;
    } else {
      for (int j = 0; begin + j < vocab_; ++j)
        mask |= static_cast<uint32_t>(__bfloat162float(logits_[begin + j]) == value) << j;
    }
    return mask;
  }

  const __nv_bfloat16* logits_;
  int vocab_;
};

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_SAMPLE_ROW_CUH_
