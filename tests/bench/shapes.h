#ifndef LORAD_TESTS_BENCH_SHAPES_H_
#define LORAD_TESTS_BENCH_SHAPES_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/backend.h"
#include "engine/model/config.h"
#include "engine/model/weights.h"

namespace lorad::bench {

// The preset of that name (engine/plan/presets.h), "tiny", or the shape of a config.json, given by
// its path or its folder's.
absl::StatusOr<ModelConfig> ShapeConfig(const std::string& shape);

// A model of that shape: the checkpoint where `shape` is a folder that holds one, random weights
// otherwise. `base`: bf16, or what ParseQuantSpec takes.
absl::StatusOr<std::shared_ptr<const Model>> ShapeModel(const std::string& shape,
                                                        const std::string& base, uint64_t seed,
                                                        Backend& backend,
                                                        const ModelOptions& options = {});

// The model of the case at hand, kept while cases of its shape, base and seed follow one another.
class CaseModel {
 public:
  // ShapeModel's; the one before is given back first, for both might not fit. What was returned
  // must be gone by then.
  absl::Status Take(const std::string& shape, const std::string& base, uint64_t seed,
                    Backend& backend, const ModelOptions& options = {});
  const std::shared_ptr<const Model>& get() const { return model_; }
  // What making it took.
  double seconds() const { return seconds_; }

 private:
  std::shared_ptr<const Model> model_;
  std::string key_;
  double seconds_ = 0;
};

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_SHAPES_H_
