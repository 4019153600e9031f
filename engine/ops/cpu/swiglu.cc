#include "engine/ops/cpu/kernels.h"
#include "engine/ops/cpu/vector_math.h"

namespace lorad::cpu {

constexpr int64_t kGrain = 8192;  // elements worth waking a thread for

template <typename T>
void SwiGlu(const SwiGluArgs& args, ThreadPool& pool) {
  pool.For(args.gate.num_elements(), kGrain, [&](int64_t begin, int64_t end) {
    SiluMul(args.gate.as<T>() + begin, args.up.as<T>() + begin, args.out.as<T>() + begin,
            end - begin);
  });
}

template <typename T>
void SwiGluBackward(const SwiGluBackwardArgs& args, ThreadPool& pool) {
  pool.For(args.gate.num_elements(), kGrain, [&](int64_t begin, int64_t end) {
    SiluMulGrad(args.dout.as<T>() + begin, args.gate.as<T>() + begin, args.up.as<T>() + begin,
                args.dgate.as<T>() + begin, args.dup.as<T>() + begin, end - begin);
  });
}

template void SwiGlu<float>(const SwiGluArgs&, ThreadPool&);
template void SwiGlu<double>(const SwiGluArgs&, ThreadPool&);
template void SwiGluBackward<float>(const SwiGluBackwardArgs&, ThreadPool&);
template void SwiGluBackward<double>(const SwiGluBackwardArgs&, ThreadPool&);

}  // namespace lorad::cpu
