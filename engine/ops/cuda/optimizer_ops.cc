#include "engine/ops/cuda/optimizer_ops.h"

#include <cstdint>
#include <vector>

#include "engine/core/status_macros.h"
#include "engine/device/cuda/cuda_error.h"
#include "engine/ops/check_args.h"
#include "engine/ops/cuda/optimizer.h"

namespace lorad::cuda {
namespace {

AdamWBuffers ToBuffers(const AdamWTensor& tensor, bool eight_bit) {
  AdamWBuffers buffers{.param = tensor.param.as<float>(),
                       .grad = tensor.grad.as<float>(),
                       .m = tensor.m.data,
                       .v = tensor.v.data,
                       .num_elements = tensor.param.num_elements()};
  if (eight_bit) {
    buffers.m_scales = tensor.m_scales.as<float>();
    buffers.v_scales = tensor.v_scales.as<float>();
  }
  return buffers;
}

}  // namespace

absl::Status AdamW(const AdamWArgs& args, cudaStream_t stream) {
  const bool eight_bit = HasEightBitMoments(args);
  std::vector<AdamWBuffers> buffers;
  for (const AdamWTensor& tensor : args.tensors) {
    RETURN_IF_ERROR(ops::CheckDType("adamw", "param", tensor.param, DType::kF32));
    buffers.push_back(ToBuffers(tensor, eight_bit));
  }
  const auto count = static_cast<int64_t>(buffers.size());
  const auto scalars = AdamWScalars<float>::Of(args);
  if (!eight_bit) return ToStatus(LaunchAdamW(buffers.data(), count, scalars, stream), "adamw");
  return ToStatus(LaunchAdamW8Bit(buffers.data(), count, scalars, args.m_code.as<float>(),
                                  args.v_code.as<float>(), stream),
                  "adamw with 8-bit moments");
}

absl::Status SumSquares(const SumSquaresArgs& args, const LinearScratch& scratch) {
  static_assert(kSumSquaresPartials * sizeof(double) <= kMatmulWorkspaceBytes);
  std::vector<SumSquaresInput> inputs;
  for (const ConstTensorView& tensor : args.tensors) {
    RETURN_IF_ERROR(ops::CheckDType("sum_squares", "tensor", tensor, DType::kF32));
    inputs.push_back({tensor.as<float>(), tensor.num_elements()});
  }
  return ToStatus(LaunchSumSquares(inputs.data(), static_cast<int64_t>(inputs.size()),
                                   static_cast<double*>(scratch.lt_workspace),
                                   args.out.as<double>(), scratch.stream),
                  "sum_squares");
}

}  // namespace lorad::cuda
