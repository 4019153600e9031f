// The reference data of tests/golden: what transformers, PEFT and bitsandbytes computed.
#ifndef LORAD_TESTS_SUPPORT_GOLDEN_H_
#define LORAD_TESTS_SUPPORT_GOLDEN_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/core/check.h"
#include "engine/io/safetensors.h"
#include "gtest/gtest.h"

namespace lorad {

inline constexpr const char* kGoldenModels[] = {"llama-gqa", "llama-tied-sharded", "qwen2-bias"};

// One model of tests/golden; tests/golden/README.md says what each tensor of its reference is.
// A missing tensor fails the test and ends the process: no comparison is skipped in silence.
class Golden {
 public:
  // `name` is one of kGoldenModels.
  explicit Golden(std::string_view name)
      : model_dir_(std::string(LORAD_SOURCE_DIR "/tests/golden/") + std::string(name)) {
    absl::StatusOr<SafetensorsFile> file =
        SafetensorsFile::Open(model_dir_ + "/reference.safetensors");
    EXPECT_TRUE(file.ok()) << file.status();
    LORAD_CHECK(file.ok());
    reference_ = *std::move(file);
  }

  const std::string& model_dir() const { return model_dir_; }
  // A PEFT directory: "adapter_init" or "adapter_step8".
  std::string AdapterDir(std::string_view adapter) const {
    return model_dir_ + "/" + std::string(adapter);
  }
  const SafetensorsFile& reference() const { return reference_; }

  // Valid while this lives.
  ConstTensorView View(std::string_view name) const {
    absl::StatusOr<ConstTensorView> view = reference_.View(name);
    EXPECT_TRUE(view.ok()) << view.status();
    LORAD_CHECK(view.ok());
    return *view;
  }
  template <typename T>
  std::vector<T> Values(std::string_view name) const {
    const ConstTensorView view = View(name);
    return std::vector<T>(view.as<T>(), view.as<T>() + view.num_elements());
  }
  std::vector<float> Floats(std::string_view name) const { return Values<float>(name); }
  std::vector<int32_t> Ints(std::string_view name) const { return Values<int32_t>(name); }

 private:
  std::string model_dir_;
  SafetensorsFile reference_;
};

// Largest difference over the largest reference value: what "relative" means in golden
// comparisons of whole tensors. Infinite when sizes differ or a value is not finite.
inline double RelativeError(const std::vector<float>& actual, const std::vector<float>& expected) {
  double difference = 0, largest = 0;
  if (actual.size() != expected.size() || actual.empty()) return INFINITY;
  for (size_t i = 0; i < actual.size(); ++i) {
    if (!std::isfinite(actual[i])) return INFINITY;
    difference = std::max(difference, std::abs(double{actual[i]} - expected[i]));
    largest = std::max(largest, std::abs(double{expected[i]}));
  }
  return difference / largest;
}

}  // namespace lorad

#endif  // LORAD_TESTS_SUPPORT_GOLDEN_H_
