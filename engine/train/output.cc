#include "engine/train/output.h"

#include <dirent.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/core/parallel.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "engine/lora/peft.h"

namespace lorad {
namespace {

bool IsEmptyDirectory(const std::string& path) {
  DIR* handle = ::opendir(path.c_str());
  if (handle == nullptr) return false;
  bool empty = true;
  while (const dirent* entry = ::readdir(handle)) {
    const std::string_view name = entry->d_name;
    empty = empty && (name == "." || name == "..");
  }
  ::closedir(handle);
  return empty;
}

std::string Parent(const std::string& dir) {
  const size_t end = dir.find_last_not_of('/');
  const size_t slash = dir.find_last_of('/', end);
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : dir.substr(0, slash);
}

}  // namespace

absl::Status CheckFinite(absl::Span<const AdapterModuleView> modules) {
  const auto finite = [](absl::Span<const float> values) {
    return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
  };
  int64_t bytes = 0;
  for (const AdapterModuleView& module : modules)
    bytes += static_cast<int64_t>((module.a.size() + module.b.size()) * sizeof(float));
  std::vector<char> good(modules.size());
  ParallelFor(static_cast<int64_t>(modules.size()), WorthwhileThreads(bytes),
              [&](int64_t i) { good[i] = finite(modules[i].a) && finite(modules[i].b); });
  for (size_t i = 0; i < modules.size(); ++i) {
    if (good[i]) continue;
    return absl::InternalError(absl::StrCat(
        "the trained adapter has a value that is not finite in ", ModulePath(modules[i].id)));
  }
  return absl::OkStatus();
}

absl::Status CheckOutputUnused(const std::string& dir) {
  if (!PathExists(dir) || IsEmptyDirectory(dir)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("output_dir ", dir, " is not empty; name another one or remove what is there"));
}

absl::Status WriteOutput(const HostAdapter& adapter, const ModelConfig& config,
                         const std::string& dir) {
  RETURN_IF_ERROR(CheckFinite(Views(adapter)));
  RETURN_IF_ERROR(CreateDirectories(Parent(dir)));
  if (PathExists(dir) && !IsEmptyDirectory(dir)) {
    const absl::StatusOr<HostAdapter> there = ReadPeftAdapter(dir, config);
    if (there.ok() && AdapterDigest(*there) == AdapterDigest(adapter)) return absl::OkStatus();
    return CheckOutputUnused(dir);
  }
  // An empty directory gives way: the adapter appears as a whole or not at all.
  if (PathExists(dir)) RETURN_IF_ERROR(RemoveDirectory(dir));
  return WritePeftAdapter(adapter, dir);
}

}  // namespace lorad
