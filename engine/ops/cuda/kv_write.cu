// cache[slots[t], :] = x[t, :] for keys and values.
//
//   k, v [tokens, width] bf16    caches [pages, page_tokens, width] bf16, width = kv_heads * d
//
// A block a token, blockIdx.y keys or values; a thread 8 numbers (16 bytes) where all is aligned,
// else one. Bound by memory, 8 bytes a number of k; by the launch for few tokens. Paged cache: Kwon
// et al., "PagedAttention", 2023.
#include <algorithm>

#include "engine/ops/cuda/chained_launch.cuh"
#include "engine/ops/cuda/paged_attention.h"

namespace lorad::cuda {
namespace {

constexpr int kMaxThreads = 256;

// Lengths in units of one Unit.
template <typename Unit>
struct Copy {
  const Unit* from;
  int64_t from_stride;
  Unit* to;
  int64_t page_stride;
};
template <typename Unit>
struct Args {
  Copy<Unit> copies[2];  // k, v
  const int64_t* slots;
  int64_t page_tokens, width;
};

template <typename Unit>
__global__ void __launch_bounds__(kMaxThreads)
    KvWriteKernel(const __grid_constant__ Args<Unit> args) {
  LetNextKernelBegin();
  WaitForEarlierKernels();
  const int64_t t = blockIdx.x;
  const Copy<Unit>& copy = args.copies[blockIdx.y];
  const int64_t slot = args.slots[t], page = slot / args.page_tokens;
  const Unit* from = copy.from + t * copy.from_stride;
  Unit* to = copy.to + page * copy.page_stride + (slot - page * args.page_tokens) * args.width;
  for (int64_t i = threadIdx.x; i < args.width; i += blockDim.x) to[i] = from[i];
}

template <typename Unit>
cudaError_t Launch(const KvWriteParams& p, cudaStream_t stream) {
  constexpr int64_t kUnit = sizeof(Unit) / sizeof(BFloat16);
  Args<Unit> args;
  args.copies[0] = {reinterpret_cast<const Unit*>(p.k), p.k_stride / kUnit,
                    reinterpret_cast<Unit*>(p.k_cache), p.k_page_stride / kUnit};
  args.copies[1] = {reinterpret_cast<const Unit*>(p.v), p.v_stride / kUnit,
                    reinterpret_cast<Unit*>(p.v_cache), p.v_page_stride / kUnit};
  args.slots = p.slots;
  args.page_tokens = p.page_tokens;
  args.width = p.width / kUnit;
  const int64_t threads = std::min<int64_t>((args.width + 31) / 32 * 32, kMaxThreads);
  return LaunchChained(KvWriteKernel<Unit>, dim3(static_cast<unsigned>(p.num_tokens), 2),
                       dim3(static_cast<unsigned>(threads)), 0, args, stream);
}

}  // namespace

cudaError_t LaunchKvWrite(const KvWriteParams& params, cudaStream_t stream) {
  const KvWriteParams& p = params;
  if (p.num_tokens == 0 || p.width == 0) return cudaSuccess;
  if (p.num_tokens > INT32_MAX || p.page_tokens <= 0) return cudaErrorInvalidValue;
  const uintptr_t pointers = reinterpret_cast<uintptr_t>(p.k) | reinterpret_cast<uintptr_t>(p.v) |
                             reinterpret_cast<uintptr_t>(p.k_cache) |
                             reinterpret_cast<uintptr_t>(p.v_cache);
  const int64_t lengths = p.width | p.k_stride | p.v_stride | p.k_page_stride | p.v_page_stride;
  return pointers % 16 == 0 && lengths % 8 == 0 ? Launch<uint4>(p, stream)
                                                : Launch<uint16_t>(p, stream);
}

}  // namespace lorad::cuda
