// Checks of our own invariants. Never for input, a file's content or a device error: those are
// Status.
#ifndef LORAD_ENGINE_CORE_CHECK_H_
#define LORAD_ENGINE_CORE_CHECK_H_

#include <cstdio>
#include <cstdlib>

// Ends the process when `condition` is false: a bug in lorad, in every build type.
#define LORAD_CHECK(condition)                                                           \
  do {                                                                                   \
    if (!(condition)) [[unlikely]] {                                                     \
      std::fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)

#endif  // LORAD_ENGINE_CORE_CHECK_H_
