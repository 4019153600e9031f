// What the processor's arithmetic allows: the bound that CPU benchmarks are held against.
#ifndef LORAD_TESTS_BENCH_FMA_PEAK_H_
#define LORAD_TESTS_BENCH_FMA_PEAK_H_

namespace lorad::bench {

// fp32 multiply-adds per CPU second of `num_threads` threads at once, counted as two operations
// each: the best of several runs of a loop that does nothing else, in the widest vectors there are.
// CPU time, not wall time, so that other processes on the machine do not lower the bound. 0 on a
// processor that is not x86-64 with FMA.
double MeasureFmaFlops(int num_threads);

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_FMA_PEAK_H_
