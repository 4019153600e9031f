// Keys of the random streams of a job. Dropout uses the job's seed itself as its Philox key, so all
// other streams take derived ones.
#ifndef LORAD_ENGINE_TRAIN_RANDOM_KEY_H_
#define LORAD_ENGINE_TRAIN_RANDOM_KEY_H_

#include <cstdint>

#include "engine/core/philox.h"

namespace lorad {

enum class RandomStream : uint32_t { kShuffle = 1, kLoraInit = 2 };

inline uint64_t StreamKey(uint64_t seed, RandomStream stream) {
  const PhiloxBlock block = Philox4x32(seed, static_cast<uint32_t>(stream), 0, 0, 0xffffffffu);
  return uint64_t{block.words[1]} << 32 | block.words[0];
}

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_RANDOM_KEY_H_
