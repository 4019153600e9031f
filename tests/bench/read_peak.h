// What memory allows: the other bound that CPU benchmarks are held against.
#ifndef LORAD_TESTS_BENCH_READ_PEAK_H_
#define LORAD_TESTS_BENCH_READ_PEAK_H_

#include <cstdint>

namespace lorad::bench {

// Bytes per CPU second that `num_threads` threads at once read when each goes again and again
// through its own share of `bytes` bytes: the best of several runs. A set that fits a cache is read
// from that cache, as the weights of a small model are. CPU time, as in fma_peak.h.
double MeasureReadBytesPerSecond(int64_t bytes, int num_threads);

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_READ_PEAK_H_
