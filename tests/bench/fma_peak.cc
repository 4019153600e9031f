#include "tests/bench/fma_peak.h"

#include <time.h>

#include <algorithm>
#include <cstdint>
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

double ThreadCpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Of the slowest of `num_threads` threads that run the loop at once.
double CpuSecondsOf(void (*loop)(), int num_threads) {
  std::vector<double> seconds(num_threads);
  std::vector<std::thread> threads;
  for (double& mine : seconds)
    threads.emplace_back([loop, &mine] {
      const double begin = ThreadCpuSeconds();
      loop();
      mine = ThreadCpuSeconds() - begin;
    });
  for (std::thread& thread : threads) thread.join();
  return *std::max_element(seconds.begin(), seconds.end());
}

}  // namespace

double MeasureFmaFlops(int num_threads) {
#if defined(__x86_64__)
  const bool wide = __builtin_cpu_supports("avx512f");
  if (!wide && !(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) return 0;
  double best = 1e30;
  for (int run = 0; run < 5; ++run)
    best = std::min(best, CpuSecondsOf(wide ? Fma512 : Fma256, num_threads));
  return 2.0 * (wide ? 16 : 8) * kChains * kIterations * num_threads / best;
#else
  (void)CpuSecondsOf;
  (void)num_threads;
  return 0;
#endif
}

}  // namespace lorad::bench
