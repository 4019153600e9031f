// A LoRA adapter in host memory and on a device.
#ifndef LORAD_ENGINE_LORA_ADAPTER_H_
#define LORAD_ENGINE_LORA_ADAPTER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/backend.h"
#include "engine/model/config.h"
#include "engine/model/modules.h"
#include "engine/ops/linear.h"

namespace lorad {

// The part of PEFT's adapter_config.json that fixes the maths, and what is written back.
struct AdapterConfig {
  int32_t r = 0;  // the default; modules may differ through rank_pattern
  double lora_alpha = 0;
  double lora_dropout = 0;
  bool use_rslora = false;
  std::vector<std::string> target_modules;  // sorted; names as PEFT would match them
  std::string base_model_name_or_path;
};

// One adapted module: delta W = scaling * B A.
struct AdapterModule {
  ModuleId id;
  int32_t rank = 0;
  double alpha = 0;      // of this module (alpha_pattern)
  float scaling = 0;     // alpha / rank, or alpha / sqrt(rank)
  std::vector<float> a;  // [rank, in], row-major
  std::vector<float> b;  // [out, rank]
};

// What a PEFT directory holds, in fp32, checked against the base model's shapes.
struct HostAdapter {
  AdapterConfig config;
  std::vector<AdapterModule> modules;  // by ModuleId::index, ascending
  int64_t num_parameters() const;
};

// sha256 (hex) of what changes the maths, and of nothing else: for each module in order its path,
// rank, in and out features, the bits of its fp32 scaling, and A and B in fp32. So it is the same
// after an export and import, whatever dtype the file had if the values are equal, and however r,
// alpha, rsLoRA and the patterns express the scaling; name, dropout and base model do not count.
std::string AdapterDigest(const HostAdapter& adapter);

// The weights on a device. Immutable; the store hands it out as shared_ptr so that its bytes are
// freed when the last request that uses it ends. Thread-safe.
class DeviceAdapter {
 public:
  struct Module {
    ModuleId id;
    ConstTensorView a;  // adapter dtype [rank, in]
    ConstTensorView b;  // adapter dtype [out, rank]
    float scaling = 0;
    int32_t rank = 0;
  };
  // One block of memory under MemoryTag::kAdapters. kResourceExhausted when it does not fit.
  static absl::StatusOr<std::shared_ptr<const DeviceAdapter>> Create(const HostAdapter& adapter,
                                                                     std::string id,
                                                                     Backend& backend,
                                                                     Stream& stream);
  const std::string& id() const { return id_; }
  int64_t size_bytes() const { return buffer_.size_bytes(); }
  const std::vector<Module>& modules() const { return modules_; }
  // nullptr if the adapter does not adapt it.
  const Module* Find(ModuleId id) const;
  int32_t max_rank() const { return max_rank_; }

 private:
  DeviceAdapter() = default;
  std::string id_;
  DeviceBuffer buffer_;
  std::vector<Module> modules_;
  std::vector<int32_t> by_index_;  // ModuleId::index -> position in modules_, -1: not adapted
  int32_t max_rank_ = 0;
};
// Bytes that Create will take.
int64_t DeviceAdapterBytes(const HostAdapter& adapter, const Backend& backend);

}  // namespace lorad

#endif  // LORAD_ENGINE_LORA_ADAPTER_H_
