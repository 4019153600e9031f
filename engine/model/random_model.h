// Models of any shape with random weights, for benchmarks and tests: no checkpoint is read.
#ifndef LORAD_ENGINE_MODEL_RANDOM_MODEL_H_
#define LORAD_ENGINE_MODEL_RANDOM_MODEL_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/core/quant_spec.h"
#include "engine/device/backend.h"
#include "engine/model/config.h"
#include "engine/model/weights.h"

namespace lorad {

// Standard deviation of embedding, head and biases; transformers' initializer_range.
inline constexpr float kRandomStddev = 0.02f;

// A model of this config and quantisation, laid out as Model::Load lays it out. Linears of the
// decoder are N(0, 1 / in_features), so that activations keep their size however many layers there
// are; embedding, head and biases N(0, kRandomStddev^2); norms 1. Quantised linears hold what
// quantising such numbers gives, so codes and scales are spread as a real model's are.
//
// The numbers are those of one block, at most 64 MB of floats, copied piece by piece from random
// places of it: a model is as large as memory and takes about as long as copying it. Matrices thus
// share numbers, at random shifts. A function of the arguments alone; digest() says "random" and
// the seed, and is no sha256.
// kInvalidArgument: `quant`, `options`; kResourceExhausted: memory, and nothing is kept.
absl::StatusOr<std::shared_ptr<const Model>> RandomModel(const ModelConfig& config,
                                                         const QuantSpec& quant, uint64_t seed,
                                                         Backend& backend,
                                                         const ModelOptions& options = {});

}  // namespace lorad

#endif  // LORAD_ENGINE_MODEL_RANDOM_MODEL_H_
