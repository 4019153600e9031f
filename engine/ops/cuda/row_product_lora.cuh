// Adapters inside the launch of a row product over tiled weights:
//   xa[t, k] = sum over c of x[t, c] A[k, c], rounded to bf16
//   y[t, n] += scaling * sum over k of xa[t, k] B[n, k], in fp32, before y's only rounding
//
// The first blocks of the launch shrink: they write xa and count what is done. The blocks behind
// them multiply weights; by the time they add B they find xa there, so no kernel depends on another
// for the sake of an adapter. A block that shrinks waits for nothing in its launch and comes
// earlier, so the wait ends whatever else runs.
//
// The two halves: row_product_shrink.cuh, row_product_expand.cuh. A row's bits depend on the row
// and its adapter alone.
//
// Bound by memory for many adapters, 2 rank (in + out) bytes of each. Hu et al., "LoRA", 2021;
// adapters of different rows in one launch: Chen et al., "Punica", 2023. Private to
// row_product*.cu.
#ifndef LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_LORA_CUH_
#define LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_LORA_CUH_

#include <cuda_bf16.h>

#include <algorithm>
#include <cstdint>

#include "engine/core/checked_math.h"
#include "engine/ops/cuda/row_product.h"
#include "engine/ops/cuda/row_product_tile.cuh"

namespace lorad::cuda {

inline constexpr int kLoraRanks = 16;  // of an item, at most, and of a step of B's product
inline constexpr int kNoAdapter = 255;

struct RowLoraEntry {
  const __nv_bfloat16* a = nullptr;  // [rank, columns]
  const __nv_bfloat16* b = nullptr;  // [outputs, rank]
  __nv_bfloat16* xa = nullptr;       // [rows, rank]
  float scaling = 0;
  uint16_t rank = 0;
  uint8_t row_begin = 0, row_end = 0;
};
static_assert(sizeof(RowLoraEntry) == 32);

// What a launch without adapters is given.
struct NoRowLora {
  static constexpr bool kPresent = false;
};
// Most launches have few adapters, and what a launch is given is copied each time.
inline constexpr int kFewRowLoras = 24;
inline constexpr int kMostRowLoras = kMaxRowLoraTerms * kMaxRows;
static_assert(kMostRowLoras <= kNoAdapter);
template <int kCapacity>
struct RowLoraArgs {
  static constexpr bool kPresent = true;
  RowLoraEntry entries[kCapacity];  // of the first term, by rows, then of the second
  uint16_t first_item[kCapacity];
  alignas(8) uint8_t entry_of_row[kMaxRowLoraTerms][kMaxRows];  // kNoAdapter: a base row
  int count = 0;
  int item_ranks = kLoraRanks;  // or fewer
  uint32_t items = 0, shrink_blocks = 0;
  uint32_t* counter = nullptr;  // of items that are done, then of blocks that have seen it
};

// The adapters of a launch whose items (row_product_shrink.cuh) have up to `item_ranks` ranks.
template <int kCapacity>
void LayOutLoras(const RowProductArgs& args, uint32_t* counters, int item_ranks,
                 RowLoraArgs<kCapacity>& lora) {
  lora.item_ranks = item_ranks;
  lora.count = 0;
  lora.items = 0;
  std::fill_n(&lora.entry_of_row[0][0], sizeof(lora.entry_of_row), uint8_t{kNoAdapter});
  for (int term = 0; term < args.count; ++term) {
    for (int64_t i = 0; i < args.entries[term].term.num_loras; ++i) {
      const RowProductLora& from = args.entries[term].term.loras[i];
      RowLoraEntry& entry = lora.entries[lora.count];
      entry.a = reinterpret_cast<const __nv_bfloat16*>(from.a);
      entry.b = reinterpret_cast<const __nv_bfloat16*>(from.b);
      entry.xa = reinterpret_cast<__nv_bfloat16*>(from.xa);
      entry.scaling = from.scaling;
      entry.rank = static_cast<uint16_t>(from.rank);
      entry.row_begin = static_cast<uint8_t>(from.row_begin);
      entry.row_end = static_cast<uint8_t>(from.row_end);
      std::fill_n(lora.entry_of_row[term] + from.row_begin, from.row_end - from.row_begin,
                  static_cast<uint8_t>(lora.count));
      lora.first_item[lora.count++] = static_cast<uint16_t>(lora.items);
      lora.items += static_cast<uint32_t>(CeilDiv(from.rank, item_ranks) *
                                          CeilDiv(from.row_end - from.row_begin, kTileRows));
    }
  }
  lora.counter = counters + kRowTileCounters;
}
static_assert(kMostRowLoras * (kMaxRowLoraRank / kLoraRanks) <= UINT16_MAX);

// Calls launch(NoRowLora) or launch(RowLoraArgs). Items have 8 ranks where halves(items of 16) says
// that as many again would be done sooner.
template <int kCapacity, typename Halves, typename Launch>
cudaError_t LaunchWithLoras(const RowProductArgs& args, const RowProductScratch& scratch,
                            const Halves& halves, const Launch& launch) {
  RowLoraArgs<kCapacity> lora;
  LayOutLoras(args, scratch.counters, kLoraRanks, lora);
  if (halves(lora.items)) LayOutLoras(args, scratch.counters, kLoraRanks / 2, lora);
  return launch(lora);
}
template <typename Halves, typename Launch>
cudaError_t WithLoras(const RowProductArgs& args, const RowProductScratch& scratch,
                      const Halves& halves, const Launch& launch) {
  int64_t count = 0;
  for (int term = 0; term < args.count; ++term) count += args.entries[term].term.num_loras;
  if (count == 0) return launch(NoRowLora());
  if (count > kMostRowLoras || args.count > kMaxRowLoraTerms || args.rows > kMaxRowLoraRows ||
      scratch.counters == nullptr)
    return cudaErrorInvalidValue;
  return count <= kFewRowLoras ? LaunchWithLoras<kFewRowLoras>(args, scratch, halves, launch)
                               : LaunchWithLoras<kMostRowLoras>(args, scratch, halves, launch);
}

// Which of the product's own blocks a block is, and how many there are.
template <typename Lora>
__device__ __forceinline__ uint32_t ProductBlock(const Lora& lora) {
  if constexpr (Lora::kPresent) {
    return blockIdx.x - lora.shrink_blocks;
  } else {
    return blockIdx.x;
  }
}
template <typename Lora>
__device__ __forceinline__ uint32_t ProductBlocks(const Lora& lora) {
  if constexpr (Lora::kPresent) {
    return gridDim.x - lora.shrink_blocks;
  } else {
    return gridDim.x;
  }
}

// Until xa is there for the whole launch. By one thread of a block that does not shrink; the others
// see xa after a barrier with it.
template <typename Lora>
__device__ __forceinline__ void WaitForXa(const Lora& lora) {
  uint32_t now;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];\n"
                 : "=r"(now)
                 : "l"(lora.counter)
                 : "memory");
  } while (now < lora.items);
}
// Of an item that is done; later of each block that has waited, by one thread. The last one leaves
// the counter at zero.
template <typename Lora>
__device__ __forceinline__ void CountXa(const Lora& lora) {
  atomicInc(lora.counter, lora.items + ProductBlocks(lora) - 1);
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_LORA_CUH_
