// What all elements of an AdamW step share. No Abseil, no CUDA: for .cc and .cu files.
#ifndef LORAD_ENGINE_OPS_ADAMW_SCALARS_H_
#define LORAD_ENGINE_OPS_ADAMW_SCALARS_H_

#include <cmath>
#include <cstdint>

namespace lorad {

// Worked out in double on the host and rounded once to T, so that all backends use the same bits.
// Names as in AdamWArgs.
template <typename T>
struct AdamWScalars {
  T grad_scale, beta1, beta2, one_minus_beta1, one_minus_beta2;
  T decay;      // 1 - learning_rate * weight_decay
  T step_size;  // learning_rate / (1 - beta1^step)
  T root;       // sqrt(1 - beta2^step)
  T eps;

  // Args: AdamWArgs, which this file does not include.
  template <typename Args>
  static AdamWScalars Of(const Args& args) {
    const double step = static_cast<double>(args.step);
    return {.grad_scale = static_cast<T>(args.grad_scale),
            .beta1 = static_cast<T>(args.beta1),
            .beta2 = static_cast<T>(args.beta2),
            .one_minus_beta1 = static_cast<T>(1 - args.beta1),
            .one_minus_beta2 = static_cast<T>(1 - args.beta2),
            .decay = static_cast<T>(1 - args.learning_rate * args.weight_decay),
            .step_size = static_cast<T>(args.learning_rate / (1 - std::pow(args.beta1, step))),
            .root = static_cast<T>(std::sqrt(1 - std::pow(args.beta2, step))),
            .eps = static_cast<T>(args.eps)};
  }
};

}  // namespace lorad

#endif  // LORAD_ENGINE_OPS_ADAMW_SCALARS_H_
