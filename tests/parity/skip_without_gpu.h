#ifndef LORAD_TESTS_PARITY_SKIP_WITHOUT_GPU_H_
#define LORAD_TESTS_PARITY_SKIP_WITHOUT_GPU_H_

#include <cstdlib>

#include "absl/status/status.h"
#include "gtest/gtest.h"

// Ends the test where `status`, of CreateCudaBackend, is an error: as skipped, and as failed where
// LORAD_REQUIRE_GPU is set, for a run on a GPU must never pass by skipping everything.
#define SKIP_WITHOUT_GPU(status)                                             \
  do {                                                                       \
    if (const absl::Status& gpu_status = (status); !gpu_status.ok()) {       \
      if (std::getenv("LORAD_REQUIRE_GPU") != nullptr) FAIL() << gpu_status; \
      GTEST_SKIP() << gpu_status;                                            \
    }                                                                        \
  } while (false)

#endif  // LORAD_TESTS_PARITY_SKIP_WITHOUT_GPU_H_
