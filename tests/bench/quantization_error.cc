#include "tests/bench/quantization_error.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/core/float16.h"
#include "engine/core/status_macros.h"
#include "engine/device/backend.h"
#include "engine/io/safetensors_checkpoint.h"
#include "engine/model/host_values.h"
#include "engine/model/modules.h"
#include "engine/ops/ops.h"
#include "engine/quant/quant.h"

namespace lorad::bench {
namespace {

absl::StatusOr<std::vector<float>> Decode(const QuantizedMatrix& matrix) {
  const std::unique_ptr<Backend> backend = CreateCpuBackend();
  ASSIGN_OR_RETURN(const std::unique_ptr<Stream> stream, backend->CreateStream());
  std::vector<float> out(matrix.out_features * matrix.in_features);
  const TensorView view = {out.data(), DType::kF32, {matrix.out_features, matrix.in_features}};
  RETURN_IF_ERROR(backend->ops().Dequantize({matrix.View(), view}, *stream));
  return out;
}

QuantizationError ErrorBetween(const std::vector<float>& values,
                               const std::vector<float>& decoded) {
  QuantizationError error{.weights = static_cast<int64_t>(values.size())};
  for (size_t i = 0; i < values.size(); ++i) {
    const double difference = double{values[i]} - decoded[i];
    error.sum_squares += double{values[i]} * values[i];
    error.sum_square_errors += difference * difference;
    error.largest = std::max(error.largest, std::abs(difference));
  }
  error.largest /= std::sqrt(error.sum_squares / static_cast<double>(values.size()));
  return error;
}

// Of ascending numbers; REQUIRES: `value` is not above the last.
float Nearest(const std::vector<float>& ascending, float value) {
  const auto above = std::lower_bound(ascending.begin(), ascending.end(), value);
  if (above == ascending.begin()) return *above;
  return value - above[-1] <= *above - value ? above[-1] : *above;
}

bool IsLinear(const std::string& name) {
  return absl::EndsWith(name, ".weight") &&
         ParseModulePath(name.substr(0, name.rfind('.'))).has_value();
}

}  // namespace

void QuantizationError::Add(const QuantizationError& other) {
  sum_squares += other.sum_squares;
  sum_square_errors += other.sum_square_errors;
  largest = std::max(largest, other.largest);
  bytes += other.bytes;
  weights += other.weights;
}

double QuantizationError::RelativeRms() const { return std::sqrt(sum_square_errors / sum_squares); }

double QuantizationError::BitsPerWeight() const {
  return 8 * static_cast<double>(bytes) / static_cast<double>(weights);
}

absl::StatusOr<QuantizationError> MeasureQuantizationError(const QuantSpec& spec,
                                                           const std::vector<float>& values) {
  RETURN_IF_ERROR(ValidateQuantSpec(spec));
  const auto count = static_cast<int64_t>(values.size());
  ASSIGN_OR_RETURN(const std::vector<float> decoded,
                   Decode(Quantize(spec, 1, count, values.data())));
  QuantizationError error = ErrorBetween(values, decoded);
  error.bytes = QuantizedBytes(spec, 1, count);
  return error;
}

QuantizationError MeasureTypeError(const std::vector<float>& magnitudes, int64_t block,
                                   const std::vector<float>& values) {
  std::vector<float> decoded;
  for (auto begin = values.begin(); begin != values.end();) {
    const auto end = begin + std::min<int64_t>(block, values.end() - begin);
    float absmax = 0;
    for (auto value = begin; value != end; ++value) absmax = std::max(absmax, std::abs(*value));
    for (; begin != end; ++begin) {
      const float magnitude = Nearest(magnitudes, absmax == 0 ? 0 : std::abs(*begin) / absmax);
      decoded.push_back(ToFloat(ToBFloat16(std::copysign(magnitude * absmax, *begin))));
    }
  }
  return ErrorBetween(values, decoded);
}

std::vector<float> NormalWeights(int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = ToFloat(ToBFloat16(normal(random)));
  return values;
}

std::vector<float> WithOutliers(std::vector<float> values, int64_t every, float factor,
                                uint64_t seed) {
  std::mt19937_64 random(seed);
  for (float& value : values) {
    if (random() % static_cast<uint64_t>(every) == 0) value *= factor;
  }
  return values;
}

absl::StatusOr<std::vector<std::vector<float>>> ReadLinears(const std::string& model_dir) {
  ASSIGN_OR_RETURN(const SafetensorsCheckpoint checkpoint, SafetensorsCheckpoint::Open(model_dir));
  std::vector<std::vector<float>> linears;
  for (const SafetensorsEntry* entry : checkpoint.entries()) {
    if (!IsLinear(entry->name)) continue;
    ASSIGN_OR_RETURN(const ConstTensorView view, entry->View());
    linears.emplace_back(view.shape.num_elements());
    RETURN_IF_ERROR(ReadFloats(*entry, 0, view.shape.num_elements(), linears.back().data()));
  }
  if (linears.empty()) {
    return absl::NotFoundError(absl::StrCat(
        model_dir, " has no tensor named like model.layers.0.self_attn.q_proj.weight"));
  }
  return linears;
}

}  // namespace lorad::bench
