#include "engine/ops/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/core/status_macros.h"
#include "engine/ops/check_args.h"
#include "engine/ops/sample_weight.h"

namespace lorad {
namespace {

constexpr char kOp[] = "sample";

absl::Status CheckPlain(const char* name, const ConstTensorView& view, DType dtype,
                        const Shape& shape) {
  RETURN_IF_ERROR(ops::CheckDType(kOp, name, view, dtype));
  RETURN_IF_ERROR(ops::CheckShape(kOp, name, view, shape));
  if (view.dense()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(kOp, ": ", name, " has rows ", view.stride(), " elements apart, must be dense"));
}

}  // namespace

absl::Status Validate(const SampleArgs& args) {
  RETURN_IF_ERROR(ops::CheckActivation(kOp, "logits", args.logits));
  RETURN_IF_ERROR(ops::CheckDims(kOp, "logits", args.logits, 2));
  const int64_t rows = args.logits.shape[0], vocab = args.logits.shape[1];
  RETURN_IF_ERROR(ops::CheckThat(1 <= vocab && vocab <= kMaxSampleVocab, kOp, "vocabulary",
                                 static_cast<double>(vocab), "in [1, 2^24)"));
  RETURN_IF_ERROR(CheckPlain("params", args.params, DType::kU8, {rows, sizeof(DrawParams)}));
  RETURN_IF_ERROR(CheckPlain("ids", args.ids, DType::kI32, {rows}));
  RETURN_IF_ERROR(CheckPlain("logprobs", args.logprobs, DType::kF32, {rows}));
  if (args.top_ids.empty() && args.top_logprobs.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(ops::CheckDims(kOp, "top_ids", args.top_ids, 2));
  const int64_t top = args.top_ids.shape[1];
  RETURN_IF_ERROR(ops::CheckThat(top <= kMaxTopLogprobs, kOp, "columns of top_ids",
                                 static_cast<double>(top), "<= 20"));
  RETURN_IF_ERROR(CheckPlain("top_ids", args.top_ids, DType::kI32, {rows, top}));
  return CheckPlain("top_logprobs", args.top_logprobs, DType::kF32, {rows, top});
}

DrawParams MakeDrawParams(double temperature, int32_t top_k, double top_p, double min_p,
                          uint64_t seed) {
  constexpr double kLeast = std::numeric_limits<float>::min();
  constexpr double kMost = std::numeric_limits<float>::max();
  DrawParams params;
  params.seed = seed;
  params.top_k = top_k;
  // A product with 2^64 is exact; below 1 it is at most 2^64 - 2^11.
  if (top_p < 1) params.top_p = std::max<uint64_t>(static_cast<uint64_t>(top_p * 0x1p64), 1);
  const double weight = std::ceil(min_p * static_cast<double>(kLargestSampleWeight));
  params.min_weight = std::max<uint64_t>(static_cast<uint64_t>(weight), 1);
  if (temperature > 0) {
    const double octaves = std::log2(std::exp(1.0)) / temperature;
    params.octaves_per_unit = static_cast<float>(std::clamp(octaves, kLeast, kMost));
  }
  return params;
}

}  // namespace lorad
