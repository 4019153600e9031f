#include "engine/train/lora_init.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/core/philox.h"
#include "engine/core/status_macros.h"
#include "engine/lora/peft.h"
#include "engine/lora/targets.h"
#include "engine/train/random_key.h"

namespace lorad {
namespace {

constexpr int32_t kMaxRank = 1024;  // the wire contract's

// FNV-1a: a fixed function of the path, unlike std::hash.
uint64_t PathHash(std::string_view path) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char byte : path) hash = (hash ^ static_cast<uint8_t>(byte)) * 0x100000001b3u;
  return hash;
}

std::vector<float> KaimingUniform(int64_t rank, int64_t in, uint64_t seed, std::string_view path) {
  const uint64_t key = StreamKey(seed, RandomStream::kLoraInit), hash = PathHash(path);
  const float bound = static_cast<float>(1 / std::sqrt(static_cast<double>(in)));
  std::vector<float> a(rank * in);
  for (size_t i = 0; i < a.size(); i += 4) {
    const PhiloxBlock block =
        Philox4x32(key, static_cast<uint32_t>(i / 4), static_cast<uint32_t>((i / 4) >> 32),
                   static_cast<uint32_t>(hash), static_cast<uint32_t>(hash >> 32));
    for (size_t j = i; j < std::min(i + 4, a.size()); ++j)
      a[j] = (2 * UniformFloat(block.words[j - i]) - 1) * bound;
  }
  return a;
}

absl::Status CheckRanges(const LoraSpec& spec) {
  if (spec.r < 1 || spec.r > kMaxRank)
    return absl::InvalidArgumentError(
        absl::StrCat("r is ", spec.r, "; it must be in [1, ", kMaxRank, "]"));
  if (!(spec.lora_alpha > 0) || !std::isfinite(spec.lora_alpha))
    return absl::InvalidArgumentError(
        absl::StrCat("lora_alpha is ", spec.lora_alpha, "; it must be > 0"));
  if (!(spec.lora_dropout >= 0 && spec.lora_dropout < 1))
    return absl::InvalidArgumentError(
        absl::StrCat("lora_dropout is ", spec.lora_dropout, "; it must be in [0, 1)"));
  return absl::OkStatus();
}

absl::Status CheckRank(int32_t r, const ModelConfig& config, ModuleId id) {
  const int64_t in = InFeatures(config, id.projection), out = OutFeatures(config, id.projection);
  if (r <= std::min(in, out)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("r is ", r, "; it must be at most ",
                                                 std::min(in, out), ", the smaller side of ",
                                                 ModulePath(id), " [", out, ", ", in, "]"));
}

float Scaling(const LoraSpec& spec) {
  const double rank = spec.r;
  return static_cast<float>(spec.lora_alpha / (spec.use_rslora ? std::sqrt(rank) : rank));
}

// Everything but the weights.
absl::StatusOr<HostAdapter> EmptyAdapter(const LoraSpec& spec, const ModelConfig& config) {
  RETURN_IF_ERROR(CheckRanges(spec));
  ASSIGN_OR_RETURN(const std::vector<ModuleId> modules, MatchTargets(config, spec.target_modules));
  HostAdapter adapter;
  adapter.config.r = spec.r;
  adapter.config.lora_alpha = spec.lora_alpha;
  adapter.config.lora_dropout = spec.lora_dropout;
  adapter.config.use_rslora = spec.use_rslora;
  adapter.config.target_modules = TargetNames(modules, config);
  for (const ModuleId id : modules) {
    RETURN_IF_ERROR(CheckRank(spec.r, config, id));
    AdapterModule& module = adapter.modules.emplace_back();
    module.id = id;
    module.rank = spec.r;
    module.alpha = spec.lora_alpha;
    module.scaling = Scaling(spec);
  }
  return adapter;
}

absl::Status WarmStartError(const std::string& dir, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("warm start from ", dir, ": ", what,
                                                 "; set the job's value to the adapter's, or "
                                                 "start without it"));
}

absl::Status CheckSameModules(const std::vector<ModuleId>& expected, const HostAdapter& found,
                              const std::string& dir) {
  std::vector<ModuleId> adapted;
  for (const AdapterModule& module : found.modules) adapted.push_back(module.id);
  const auto has = [](const std::vector<ModuleId>& modules, ModuleId id) {
    return std::find(modules.begin(), modules.end(), id) != modules.end();
  };
  for (const ModuleId id : expected)
    if (!has(adapted, id))
      return WarmStartError(dir, absl::StrCat("target_modules has ", ModulePath(id),
                                              ", which the adapter does not adapt"));
  for (const ModuleId id : adapted)
    if (!has(expected, id))
      return WarmStartError(dir, absl::StrCat("the adapter adapts ", ModulePath(id),
                                              ", which target_modules leaves out"));
  return absl::OkStatus();
}

int32_t LargestRank(const HostAdapter& adapter) {
  int32_t rank = 0;
  for (const AdapterModule& module : adapter.modules) rank = std::max(rank, module.rank);
  return rank;
}

// rank_pattern and alpha_pattern are the adapter's own; only what they deviate from is compared.
absl::Status CheckSameSettings(const LoraSpec& spec, const HostAdapter& found,
                               const std::string& dir) {
  const auto differs = [&dir](const char* name, auto expected, auto adapters) {
    return WarmStartError(dir,
                          absl::StrCat(name, " is ", expected, ", the adapter's is ", adapters));
  };
  if (found.config.use_rslora != spec.use_rslora)
    return differs("use_rslora", spec.use_rslora, found.config.use_rslora);
  if (const int32_t rank = LargestRank(found); rank != spec.r) return differs("r", spec.r, rank);
  if (found.config.lora_alpha != spec.lora_alpha)
    return differs("lora_alpha", spec.lora_alpha, found.config.lora_alpha);
  return absl::OkStatus();
}

}  // namespace

std::vector<std::string> TargetNames(const std::vector<ModuleId>& modules,
                                     const ModelConfig& config) {
  std::vector<std::string> names;
  for (const Projection projection : kAllProjections) {
    std::vector<std::string> paths;
    for (const ModuleId id : modules)
      if (id.projection == projection) paths.push_back(ModulePath(id));
    if (static_cast<int64_t>(paths.size()) == config.num_layers)
      names.push_back(std::string(ProjectionName(projection)));
    else
      names.insert(names.end(), paths.begin(), paths.end());
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<HostAdapter> InitialAdapter(const LoraSpec& spec, const ModelConfig& config,
                                           uint64_t seed) {
  ASSIGN_OR_RETURN(HostAdapter adapter, EmptyAdapter(spec, config));
  for (AdapterModule& module : adapter.modules) {
    const Projection projection = module.id.projection;
    module.a =
        KaimingUniform(module.rank, InFeatures(config, projection), seed, ModulePath(module.id));
    module.b.assign(OutFeatures(config, projection) * module.rank, 0.0f);
  }
  return adapter;
}

absl::StatusOr<HostAdapter> WarmStartAdapter(const LoraSpec& spec, const ModelConfig& config,
                                             const std::string& peft_dir) {
  RETURN_IF_ERROR(CheckRanges(spec));
  ASSIGN_OR_RETURN(const std::vector<ModuleId> modules, MatchTargets(config, spec.target_modules));
  ASSIGN_OR_RETURN(HostAdapter adapter, ReadPeftAdapter(peft_dir, config));
  RETURN_IF_ERROR(CheckSameModules(modules, adapter, peft_dir));
  RETURN_IF_ERROR(CheckSameSettings(spec, adapter, peft_dir));
  for (const AdapterModule& module : adapter.modules)
    RETURN_IF_ERROR(CheckRank(module.rank, config, module.id));
  adapter.config.r = spec.r;
  adapter.config.lora_dropout = spec.lora_dropout;
  adapter.config.target_modules = TargetNames(modules, config);
  return adapter;
}

}  // namespace lorad
