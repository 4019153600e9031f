#include "tests/bench/fma_peak.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lorad::bench {
namespace {

constexpr int64_t kIterations = 20'000'000;
// Two units, four cycles of latency: eight chains keep them busy; a few more hide the loop.
constexpr int kChains = 12;  // also in the unroll pragmas: sums must stay in registers
volatile float sink;

#if defined(__x86_64__)
__attribute__((target("avx512f"))) void Fma512() {
  __m512 sums[kChains];
  for (int c = 0; c < kChains; ++c) sums[c] = _mm512_set1_ps(static_cast<float>(c));
  const __m512 x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(1e-3f);
  for (int64_t i = 0; i < kIterations; ++i)
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) sums[c] = _mm512_fmadd_ps(sums[c], x, y);
  for (int c = 1; c < kChains; ++c) sums[0] = _mm512_add_ps(sums[0], sums[c]);
  sink = _mm512_cvtss_f32(sums[0]);
}

__attribute__((target("avx2,fma"))) void Fma256() {
  __m256 sums[kChains];
  for (int c = 0; c < kChains; ++c) sums[c] = _mm256_set1_ps(static_cast<float>(c));
  const __m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(1e-3f);
  for (int64_t i = 0; i < kIterations; ++i)
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) sums[c] = _mm256_fmadd_ps(sums[c], x, y);
  for (int c = 1; c < kChains; ++c) sums[0] = _mm256_add_ps(sums[0], sums[c]);
  sink = _mm256_cvtss_f32(sums[0]);
}
#endif

double SecondsOf(void (*loop)(), int num_threads) {
  const auto begin = std::chrono::steady_clock::now();
  std::vector<std::thread> threads;
  for (int t = 0; t < num_threads; ++t) threads.emplace_back(loop);
  for (std::thread& thread : threads) thread.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

double MeasureFmaFlops(int num_threads) {
#if defined(__x86_64__)
  const bool wide = __builtin_cpu_supports("avx512f");
  if (!wide && !(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) return 0;
  double best = 1e30;
  for (int run = 0; run < 5; ++run)
    best = std::min(best, SecondsOf(wide ? Fma512 : Fma256, num_threads));
  return 2.0 * (wide ? 16 : 8) * kChains * kIterations * num_threads / best;
#else
  (void)SecondsOf;
  (void)num_threads;
  return 0;
#endif
}

}  // namespace lorad::bench
