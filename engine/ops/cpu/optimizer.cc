#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>

#include "engine/ops/adamw_scalars.h"
#include "engine/ops/cpu/kernels.h"

namespace lorad::cpu {
namespace {

constexpr int64_t kUpdateFlops = 15;  // of UpdateElement
constexpr int64_t kCodeFlops = 4;     // of an element's two moments, from their codes and back

// Updates m and v and returns the new parameter.
template <typename T>
T UpdateElement(const AdamWScalars<T>& s, T param, T grad, T& m, T& v) {
  const T g = grad * s.grad_scale;
  m = s.beta1 * m + s.one_minus_beta1 * g;
  v = s.beta2 * v + s.one_minus_beta2 * g * g;
  return param * s.decay - s.step_size * m / (std::sqrt(v) / s.root + s.eps);
}

template <typename T>
void UpdateFull(const AdamWScalars<T>& scalars, const AdamWTensor& tensor, ThreadPool& pool,
                FlopMeter flops) {
  T* param = tensor.param.as<T>();
  const T* grad = tensor.grad.as<T>();
  T* m = tensor.m.as<T>();
  T* v = tensor.v.as<T>();
  pool.For(tensor.param.num_elements(), 4096, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      param[i] = UpdateElement<T>(scalars, param[i], grad[i], m[i], v[i]);
    flops.Backward(FlopOp::kOptimizer, (end - begin) * kUpdateFlops);
  });
}

// The values of 8-bit codes, and back.
class MomentCode {
 public:
  explicit MomentCode(const float* values) : values_(values) {
    for (size_t i = 0; i < midpoints_.size(); ++i)
      midpoints_[i] = (values[i] + values[i + 1]) * 0.5f;
  }

  void Decode(const uint8_t* codes, float scale, int64_t count, float* out) const {
    for (int64_t i = 0; i < count; ++i) out[i] = values_[codes[i]] * scale;
  }
  // Returns the scale.
  float Encode(const float* moments, int64_t count, uint8_t* codes) const {
    float scale = 0;
    for (int64_t i = 0; i < count; ++i) scale = std::max(scale, std::abs(moments[i]));
    for (int64_t i = 0; i < count; ++i) codes[i] = Nearest(scale > 0 ? moments[i] / scale : 0.0f);
    return scale;
  }

 private:
  uint8_t Nearest(float value) const {
    return static_cast<uint8_t>(std::lower_bound(midpoints_.begin(), midpoints_.end(), value) -
                                midpoints_.begin());
  }

  const float* values_;
  std::array<float, 255> midpoints_;
};

void UpdateEightBit(const AdamWScalars<float>& scalars, const AdamWTensor& tensor,
                    const MomentCode& m_code, const MomentCode& v_code, ThreadPool& pool,
                    FlopMeter flops) {
  const int64_t elements = tensor.param.num_elements();
  pool.For(tensor.m_scales.num_elements(), 16, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t at = block * kMomentBlock, count = std::min(kMomentBlock, elements - at);
      float* param = tensor.param.as<float>() + at;
      const float* grad = tensor.grad.as<float>() + at;
      uint8_t* m_codes = tensor.m.as<uint8_t>() + at;
      uint8_t* v_codes = tensor.v.as<uint8_t>() + at;
      float& m_scale = tensor.m_scales.as<float>()[block];
      float& v_scale = tensor.v_scales.as<float>()[block];
      float m[kMomentBlock], v[kMomentBlock];
      m_code.Decode(m_codes, m_scale, count, m);
      v_code.Decode(v_codes, v_scale, count, v);
      for (int64_t i = 0; i < count; ++i)
        param[i] = UpdateElement<float>(scalars, param[i], grad[i], m[i], v[i]);
      m_scale = m_code.Encode(m, count, m_codes);
      v_scale = v_code.Encode(v, count, v_codes);
      flops.Backward(FlopOp::kOptimizer, count * (kUpdateFlops + kCodeFlops));
    }
  });
}

}  // namespace

template <typename T>
void AdamW(const AdamWArgs& args, ThreadPool& pool, FlopMeter flops) {
  const auto scalars = AdamWScalars<T>::Of(args);
  if (!HasEightBitMoments(args)) {
    for (const AdamWTensor& tensor : args.tensors) UpdateFull<T>(scalars, tensor, pool, flops);
    return;
  }
  if constexpr (std::is_same_v<T, float>) {  // 8-bit moments belong to fp32 parameters
    const MomentCode m_code(args.m_code.as<float>()), v_code(args.v_code.as<float>());
    for (const AdamWTensor& tensor : args.tensors)
      UpdateEightBit(scalars, tensor, m_code, v_code, pool, flops);
  }
}

template <typename T>
void SumSquares(const SumSquaresArgs& args, FlopMeter flops) {
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
    flops.Backward(FlopOp::kOptimizer, 2 * count);
  }
  args.out.as<double>()[0] = total;
}

template void AdamW<float>(const AdamWArgs&, ThreadPool&, FlopMeter);
template void AdamW<double>(const AdamWArgs&, ThreadPool&, FlopMeter);
template void SumSquares<float>(const SumSquaresArgs&, FlopMeter);
template void SumSquares<double>(const SumSquaresArgs&, FlopMeter);

}  // namespace lorad::cpu
