// What a k-bit format makes of weights: how far its values are from the 16-bit ones.
#ifndef LORAD_TESTS_BENCH_QUANTIZATION_ERROR_H_
#define LORAD_TESTS_BENCH_QUANTIZATION_ERROR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/core/quant_spec.h"

namespace lorad::bench {

// Sums over weights w and their decoded values q; those of several matrices can be added up.
struct QuantizationError {
  double sum_squares = 0;        // of w
  double sum_square_errors = 0;  // of w - q
  double largest = 0;            // |w - q|, in units of the RMS of the matrix's weights
  int64_t bytes = 0;             // codes and scales
  int64_t weights = 0;

  void Add(const QuantizationError& other);
  // Root mean square of the errors over that of the weights.
  double RelativeRms() const;
  double BitsPerWeight() const;
};

// Encodes the values, a row of a matrix of their own, and decodes them by the op of the CPU
// backend, which rounds to bf16 as the engine does. Errors of ValidateQuantSpec; REQUIRES: a format
// other than kNone, values that are not empty.
absl::StatusOr<QuantizationError> MeasureQuantizationError(const QuantSpec& spec,
                                                           const std::vector<float>& values);

// The same for a symmetric type that the engine does not have: each block's values are the nearest
// of +-`magnitudes`, which ascend from 0 to 1, times its absmax in fp32. `bytes` stays 0.
// REQUIRES: block > 0.
QuantizationError MeasureTypeError(const std::vector<float>& magnitudes, int64_t block,
                                   const std::vector<float>& values);

// N(0, 1), rounded to bf16: what a checkpoint holds. A function of the arguments alone.
std::vector<float> NormalWeights(int64_t count, uint64_t seed);

// `values` with one in `every` of them, at random places, times `factor`.
std::vector<float> WithOutliers(std::vector<float> values, int64_t every, float factor,
                                uint64_t seed);

// The linears of the decoder layers of a Hugging Face model directory, each a vector.
absl::StatusOr<std::vector<std::vector<float>>> ReadLinears(const std::string& model_dir);

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_QUANTIZATION_ERROR_H_
