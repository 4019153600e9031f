#include "engine/lora/peft.h"

#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/core/check.h"
#include "engine/core/status_macros.h"
#include "engine/io/atomic_directory.h"
#include "engine/io/file.h"
#include "engine/io/safetensors.h"
#include "engine/lora/peft_config.h"
#include "engine/model/host_values.h"

namespace lorad {
namespace {

constexpr char kConfigFile[] = "adapter_config.json";
constexpr char kTensorFile[] = "adapter_model.safetensors";
constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::string_view kSuffixA = ".lora_A.weight", kSuffixB = ".lora_B.weight";

std::string TensorName(ModuleId id, std::string_view suffix) {
  std::string name(kPrefix);
  name += ModulePath(id);
  name += suffix;
  return name;
}

bool EndsWith(std::string_view text, std::string_view suffix) {
  return text.size() >= suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
}

absl::Status NoSuchModule(const std::string& name, const ModelConfig& model) {
  // What PEFT also saves, and what is meant by it.
  for (const char* part : {"lora_magnitude_vector", "lora_embedding_", "lora_B.bias",
                           "modules_to_save", "lm_head", "embed_tokens", "trainable_tokens"}) {
    if (absl::StrContains(name, part))
      return absl::UnimplementedError(absl::StrCat(
          "tensor ", name, ": \"", part,
          "\" is not supported; an adapter is A and B of linear layers of the decoder"));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "tensor ", name, " belongs to no module of the base model; expected names like ",
      TensorName({0, Projection::kQ}, kSuffixA), " with layers 0 to ", model.num_layers - 1));
}

// Which module's A or B a tensor is.
struct TensorRole {
  ModuleId id;
  bool is_b = false;
};
absl::StatusOr<TensorRole> RoleOf(const std::string& name, const ModelConfig& model) {
  std::string_view path = name;
  const bool is_b = EndsWith(path, kSuffixB);
  if ((!is_b && !EndsWith(path, kSuffixA)) || path.substr(0, kPrefix.size()) != kPrefix)
    return NoSuchModule(name, model);
  path.remove_prefix(kPrefix.size());
  path.remove_suffix(kSuffixA.size());
  const std::optional<ModuleId> id = ParseModulePath(path);
  if (!id.has_value() || id->layer >= model.num_layers) return NoSuchModule(name, model);
  return TensorRole{*id, is_b};
}

// Every tensor must be the A or B of a module that the config targets.
absl::Status CheckNames(const SafetensorsFile& file, const PeftConfig& config,
                        const ModelConfig& model) {
  std::vector<bool> targeted(model.num_layers * kNumProjections, false);
  for (const PeftModule& module : config.modules) targeted[module.id.index()] = true;
  for (const SafetensorsEntry& entry : file.entries()) {
    ASSIGN_OR_RETURN(const TensorRole role, RoleOf(entry.name, model));
    if (!targeted[role.id.index()])
      return absl::InvalidArgumentError(absl::StrCat("tensor ", entry.name, ": ", kConfigFile,
                                                     " does not target ", ModulePath(role.id),
                                                     ", so the tensor would not be used"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> ReadMatrix(const SafetensorsFile& file, ModuleId id,
                                              std::string_view suffix, int64_t rows,
                                              int64_t columns, const PeftModule& module) {
  const std::string name = TensorName(id, suffix);
  const SafetensorsEntry* entry = file.Find(name);
  if (entry == nullptr)
    return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " is missing from ",
                                                   file.path(), ": ", kConfigFile, " targets ",
                                                   ModulePath(id)));
  if (entry->shape != std::vector<int64_t>{rows, columns})
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", name, " has shape ", entry->ShapeString(), "; expected ",
        Shape{rows, columns}.ToString(), " for rank ", module.rank, " on this base model"));
  if (entry->dtype != DType::kF32 && entry->dtype != DType::kF16 && entry->dtype != DType::kBF16)
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", name, " is ", Name(entry->dtype), "; supported: F32, F16, BF16"));
  std::vector<float> values(rows * columns);
  RETURN_IF_ERROR(ReadFloats(*entry, 0, rows * columns, values.data()));
  return values;
}

absl::StatusOr<SafetensorsFile> OpenTensors(const std::string& dir) {
  const std::string path = JoinPath(dir, kTensorFile);
  if (!PathExists(path) && PathExists(JoinPath(dir, "adapter_model.bin")))
    return absl::NotFoundError(absl::StrCat(
        path,
        " is missing; adapter_model.bin is a pickle, which can run code when it is read and "
        "is never opened: save the adapter again with save_pretrained(safe_serialization=True)"));
  return SafetensorsFile::Open(path);
}

}  // namespace

absl::StatusOr<HostAdapter> ReadPeftAdapter(const std::string& dir, const ModelConfig& model) {
  const std::string config_path = JoinPath(dir, kConfigFile);
  constexpr int64_t kMaxConfigBytes = 16 << 20;
  ASSIGN_OR_RETURN(const std::string text, ReadFile(config_path, kMaxConfigBytes));
  ASSIGN_OR_RETURN(PeftConfig config, ParsePeftConfig(text, config_path, model));
  ASSIGN_OR_RETURN(const SafetensorsFile file, OpenTensors(dir));
  RETURN_IF_ERROR(CheckNames(file, config, model));
  HostAdapter adapter;
  for (const PeftModule& peft : config.modules) {
    AdapterModule module;
    module.id = peft.id;
    module.rank = peft.rank;
    module.alpha = peft.alpha;
    module.scaling = peft.scaling;
    const int64_t in = InFeatures(model, peft.id.projection);
    const int64_t out = OutFeatures(model, peft.id.projection);
    ASSIGN_OR_RETURN(module.a, ReadMatrix(file, peft.id, kSuffixA, peft.rank, in, peft));
    ASSIGN_OR_RETURN(module.b, ReadMatrix(file, peft.id, kSuffixB, out, peft.rank, peft));
    adapter.modules.push_back(std::move(module));
  }
  adapter.config = std::move(config.adapter);
  RETURN_IF_ERROR(file.CheckUnchanged());
  return adapter;
}

absl::Status WritePeftAdapter(const HostAdapter& adapter, const std::string& dir) {
  std::vector<SafetensorsEntry> tensors;
  for (const AdapterModule& module : adapter.modules) {
    const int64_t rank = module.rank;
    LORAD_CHECK(rank > 0);
    const int64_t in = static_cast<int64_t>(module.a.size()) / rank;
    const int64_t out = static_cast<int64_t>(module.b.size()) / rank;
    tensors.emplace_back(TensorName(module.id, kSuffixA),
                         ConstTensorView(module.a.data(), DType::kF32, {rank, in}));
    tensors.emplace_back(TensorName(module.id, kSuffixB),
                         ConstTensorView(module.b.data(), DType::kF32, {out, rank}));
  }
  ASSIGN_OR_RETURN(const std::string bytes, SerializeSafetensors(tensors, {{"format", "pt"}}));
  ASSIGN_OR_RETURN(const std::unique_ptr<AtomicDirectory> directory, AtomicDirectory::Create(dir));
  RETURN_IF_ERROR(directory->WriteFile(kConfigFile, FormatPeftConfig(adapter)));
  RETURN_IF_ERROR(directory->WriteFile(kTensorFile, bytes));
  return directory->Publish();
}

}  // namespace lorad
