// Which tile of which sequence a block of an attention kernel takes.
#ifndef LORAD_ENGINE_OPS_CUDA_ATTENTION_SCHEDULE_CUH_
#define LORAD_ENGINE_OPS_CUDA_ATTENTION_SCHEDULE_CUH_

#include <cuda_runtime.h>

#include <cstdint>

namespace lorad::cuda {

// Rows [begin, begin + tile) of a sequence; none where begin >= length.
struct SequenceTile {
  int first_token;  // of the sequence
  int begin, length;
};

// Upper bound of the slots that FindTile needs.
inline int64_t MaxTiles(int64_t num_tokens, int64_t num_sequences, int tile) {
  return num_tokens / tile + num_sequences;
}

// The tile of slot `slot`. Sequence s takes slots from cu_seqlens[s] / kTile + s on, which leaves
// it at least as many as it has tiles, and at most one over. `last_first` counts a sequence's tiles
// from its end: the block that takes longest should start first. Each warp searches for itself,
// 32 sequences at a time.
template <int kTile>
__device__ __forceinline__ SequenceTile FindTile(const int32_t* cu_seqlens, int64_t num_sequences,
                                                 int64_t slot, bool last_first) {
  const int lane = threadIdx.x % 32;
  int64_t sequence = 0, candidates = num_sequences;
  while (candidates > 1) {
    const int64_t step = (candidates + 31) / 32, at = sequence + lane * step;
    const bool begins = lane * step < candidates && cu_seqlens[at] / kTile + at <= slot;
    const int64_t skip = (__popc(__ballot_sync(0xffffffffu, begins)) - 1) * step;
    sequence += skip;
    candidates = candidates - skip < step ? candidates - skip : step;
  }
  const int first = cu_seqlens[sequence], length = cu_seqlens[sequence + 1] - first;
  const int tiles = (length + kTile - 1) / kTile;
  const int64_t tile = slot - first / kTile - sequence;
  if (tile >= tiles) return {first, length, length};
  return {first, static_cast<int>(last_first ? tiles - 1 - tile : tile) * kTile, length};
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ATTENTION_SCHEDULE_CUH_
