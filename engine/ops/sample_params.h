// No Abseil, no CUDA: shared by .cc and .cu files.
#ifndef LORAD_ENGINE_OPS_SAMPLE_PARAMS_H_
#define LORAD_ENGINE_OPS_SAMPLE_PARAMS_H_

#include <cstdint>

namespace lorad {

inline constexpr int32_t kMaxTopLogprobs = 20;

// How the token of one row is drawn; see engine/ops/sample.h. Made by MakeDrawParams.
struct DrawParams {
  uint64_t seed = 0;
  uint64_t step = 0;           // number of the token in its answer, from 0
  uint64_t top_p = 0;          // the share to keep, times 2^64; 0: all
  uint64_t min_weight = 1;     // min-p times 2^40, rounded up; at least 1
  float octaves_per_unit = 0;  // log2(e) / temperature; 0: greedy
  int32_t top_k = 0;           // 0: all
  int32_t top = -1;      // likeliest tokens wanted, with logprobs; 0: the drawn token's logprob
                         // alone; -1: none. At most kMaxTopLogprobs
  int32_t reserved = 0;  // fills the last 8 bytes
};
static_assert(sizeof(DrawParams) == 48);

}  // namespace lorad

#endif  // LORAD_ENGINE_OPS_SAMPLE_PARAMS_H_
