// Short bursts of work over most of the host's cores, away from the engine thread.
#ifndef LORAD_ENGINE_CORE_PARALLEL_H_
#define LORAD_ENGINE_CORE_PARALLEL_H_

#include <cstdint>
#include <functional>

namespace lorad {

// Threads that are worth starting for work over `bytes` bytes: one for every 4 MiB, at least one,
// and at most three quarters of the cores, so that serving keeps the others.
int WorthwhileThreads(int64_t bytes);

// Calls body(i) once for each i in [0, count), on up to `threads` threads of its own and the
// caller's, in no order. Returns when all calls have. body must be thread-safe. REQUIRES:
// threads >= 1.
void ParallelFor(int64_t count, int threads, const std::function<void(int64_t)>& body);

}  // namespace lorad

#endif  // LORAD_ENGINE_CORE_PARALLEL_H_
