#include "engine/ops/cpu/kernels.h"
#include "engine/ops/cpu/vector_math.h"

namespace lorad::cpu {

constexpr int64_t kGrain = 8192;  // elements worth waking a thread for

template <typename T>
void SwiGlu(const SwiGluArgs& args, ThreadPool& pool, FlopMeter flops) {
  pool.For(args.gate.num_elements(), kGrain, [&](int64_t begin, int64_t end) {
    SiluMul(args.gate.as<T>() + begin, args.up.as<T>() + begin, args.out.as<T>() + begin,
            end - begin);
    flops.Forward(FlopOp::kSwiGlu, 5 * (end - begin));
  });
}

template <typename T>
void SwiGluBackward(const SwiGluBackwardArgs& args, ThreadPool& pool, FlopMeter flops) {
  pool.For(args.gate.num_elements(), kGrain, [&](int64_t begin, int64_t end) {
    SiluMulGrad(args.dout.as<T>() + begin, args.gate.as<T>() + begin, args.up.as<T>() + begin,
                args.dgate.as<T>() + begin, args.dup.as<T>() + begin, end - begin);
    flops.Backward(FlopOp::kSwiGlu, 11 * (end - begin));
  });
}

template void SwiGlu<float>(const SwiGluArgs&, ThreadPool&, FlopMeter);
template void SwiGlu<double>(const SwiGluArgs&, ThreadPool&, FlopMeter);
template void SwiGluBackward<float>(const SwiGluBackwardArgs&, ThreadPool&, FlopMeter);
template void SwiGluBackward<double>(const SwiGluBackwardArgs&, ThreadPool&, FlopMeter);

}  // namespace lorad::cpu
