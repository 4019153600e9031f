// A LoRA adapter in host memory and on a device.
#ifndef LORAD_ENGINE_LORA_ADAPTER_H_
#define LORAD_ENGINE_LORA_ADAPTER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
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

// A module whose values lie elsewhere, so that an adapter can be read where it stands.
struct AdapterModuleView {
  ModuleId id;
  int32_t rank = 0;
  float scaling = 0;
  absl::Span<const float> a;  // [rank, in]; not owned
  absl::Span<const float> b;  // [out, rank]; not owned

  int64_t in_features() const { return static_cast<int64_t>(a.size()) / rank; }
  int64_t out_features() const { return static_cast<int64_t>(b.size()) / rank; }
};
// REQUIRES: `adapter` outlives the views.
std::vector<AdapterModuleView> Views(const HostAdapter& adapter);

// sha256 (hex) of what changes the maths, and of nothing else: for each module in order its path,
// rank, in and out features, the bits of its fp32 scaling, and A and B in fp32. So it is the same
// after an export and import, whatever dtype the file had if the values are equal, and however r,
// alpha, rsLoRA and the patterns express the scaling; name, dropout and base model do not count.
// A tree of two levels, the sha256 of the modules' own: the modules of a large adapter are hashed
// in parallel, because a trained adapter is not served before its identity is known.
std::string AdapterDigest(absl::Span<const AdapterModuleView> modules);
std::string AdapterDigest(const HostAdapter& adapter);

class AdapterImage;
class AdapterMemory;

// The weights on a device, in the backend's activation dtype. Immutable; the store hands it out as
// shared_ptr so that its pages are free when the last request that uses it ends. Thread-safe, but
// created and destroyed on the engine thread.
class DeviceAdapter {
 public:
  struct Module {
    ModuleId id;
    ConstTensorView a;  // activation dtype [rank, in]
    ConstTensorView b;  // activation dtype [out, rank]
    float scaling = 0;
    int32_t rank = 0;
  };
  // Takes pages and queues the copies of the image's; it may be used when they are done, and the
  // image must stay until then. kResourceExhausted when there are not enough pages: nothing is
  // taken then. `memory` is not owned and must outlive the adapter.
  static absl::StatusOr<std::shared_ptr<const DeviceAdapter>> Create(const AdapterImage& image,
                                                                     AdapterMemory& memory,
                                                                     Backend& backend,
                                                                     Stream& stream);
  ~DeviceAdapter();
  DeviceAdapter(const DeviceAdapter&) = delete;
  DeviceAdapter& operator=(const DeviceAdapter&) = delete;

  const std::string& id() const { return id_; }
  // Of these bytes at this place: no other DeviceAdapter of the process ever has it.
  uint64_t instance() const { return instance_; }
  int64_t size_bytes() const { return size_bytes_; }  // of whole pages
  const std::vector<Module>& modules() const { return modules_; }
  // nullptr if the adapter does not adapt it.
  const Module* Find(ModuleId id) const;
  int32_t max_rank() const { return max_rank_; }

 private:
  struct Run {
    void* pages = nullptr;
    int64_t count = 0;
  };

  DeviceAdapter(std::string id, AdapterMemory& memory);
  absl::Status TakePages(const AdapterImage& image);
  absl::Status Copy(const AdapterImage& image, Backend& backend, Stream& stream) const;
  void PlaceModules(const AdapterImage& image);
  char* page(int64_t index) const { return page_data_[index]; }

  const std::string id_;
  const uint64_t instance_;
  AdapterMemory& memory_;
  int64_t size_bytes_ = 0;
  std::vector<Run> runs_;
  std::vector<char*> page_data_;
  std::vector<Module> modules_;
  std::vector<int32_t> by_index_;  // ModuleId::index -> position in modules_, -1: not adapted
  int32_t max_rank_ = 0;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_LORA_ADAPTER_H_
