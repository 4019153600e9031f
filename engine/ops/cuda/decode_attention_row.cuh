// The row at hand: q, k and v after their rotation, and the new key and value's way to the cache.
// Private to decode_attention*.cu, which explain it.
#ifndef LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_ROW_CUH_
#define LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_ROW_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/ops/cuda/decode_attention.cuh"
#include "engine/ops/cuda/rope.cuh"
#include "engine/ops/cuda/vector_access.cuh"

namespace lorad::cuda {

// Zeros where no row leaves anything: heads beyond the group and dimensions beyond the head's,
// which are multiplied all the same, and zero times what shared memory held need not be zero.
template <typename S>
__device__ __forceinline__ void ClearRow(S& shared) {
  const auto clear = [](auto& elements) {
    for (int i = threadIdx.x; i < static_cast<int>(sizeof(elements) / sizeof(uint4));
         i += kPagedThreads)
      reinterpret_cast<uint4*>(&elements)[i] = make_uint4(0, 0, 0, 0);
  };
  clear(shared.q);
  clear(shared.new_key);
  clear(shared.new_value);
}

template <typename S>
__device__ __forceinline__ void FindAngles(const DecodeArgs& args, int row, S& shared) {
  const int i = threadIdx.x;
  if (i >= args.dims / 2) return;
  const Angle angle =
      AngleAt(static_cast<float>(__ldg(args.p.positions + row)), __ldg(args.p.inv_freq + i));
  shared.cosines[i] = angle.cosine;
  shared.sines[i] = angle.sine;
}

// The row's own key and value, of one kv head, in the cache.
struct NewPlace {
  __nv_bfloat16 *k, *v;
};
__device__ __forceinline__ NewPlace FindNewPlace(const DecodeArgs& args, int row, int kv_head) {
  const int64_t slot = __ldg(args.p.slots + row), page = slot / args.page_tokens;
  const int64_t place =
      ((slot - page * args.page_tokens) * args.kv_heads + kv_head) * int64_t{args.dims};
  return {reinterpret_cast<__nv_bfloat16*>(args.p.k_cache) + page * args.p.attention.k_page_stride +
              place,
          reinterpret_cast<__nv_bfloat16*>(args.p.v_cache) + page * args.p.attention.v_page_stride +
              place};
}

// q, k and v of a row and kv head: q and k rotated; k and v to the cache as well, with `write`.
// Waits for the block. REQUIRES: the row's angles are there, or will be at this function's barrier.
template <typename S>
__device__ __forceinline__ void LoadRow(const DecodeArgs& args, int row, int kv_head, bool write,
                                        S& shared) {
  __syncthreads();  // the angles are there, and the row before is done with
  if (threadIdx.x < args.group) {
    shared.m[threadIdx.x] = -INFINITY;
    shared.l[threadIdx.x] = 0;
  }
  const int half = args.dims / 2, packs = half / 8, rotated = (args.group + 1) * packs;
  const int64_t head = int64_t{kv_head} * args.dims;
  NewPlace place = {};
  if (write) place = FindNewPlace(args, row, kv_head);
  for (int i = threadIdx.x; i < rotated + args.dims / 8; i += kPagedThreads) {
    if (i >= rotated) {
      const int dim = (i - rotated) * 8;
      const Pack<8> v = Load<8>(reinterpret_cast<const __nv_bfloat16*>(args.p.v) +
                                row * args.p.v_stride + head + dim);
      Store<8>(v, shared.new_value + dim);
      if (write) Store<8>(v, place.v + dim);
      continue;
    }
    const int h = i / packs, dim = i % packs * 8;
    const bool is_key = h == args.group;
    const BFloat16* from = is_key ? args.p.k + row * args.p.k_stride + head
                                  : args.p.attention.q + row * args.p.attention.q_stride +
                                        head * args.group + h * args.dims;
    float low[8], high[8];
    LoadValues(reinterpret_cast<const __nv_bfloat16*>(from) + dim, low);
    LoadValues(reinterpret_cast<const __nv_bfloat16*>(from) + dim + half, high);
#pragma unroll
    for (int j = 0; j < 8; ++j)
      Rotate(shared.cosines[dim + j], shared.sines[dim + j], low[j], high[j]);
    __nv_bfloat16* to = is_key ? shared.new_key : shared.q[h];
    StoreRounded(low, to + dim);
    StoreRounded(high, to + dim + half);
    if (is_key && write) {
      StoreRounded(low, place.k + dim);
      StoreRounded(high, place.k + dim + half);
    }
  }
  __syncthreads();
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_ROW_CUH_
