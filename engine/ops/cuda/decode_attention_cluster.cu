// The attention of decode_attention.cu for so few rows that not bytes but latencies count: the same
// splits and the same fold, to the bit.
//
// A cluster of blocks takes a row and kv head, a block one of its splits. So a block knows its part
// from its number, and what it must read before it can ask for keys comes in one round trip to
// memory. The blocks leave (m, l, o) of their splits in shared memory, meet once, and each folds
// some of the elements over all splits, in the order of positions: a fold by way of the workspace
// would take four round trips more.
#include "engine/ops/cuda/chained_launch.cuh"
#include "engine/ops/cuda/cluster.cuh"
#include "engine/ops/cuda/compiled_code.h"
#include "engine/ops/cuda/decode_attention_cluster.cuh"
#include "engine/ops/cuda/decode_attention_copies.cuh"
#include "engine/ops/cuda/decode_attention_partials.cuh"
#include "engine/ops/cuda/decode_attention_row.cuh"
#include "engine/ops/cuda/decode_attention_split.cuh"
#include "engine/ops/cuda/device_attribute.cuh"

namespace lorad::cuda {
namespace {

constexpr int kThreads = kPagedThreads;
constexpr int kMostBlocks = 8;  // of a cluster, on every device that has clusters

struct ClusterArgs {
  DecodeArgs decode;
  int size;  // blocks of a cluster
};

// Behind what a split takes: what it comes to, as PartialAt has it.
template <int kDims, int kStages, int kHeads>
struct Layout : SplitLayout<kDims, kStages, kHeads> {
  static int64_t Bytes(const DecodeArgs& args) {
    return SplitLayout<kDims, kStages, kHeads>::Bytes(args.group) +
           args.group * PartialElements(args.dims) * static_cast<int64_t>(sizeof(float));
  }
};

// Has the beginning of the row's page table on its way from memory before the row's length says how
// much of it counts. Only a hint: what lies beyond is not read.
__device__ __forceinline__ void FetchPages(const DecodeArgs& args, int row) {
  constexpr int kLineEntries = 128 / static_cast<int>(sizeof(int32_t));
  const PagedAttentionParams& p = args.p.attention;
  const int page = static_cast<int>(threadIdx.x) * kLineEntries;
  if (page >= p.max_pages) return;
  asm volatile("prefetch.global.L2 [%0];\n" ::"l"(p.page_table + row * p.page_table_stride + page));
}

// Folds this block's share of the elements of a row and kv head, which lie in the first blocks.
__device__ __forceinline__ void FoldShare(const ClusterArgs& all, int row, int kv_head, int rank,
                                          int splits, const float* partial) {
  const DecodeArgs& args = all.decode;
  const int elements = args.group * args.dims, share = (elements + all.size - 1) / all.size;
  for (int i = threadIdx.x; i < share; i += kThreads) {
    const int element = rank * share + i, head = element / args.dims, dim = element % args.dims;
    if (element >= elements) return;
    float values[kMostBlocks][3];
#pragma unroll
    for (int s = 0; s < kMostBlocks; ++s) {
      if (s >= splits) break;
      values[s][0] = LoadOfBlock(partial + 2 * head, s);
      values[s][1] = LoadOfBlock(partial + 2 * head + 1, s);
      values[s][2] = LoadOfBlock(partial + 2 * args.group + element, s);
    }
    float m = -INFINITY, l = 0, o = 0;
#pragma unroll
    for (int s = 0; s < kMostBlocks; ++s) {
      if (s >= splits) break;
      const Fold fold = FoldOf(m, values[s][0], &m);
      l = Folded(fold, l, values[s][1]);
      o = Folded(fold, o, values[s][2]);
    }
    StoreOutput(args, row, kv_head, head, dim, o, l);
  }
}

template <int kDims, int kStages, int kHeads>
__global__ void __launch_bounds__(kThreads)
    DecodeClusterKernel(const __grid_constant__ ClusterArgs all) {
  using L = Layout<kDims, kStages, kHeads>;
  using S = typename L::S;
  const DecodeArgs& args = all.decode;
  extern __shared__ __align__(1024) unsigned char dynamic_shared_memory[];
  auto& shared = *reinterpret_cast<S*>(dynamic_shared_memory + kPagedWarps * L::kWarpBytes);
  float* const split_sums = reinterpret_cast<float*>(&shared + 1);
  float* const partial = split_sums + L::SumBytes(args.group) / static_cast<int>(sizeof(float));
  const int rank = static_cast<int>(blockIdx.x) % all.size;
  const int pair = static_cast<int>(blockIdx.x) / all.size;
  const int row = pair / args.kv_heads, kv_head = pair % args.kv_heads;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  LetNextKernelBegin();
  FetchPages(args, row);
  const int length = __ldg(args.p.attention.context_lens + row);
  FindAngles(args, row, shared);
  const int splits = (length - 1) / kSplitKeys + 1;
  const SplitUnit unit = {row, rank, length - 1};
  const UnitRange range = {0, 1, rank, min(rank + 1, splits), splits, unit};
  PartCopies<kDims, kStages> copies(args, range, kv_head, warp,
                                    DynamicSharedMemory() + warp * L::kWarpBytes);
  ClearRow(shared);
  WaitForEarlierKernels();  // q, k, v, and those that still use what this writes

  if (rank < splits) {
    LoadRow(args, row, kv_head, /*write=*/rank + 1 == splits, shared);
    const WarpSplit<kDims, kStages, kHeads> split = {
        args,
        shared,
        copies,
        warp,
        lane / 4,
        lane % 4,
        unit.position - unit.split * kSplitKeys - warp * kWarpKeys};
    float scores[8][4] = {};
    split.Scores(scores);
    float m[2];
    split.SplitMax(scores, m);
    KeepMaxima(args, shared, partial);
    uint32_t p[8][2] = {};
    split.Weights(scores, m, p);
    split.Values(p, split_sums);
    __syncthreads();
    KeepSums<kDims, kHeads>(args, shared, split_sums, partial);
  }
  ClusterArrive();
  ClusterWait();
  FoldShare(all, row, kv_head, rank, splits, partial);
  ClusterArrive();
  ClusterWait();  // nobody reads this block's numbers any more
}

template <int kDims, int kHeads>
struct Variant {
  static constexpr int kStages = 5;
  using L = Layout<kDims, kStages, kHeads>;
  static cudaError_t Launch(const ClusterArgs& args, cudaStream_t stream) {
    const auto kernel = DecodeClusterKernel<kDims, kStages, kHeads>;
    static const cudaError_t has_room =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             DeviceAttribute<cudaDevAttrMaxSharedMemoryPerBlockOptin>());
    if (has_room != cudaSuccess) return has_room;
    const auto blocks = static_cast<unsigned>(args.decode.rows * args.decode.kv_heads * args.size);
    return LaunchChained(kernel, dim3(blocks), kThreads, static_cast<size_t>(L::Bytes(args.decode)),
                         args, stream, {.cluster = static_cast<unsigned>(args.size)});
  }
};

// use(variant) with the one for these heads.
template <int kHeads, typename Use>
auto WithHeads(const DecodeArgs& args, const Use& use) {
  return args.dims <= 64 ? use(Variant<64, kHeads>()) : use(Variant<128, kHeads>());
}
template <typename Use>
auto WithVariant(const DecodeArgs& args, const Use& use) {
  return args.group <= kNarrowSlots ? WithHeads<kNarrowSlots>(args, use)
                                    : WithHeads<kPagedSlots>(args, use);
}

}  // namespace

int ClusterSize(const DecodeArgs& args) {
  if (RunningCode().architecture < 900 || args.max_splits < 2 || args.max_splits > kMostBlocks)
    return 0;
  const int size = args.max_splits <= 2 ? 2 : args.max_splits <= 4 ? 4 : kMostBlocks;
  if (int64_t{args.rows} * args.kv_heads * size > DeviceAttribute<cudaDevAttrMultiProcessorCount>())
    return 0;
  const bool has_room = WithVariant(args, [&]<typename V>(const V&) {
    return V::L::Bytes(args) <= DeviceAttribute<cudaDevAttrMaxSharedMemoryPerBlockOptin>();
  });
  return has_room ? size : 0;
}

cudaError_t LaunchDecodeClusters(const DecodeArgs& args, int size, cudaStream_t stream) {
  const ClusterArgs all = {args, size};
  return WithVariant(args, [&](const auto& variant) { return variant.Launch(all, stream); });
}

}  // namespace lorad::cuda
