// The attention of a decoding step, where each sequence has one new row: q and k are rotated, k and
// v written to the cache, and the row attends to its context, as rope.cu, kv_write.cu and
// paged_attention.cu would do it one after the other, to the bit. Layouts, splits and fragments are
// paged_attention.cu's.
//
// A step is bound by memory, so what counts is how many bytes are on their way, always. All splits
// of all rows form one list, which is cut into equal ranges, as many as fill the device with a
// block for each range and kv head. The warps of a block take 64 keys each of a split. A warp has a
// ring of parts in shared memory, 32 keys or values each, that asynchronous copies fill over the
// borders of splits and rows, the first ones before the kernel that computes q, k and v has ended:
// what they read is older than the pass. The row's own key and value, which are not, go from the
// product's output into the part by way of shared memory.
//
// A row whose splits are all in one range is folded in its blocks. Of others, which lie on the
// borders of ranges, a block leaves (m, l, o) of its splits in the workspace, and the last one to
// come for a row and kv head, which a counter tells, folds them in the order of positions. One such
// row at most begins in a range: so many places the workspace has for each kv head. Where they do
// not fit, ranges are cut between rows.
//
// decode_attention_cluster.cu has the kernel for few rows over short contexts.
#include <algorithm>

#include "engine/core/checked_math.h"
#include "engine/ops/cuda/chained_launch.cuh"
#include "engine/ops/cuda/decode_attention.cuh"
#include "engine/ops/cuda/decode_attention.h"
#include "engine/ops/cuda/decode_attention_cluster.cuh"
#include "engine/ops/cuda/decode_attention_copies.cuh"
#include "engine/ops/cuda/decode_attention_fold.cuh"
#include "engine/ops/cuda/decode_attention_row.cuh"
#include "engine/ops/cuda/decode_attention_split.cuh"
#include "engine/ops/cuda/device_attribute.cuh"

namespace lorad::cuda {
namespace {

constexpr int kThreads = kPagedThreads;
constexpr int kSlots = kPagedSlots;
constexpr int kMostDims = 128;

template <int kDims, int kStages, int kHeads>
__global__ void __launch_bounds__(kThreads) DecodeKernel(const __grid_constant__ DecodeArgs args) {
  using L = SplitLayout<kDims, kStages, kHeads>;
  extern __shared__ __align__(1024) unsigned char dynamic_shared_memory[];
  auto& shared =
      *reinterpret_cast<typename L::S*>(dynamic_shared_memory + kPagedWarps * L::kWarpBytes);
  float* const split_sums = reinterpret_cast<float*>(&shared + 1);
  LetNextKernelBegin();
  const UnitRange range = FindRange(args, shared.search);
  if (range.begin >= range.end) return;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int kv_head = static_cast<int>(blockIdx.x) % args.kv_heads;
  PartCopies<kDims, kStages> copies(args, range, kv_head, warp,
                                    DynamicSharedMemory() + warp * L::kWarpBytes);
  ClearRow(shared);
  FindAngles(args, range.first.row, shared);
  WaitForEarlierKernels();  // q, k, v, and those that still use what this writes

  BlockFold<kDims, kHeads> fold(args, shared, range, kv_head, split_sums);
  SplitUnit unit = range.first;
  for (int index = range.begin; index < range.end; ++index, unit.Advance(args)) {
    if (unit.split == 0 || index == range.begin) {
      fold.Begin(unit, index);
      if (index != range.begin) FindAngles(args, unit.row, shared);
      const bool has_last = index - unit.split + unit.splits() <= range.end;
      LoadRow(args, unit.row, kv_head, /*write=*/has_last, shared);
    }
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
    fold.AddMaxima(unit);
    uint32_t p[8][2] = {};
    split.Weights(scores, m, p);
    split.Values(p, split_sums);
    __syncthreads();
    fold.AddSums(unit);
    if (unit.split + 1 == unit.splits() || index + 1 == range.end) fold.End(unit);
  }
}

struct Variant {
  void (*kernel)(DecodeArgs);
  int shared_bytes;
  cudaError_t has_room;  // whether the kernel may have them
};
template <int kDims, int kStages, int kHeads>
Variant VariantOf(int group) {
  const auto kernel = DecodeKernel<kDims, kStages, kHeads>;
  static const cudaError_t has_room =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           DeviceAttribute<cudaDevAttrMaxSharedMemoryPerBlockOptin>());
  return {kernel, SplitLayout<kDims, kStages, kHeads>::Bytes(group), has_room};
}
template <int kDims, int kStages>
Variant VariantOf(int group) {
  return group <= kNarrowSlots ? VariantOf<kDims, kStages, kNarrowSlots>(group)
                               : VariantOf<kDims, kStages, kSlots>(group);
}

// Blocks of the variant on a multiprocessor: 0, 1 or 2.
int BlocksOf(const Variant& variant) {
  constexpr int kReserved = 1024;  // of a block, by the driver
  if (variant.shared_bytes > DeviceAttribute<cudaDevAttrMaxSharedMemoryPerBlockOptin>()) return 0;
  return std::min(2, DeviceAttribute<cudaDevAttrMaxSharedMemoryPerMultiprocessor>() /
                         (variant.shared_bytes + kReserved));
}

// A block alone has a ring that holds all parts of a unit but one; two side by side cover each
// other's latencies: 66 us instead of 73 for 64 rows over 1,024 keys, but 8.4 instead of 7.7 for
// one.
Variant Choose(const PagedAttentionParams& p, int64_t units) {
  const int group = static_cast<int>(p.num_heads / p.num_kv_heads);
  if (p.head_dim <= 64) return VariantOf<64, 5>(group);
  const Variant alone = VariantOf<128, 5>(group), side_by_side = VariantOf<128, 3>(group);
  const bool many = units > DeviceAttribute<cudaDevAttrMultiProcessorCount>();
  return BlocksOf(alone) > 0 && !(many && BlocksOf(side_by_side) == 2) ? alone : side_by_side;
}

// Blocks that the device holds and counters let be, in ranges of one for each kv head.
int64_t MostRanges(const DecodeAttentionParams& params, const Variant& variant) {
  const int64_t blocks =
      int64_t{BlocksOf(variant)} * DeviceAttribute<cudaDevAttrMultiProcessorCount>();
  return std::min(blocks, params.num_counters) / params.attention.num_kv_heads;
}

int64_t MaxSplits(const PagedAttentionParams& p) {
  return CeilDiv(p.max_pages * p.page_tokens, kSplitKeys);
}

}  // namespace

bool CanDecodeAttention(const DecodeAttentionParams& params) {
  const PagedAttentionParams& p = params.attention;
  if (p.num_tokens != p.num_sequences || p.num_tokens > INT32_MAX || p.head_dim <= 0 ||
      p.head_dim % 16 != 0 || p.head_dim > kMostDims || p.num_kv_heads <= 0 || p.num_heads <= 0 ||
      p.num_heads % p.num_kv_heads != 0 || p.num_heads / p.num_kv_heads > kSlots ||
      p.page_tokens <= 0 || p.page_tokens % kPartKeys != 0 ||
      p.page_tokens * p.num_kv_heads * p.head_dim > INT32_MAX ||
      p.max_pages * p.page_tokens > INT32_MAX - kSplitKeys ||
      p.num_tokens * MaxSplits(p) > INT32_MAX) {
    return false;
  }
  const void* const pointers[] = {p.q, params.k, params.v, params.k_cache, params.v_cache};
  uintptr_t bits = 0;
  for (const void* pointer : pointers) bits |= reinterpret_cast<uintptr_t>(pointer);
  const int64_t strides =
      p.q_stride | params.k_stride | params.v_stride | p.k_page_stride | p.v_page_stride;
  return bits % 16 == 0 && strides % 8 == 0 && MostRanges(params, Choose(p, 0)) > 0;
}

cudaError_t LaunchDecodeAttention(const DecodeAttentionParams& params, cudaStream_t stream) {
  const PagedAttentionParams& p = params.attention;
  if (p.num_tokens == 0) return cudaSuccess;
  if (!CanDecodeAttention(params)) return cudaErrorInvalidValue;
  DecodeArgs args;
  args.p = params;
  args.rows = static_cast<int>(p.num_tokens);
  args.kv_heads = static_cast<int>(p.num_kv_heads);
  args.dims = static_cast<int>(p.head_dim);
  args.page_tokens = static_cast<unsigned>(p.page_tokens);
  args.group = static_cast<int>(p.num_heads / p.num_kv_heads);
  args.max_splits = static_cast<int>(MaxSplits(p));
  args.log2_scale = p.scale * 1.44269504088896340736f;
  if (const int size = ClusterSize(args); size > 0) return LaunchDecodeClusters(args, size, stream);
  const int64_t units = p.num_tokens * args.max_splits;
  const Variant variant = Choose(p, units * p.num_kv_heads);
  if (variant.has_room != cudaSuccess) return variant.has_room;
  const int64_t ranges = std::min(units, MostRanges(params, variant));
  const int64_t wanted = std::min(p.num_tokens, ranges) * args.max_splits * p.num_heads *
                         PartialElements(p.head_dim) * static_cast<int64_t>(sizeof(float));
  args.whole_rows = p.workspace == nullptr || p.workspace_bytes < wanted;
  return LaunchChained(variant.kernel, dim3(static_cast<unsigned>(ranges * p.num_kv_heads)),
                       kThreads, static_cast<size_t>(variant.shared_bytes), args, stream);
}

}  // namespace lorad::cuda
