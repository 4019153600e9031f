// Of builds without CUDA.
#include "tests/bench/bench_train_memory.h"

namespace lorad::bench {

int64_t FreeDeviceBytes(int) { return -1; }

}  // namespace lorad::bench
