// Philox4x32-10 counter-based random numbers: the same (key, counter) gives the same numbers on
// every device, in any order, from any thread.
// Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
// No Abseil, no CUDA headers: shared by .cc and .cu files.
#ifndef LORAD_ENGINE_CORE_PHILOX_H_
#define LORAD_ENGINE_CORE_PHILOX_H_

#include <array>
#include <cstdint>

#ifdef __CUDACC__
#define LORAD_HOST_DEVICE __host__ __device__
#else
#define LORAD_HOST_DEVICE
#endif

namespace lorad {

struct PhiloxBlock {
  uint32_t words[4];
};

// 128 random bits for the counter (c0..c3) under `key`.
LORAD_HOST_DEVICE inline PhiloxBlock Philox4x32(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2,
                                                uint32_t c3) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Uniform in [0, 1) with 24 random bits: exact in float.
LORAD_HOST_DEVICE inline float UniformFloat(uint32_t word) {
  return static_cast<float>(word >> 8) * 0x1p-24f;
}

}  // namespace lorad

#endif  // LORAD_ENGINE_CORE_PHILOX_H_
