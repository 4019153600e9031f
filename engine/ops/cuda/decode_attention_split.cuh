// Attention of a row over one split, for one kv head: products, and the exchange between warps.
// Private to decode_attention*.cu; fragments are paged_attention.cu's.
#ifndef LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_SPLIT_CUH_
#define LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_SPLIT_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/ops/cuda/attention_mma.cuh"
#include "engine/ops/cuda/decode_attention.cuh"
#include "engine/ops/cuda/decode_attention_copies.cuh"

namespace lorad::cuda {

inline constexpr int kNarrowSlots = 8;  // half of the 16 slots of a product

// kHeads: of a group, at most; 8 or 16.
template <int kDims, int kHeads>
struct alignas(16) Shared {
  static constexpr int kQueryStride = kDims + 32;  // 64 bytes off a multiple of 128: no conflicts
  static constexpr int kSumStride = kDims + 4;

  __nv_bfloat16 q[kHeads][kQueryStride];
  __nv_bfloat16 new_key[kDims], new_value[kDims];
  float cosines[kDims / 2], sines[kDims / 2];
  float warp_max[kPagedWarps][kHeads], warp_sum[kPagedWarps][kHeads];
  float m[kHeads], l[kHeads];
  Fold folds[kHeads];
  RangeSearch search;
  bool last;
};

// Puts the row's own key or value into the warp's part, as number `key`.
template <int kDims>
__device__ __forceinline__ void PutNew(const __nv_bfloat16* row, uint32_t part, int key) {
  const int lane = threadIdx.x % 32;
  if (lane < kDims / 8) {
    StoreShared(part + PartOffset<kDims>(key, lane),
                *reinterpret_cast<const uint4*>(row + 8 * lane));
  }
  __syncwarp();
}

// What a lane does with the warp's keys of a split.
template <int kDims, int kStages, int kHeads>
struct WarpSplit {
  using S = Shared<kDims, kHeads>;
  static constexpr int kHalves = kHeads / kNarrowSlots;  // of the 16 slots, that hold heads

  const DecodeArgs& args;
  S& shared;
  PartCopies<kDims, kStages>& copies;
  const int warp, g, t;
  const int last;  // of the warp's keys, counted from its first, that the row sees: the row's own
  __device__ __forceinline__ bool active() const { return last >= 0; }

  // scores[n] is the fragment of keys [8 n, 8 n + 8): log2_scale * q . k, -inf if masked.
  __device__ __forceinline__ void Scores(float (&scores)[8][4]) const {
    if (active()) {
      uint4 q[2][kDims / 32] = {};
#pragma unroll
      for (int i = 0; i < kDims / 32; ++i) {
        q[0][i] = *reinterpret_cast<const uint4*>(&shared.q[g][32 * i + 8 * t]);
        if constexpr (kHalves == 2)
          q[1][i] = *reinterpret_cast<const uint4*>(&shared.q[g + 8][32 * i + 8 * t]);
      }
      AddScores<0>(q, scores);
      AddScores<1>(q, scores);
    }
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int i = 0; i < 2 * kHalves; ++i) {
        const bool seen = 8 * n + 2 * t + i % 2 <= last;
        scores[n][i] = seen ? __fmul_rn(scores[n][i], args.log2_scale) : -INFINITY;
      }
    }
  }

  // As in paged_attention.cuh.
  __device__ __forceinline__ void SplitMax(const float (&scores)[8][4], float (&m)[2]) const {
    cuda::SplitMax<kHalves>(scores, shared, warp, g, t, m);
  }
  __device__ __forceinline__ void Weights(const float (&scores)[8][4], const float (&m)[2],
                                          uint32_t (&p)[8][2]) const {
    cuda::SplitWeights<kHalves>(scores, m, shared, warp, g, t, p);
  }

  // split_sums[warp] = p v over the warp's keys; [kPagedWarps][group][kSumStride].
  __device__ __forceinline__ void Values(const uint32_t (&p)[8][2], float* split_sums) const {
    float sums[kDims / 64][8][4] = {};
    if (active()) {
      AddValues<0>(p, sums);
      AddValues<1>(p, sums);
    }
    // Fragment j has dimensions 8 n + j of 64 in its column n.
#pragma unroll
    for (int i = 0; i < 2 * kHalves; ++i) {
      const int slot = g + i / 2 * 8;
      if (slot >= args.group) continue;
      float* to = split_sums + (warp * args.group + slot) * S::kSumStride + 16 * t + i % 2 * 8;
#pragma unroll
      for (int d = 0; d < kDims / 64; ++d) {
#pragma unroll
        for (int j = 0; j < 8; j += 4) {
          *reinterpret_cast<float4*>(to + 64 * d + j) =
              make_float4(sums[d][j][i], sums[d][j + 1][i], sums[d][j + 2][i], sums[d][j + 3][i]);
        }
      }
    }
  }

  template <int kHalf>
  __device__ __forceinline__ void AddScores(const uint4 (&q)[2][kDims / 32],
                                            float (&scores)[8][4]) const {
    const uint32_t part = copies.template Next<kHalf>();
    if (last / kPartKeys == kHalf) PutNew<kDims>(shared.new_key, part, last % kPartKeys);
#pragma unroll
    for (int i = 0; i < kDims / 32; ++i) {
      if (32 * i >= args.dims) break;
      const uint32_t low[4] = {q[0][i].x, q[1][i].x, q[0][i].y, q[1][i].y};
      const uint32_t high[4] = {q[0][i].z, q[1][i].z, q[0][i].w, q[1][i].w};
      uint4 k[kPartKeys / 8];
#pragma unroll
      for (int n = 0; n < kPartKeys / 8; ++n)
        k[n] = LoadShared16(part + PartOffset<kDims>(8 * n + g, 4 * i + t));
#pragma unroll
      for (int n = 0; n < kPartKeys / 8; ++n)
        MultiplyAdd(scores[kHalf * (kPartKeys / 8) + n], low, k[n].x, k[n].y);
#pragma unroll
      for (int n = 0; n < kPartKeys / 8; ++n)
        MultiplyAdd(scores[kHalf * (kPartKeys / 8) + n], high, k[n].z, k[n].w);
    }
  }

  template <int kHalf>
  __device__ __forceinline__ void AddValues(const uint32_t (&p)[8][2],
                                            float (&sums)[kDims / 64][8][4]) const {
    const uint32_t part = copies.template Next<2 + kHalf>();
    if (last / kPartKeys == kHalf) PutNew<kDims>(shared.new_value, part, last % kPartKeys);
#pragma unroll
    for (int i = 0; i < kPartKeys / 16; ++i) {
      const int n = 2 * (kHalf * (kPartKeys / 16) + i);
      const uint32_t weights[4] = {p[n][0], p[n][1], p[n + 1][0], p[n + 1][1]};
#pragma unroll
      for (int d = 0; d < kDims / 64; ++d)
        AddProduct(part, 16 * i + 2 * t, 8 * d + g, weights, sums[d]);
    }
  }

  // sums += weights v over the keys first, first + 1, first + 8, first + 9 of each lane.
  __device__ __forceinline__ static void AddProduct(uint32_t part, int first, int chunk,
                                                    const uint32_t (&weights)[4],
                                                    float (&sums)[8][4]) {
    uint4 v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      v[i] = LoadShared16(part + PartOffset<kDims>(first + i % 2 + i / 2 * 8, chunk));
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      uint32_t w[4];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        w[i] = word == 0 ? v[i].x : word == 1 ? v[i].y : word == 2 ? v[i].z : v[i].w;
      MultiplyAdd(sums[2 * word], weights, __byte_perm(w[0], w[1], 0x5410),
                  __byte_perm(w[2], w[3], 0x5410));
      MultiplyAdd(sums[2 * word + 1], weights, __byte_perm(w[0], w[1], 0x7632),
                  __byte_perm(w[2], w[3], 0x7632));
    }
  }
};

// A block's dynamic shared memory: the rings of its warps; Shared; the warps' sums of a split,
// [kPagedWarps][group][kSumStride].
template <int kDims, int kStages, int kHeads>
struct SplitLayout {
  using S = Shared<kDims, kHeads>;
  static constexpr int kWarpBytes = kStages * PartCopies<kDims, kStages>::kPartBytes;
  static __host__ __device__ constexpr int SumBytes(int group) {
    return kPagedWarps * group * S::kSumStride * static_cast<int>(sizeof(float));
  }
  static constexpr int Bytes(int group) {
    return kPagedWarps * kWarpBytes + static_cast<int>(sizeof(S)) + SumBytes(group);
  }
};

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_SPLIT_CUH_
