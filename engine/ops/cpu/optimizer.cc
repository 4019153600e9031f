#include <cmath>

#include "engine/ops/cpu/kernels.h"

namespace lorad::cpu {

template <typename T>
void AdamW(const AdamWArgs& args, ThreadPool& pool) {
  const T decay = static_cast<T>(1 - args.learning_rate * args.weight_decay);
  const T beta1 = static_cast<T>(args.beta1), beta2 = static_cast<T>(args.beta2);
  const T one_minus_beta1 = static_cast<T>(1 - args.beta1),
          one_minus_beta2 = static_cast<T>(1 - args.beta2);
  const double correction1 = 1 - std::pow(args.beta1, static_cast<double>(args.step));
  const double correction2 = 1 - std::pow(args.beta2, static_cast<double>(args.step));
  const T step_size = static_cast<T>(args.learning_rate / correction1);
  const T root = static_cast<T>(std::sqrt(correction2));
  const T eps = static_cast<T>(args.eps), grad_scale = static_cast<T>(args.grad_scale);
  for (const AdamWTensor& tensor : args.tensors) {
    T* param = tensor.param.as<T>();
    const T* grad = tensor.grad.as<T>();
    T* m = tensor.m.as<T>();
    T* v = tensor.v.as<T>();
    pool.For(tensor.param.num_elements(), 4096, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T g = grad[i] * grad_scale;
        m[i] = beta1 * m[i] + one_minus_beta1 * g;
        v[i] = beta2 * v[i] + one_minus_beta2 * g * g;
        param[i] = param[i] * decay - step_size * m[i] / (std::sqrt(v[i]) / root + eps);
      }
    });
  }
}

template <typename T>
void SumSquares(const SumSquaresArgs& args) {
  double total = 0;
  for (const ConstTensorView& tensor : args.tensors) {
    const T* values = tensor.as<T>();
    const int64_t count = tensor.num_elements();
    // Four partial sums hide the latency of the addition; their order is fixed.
    double partial[4] = {};
    int64_t i = 0;
    for (; i + 4 <= count; i += 4)
      for (int lane = 0; lane < 4; ++lane)
        partial[lane] += double{values[i + lane]} * values[i + lane];
    for (; i < count; ++i) partial[0] += double{values[i]} * values[i];
    total += (partial[0] + partial[1]) + (partial[2] + partial[3]);
  }
  args.out.as<double>()[0] = total;
}

template void AdamW<float>(const AdamWArgs&, ThreadPool&);
template void AdamW<double>(const AdamWArgs&, ThreadPool&);
template void SumSquares<float>(const SumSquaresArgs&);
template void SumSquares<double>(const SumSquaresArgs&);

}  // namespace lorad::cpu
