#ifndef LORAD_ENGINE_OPS_OPTIMIZER_H_
#define LORAD_ENGINE_OPS_OPTIMIZER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/core/tensor_view.h"

namespace lorad {

// Elements of the flat tensor that share a scale when moments are kept in 8 bits.
inline constexpr int64_t kMomentBlock = 256;

// One parameter tensor with what its update needs; all dense. The moments have one of two forms, in
// both of which zero bytes are zero moments, as they must be before step 1:
//   full    m, v of adapter dtype in the shape of param; no scales
//   8 bits  param and grad kF32; m, v kU8 in the shape of param; a scale for each kMomentBlock
// Moments may lie in pinned host memory that the device can address.
struct AdamWTensor {
  TensorView param;
  ConstTensorView grad;                     // like param
  TensorView m;                             // first moment
  TensorView v;                             // second moment
  TensorView m_scales = {}, v_scales = {};  // kF32 [ceil(num_elements / kMomentBlock)]
};

// Decoupled weight decay, in PyTorch's order of operations (p *= 1 - lr * weight_decay first):
//   m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2,  g = grad * grad_scale
//   p -= lr * (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)
// Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization", 2019.
//
// Exactly, with the constants of AdamWScalars, every operation rounded by itself and left to right:
//   m = beta1 * m + one_minus_beta1 * g
//   v = beta2 * v + one_minus_beta2 * g * g
//   p = p * decay - step_size * m / (sqrt(v) / root + eps)
// so every backend gives the same bits.
//
// 8 bits: m = m_code[code] * scale and v = v_code[code] * scale come before this, and p takes the
// new m and v as they are; then for each block and moment x
//   scale = max |x|;  code = the nearest entry to x / scale (0 where the scale is 0), that is, the
//   number of midpoints (t[i] + t[i + 1]) * 0.5f below it: at a midpoint the lower entry.
// Source: Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2022. bitsandbytes
// differs in detail: it decays weights after the update, divides with less precision, makes a
// negative m that is nearest to 0 the entry below, and keeps tensors of less than 4096 elements in
// fp32. Those are biases and norms, whose few numbers cost nothing; LoRA has matrices alone, and
// the scales of one matrix do not depend on another's, so here there is no such bound.
struct AdamWArgs {
  absl::Span<const AdamWTensor> tensors;  // all moments in one form
  double learning_rate = 0;               // >= 0
  double beta1 = 0.9;                     // [0, 1)
  double beta2 = 0.999;                   // [0, 1)
  double eps = 1e-8;                      // > 0
  double weight_decay = 0;                // >= 0
  double grad_scale = 1;                  // gradient clipping folded in
  int64_t step = 1;                       // >= 1
  // The 8-bit codes' values, kF32 [256], ascending: signed for m, unsigned for v.
  ConstTensorView m_code = {}, v_code = {};
};
absl::Status Validate(const AdamWArgs& args);

// Whether the moments are in 8 bits. REQUIRES: valid.
inline bool HasEightBitMoments(const AdamWArgs& args) {
  return !args.tensors.empty() && args.tensors[0].m.dtype == DType::kU8;
}

// out[0] = sum over all tensors of sum of squares; accumulated in fp64 in a fixed order, so the
// same from run to run. The gradient norm is its square root.
struct SumSquaresArgs {
  absl::Span<const ConstTensorView> tensors;  // adapter dtype, dense
  TensorView out;                             // kF64 [1]
};
absl::Status Validate(const SumSquaresArgs& args);

}  // namespace lorad

#endif  // LORAD_ENGINE_OPS_OPTIMIZER_H_
