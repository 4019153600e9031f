#include "engine/train/checkpoint.h"

#include <dirent.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/core/status_macros.h"
#include "engine/io/atomic_directory.h"
#include "engine/io/file.h"
#include "engine/io/json.h"
#include "engine/io/safetensors.h"
#include "engine/io/sha256.h"
#include "engine/lora/peft.h"
#include "nlohmann/json.hpp"

namespace lorad {
namespace {

using Json = nlohmann::json;

constexpr char kFormat[] = "lorad-checkpoint-1";
constexpr char kStepPrefix[] = "step-";
constexpr char kAdapterDir[] = "adapter", kBestDir[] = "best", kMoments[] = "moments.safetensors",
               kState[] = "state.json", kSums[] = "SHA256SUMS";
constexpr int kKept = 2;

std::string StepName(int64_t step) { return absl::StrFormat("%s%012d", kStepPrefix, step); }

bool IsStepName(std::string_view name) {
  constexpr size_t kPrefix = sizeof(kStepPrefix) - 1;
  return name.size() == kPrefix + 12 && name.substr(0, kPrefix) == kStepPrefix &&
         name.find_first_not_of("0123456789", kPrefix) == std::string_view::npos;
}

// Names of the checkpoints in `dir`, the newest first.
std::vector<std::string> ListCheckpoints(const std::string& dir) {
  std::vector<std::string> names;
  DIR* handle = ::opendir(dir.c_str());
  if (handle == nullptr) return names;
  while (const dirent* entry = ::readdir(handle))
    if (IsStepName(entry->d_name)) names.push_back(entry->d_name);
  ::closedir(handle);
  std::sort(names.rbegin(), names.rend());
  return names;
}

std::vector<std::string> FileNames(bool with_best) {
  std::vector<std::string> names = {kMoments, kState};
  for (const char* dir : {kAdapterDir, kBestDir}) {
    if (dir == kBestDir && !with_best) continue;
    names.push_back(JoinPath(dir, "adapter_config.json"));
    names.push_back(JoinPath(dir, "adapter_model.safetensors"));
  }
  return names;
}

// JSON has no NaN.
Json NumberOrNull(double value) { return std::isfinite(value) ? Json(value) : Json(); }
double NumberOrNan(const Json& value) {
  return value.is_number() ? value.get<double>() : std::numeric_limits<double>::quiet_NaN();
}

Json ToJson(const TrainingProgress& progress) {
  return {{"step", progress.step},
          {"updates", progress.updates},
          {"epoch", progress.epoch},
          {"step_in_epoch", progress.step_in_epoch},
          {"skipped_in_row", progress.skipped_in_row},
          {"evaluated", progress.evaluated},
          {"last_loss", NumberOrNull(progress.last_loss)},
          {"best_eval_loss", NumberOrNull(progress.best_eval_loss)},
          {"best_step", progress.best_step},
          {"evals_without_gain", progress.evals_without_gain}};
}

// Throws Json::exception, which LoadState catches.
TrainingProgress ProgressFromJson(const Json& json) {
  TrainingProgress progress;
  json.at("step").get_to(progress.step);
  json.at("updates").get_to(progress.updates);
  json.at("epoch").get_to(progress.epoch);
  json.at("step_in_epoch").get_to(progress.step_in_epoch);
  json.at("skipped_in_row").get_to(progress.skipped_in_row);
  json.at("evaluated").get_to(progress.evaluated);
  progress.last_loss = NumberOrNan(json.at("last_loss"));
  progress.best_eval_loss = NumberOrNan(json.at("best_eval_loss"));
  json.at("best_step").get_to(progress.best_step);
  json.at("evals_without_gain").get_to(progress.evals_without_gain);
  return progress;
}

template <typename T>
SafetensorsEntry Entry(const char* name, const std::vector<T>& values) {
  return SafetensorsEntry(
      name, ConstTensorView(values.data(), DTypeOf<T>, {static_cast<int64_t>(values.size())}));
}

absl::Status WriteMoments(const HostMoments& moments, const std::string& path) {
  std::vector<SafetensorsEntry> entries;
  const auto add = [&](const char* name, const char* scales_name, const HostMoment& moment) {
    if (moment.codes.empty()) {
      entries.push_back(Entry(name, moment.values));
    } else {
      entries.push_back(Entry(name, moment.codes));
      entries.push_back(Entry(scales_name, moment.scales));
    }
  };
  add("m", "m_scales", moments.m);
  add("v", "v_scales", moments.v);
  return WriteSafetensors(path, entries, {{"format", kFormat}});
}

template <typename T>
absl::StatusOr<std::vector<T>> ReadVector(const SafetensorsFile& file, const char* name) {
  ASSIGN_OR_RETURN(const ConstTensorView view, file.View(name));
  if (view.dtype != DTypeOf<T>)
    return absl::DataLossError(absl::StrCat(file.path(), ": ", name, " is ", Name(view.dtype),
                                            ", expected ", Name(DTypeOf<T>)));
  std::vector<T> values(view.num_elements());
  std::memcpy(values.data(), view.data, view.size_bytes());
  return values;
}

absl::StatusOr<HostMoment> ReadMoment(const SafetensorsFile& file, const char* name,
                                      const char* scales_name) {
  HostMoment moment;
  if (file.Find(scales_name) == nullptr) {
    ASSIGN_OR_RETURN(moment.values, ReadVector<float>(file, name));
  } else {
    ASSIGN_OR_RETURN(moment.codes, ReadVector<uint8_t>(file, name));
    ASSIGN_OR_RETURN(moment.scales, ReadVector<float>(file, scales_name));
  }
  return moment;
}

absl::StatusOr<HostMoments> ReadMoments(const std::string& path) {
  ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Open(path));
  HostMoments moments;
  ASSIGN_OR_RETURN(moments.m, ReadMoment(file, "m", "m_scales"));
  ASSIGN_OR_RETURN(moments.v, ReadMoment(file, "v", "v_scales"));
  return moments;
}

// The text of SHA256SUMS for the files in `dir`, and their size in all.
absl::StatusOr<std::string> Sums(const std::string& dir, const std::vector<std::string>& names) {
  std::string sums;
  for (const std::string& name : names) {
    ASSIGN_OR_RETURN(const std::string digest, Sha256HexOfFile(JoinPath(dir, name)));
    absl::StrAppend(&sums, digest, "  ", name, "\n");
  }
  return sums;
}

absl::StatusOr<int64_t> TotalBytes(const std::string& dir, const std::vector<std::string>& names) {
  int64_t bytes = 0;
  for (const std::string& name : names) {
    ASSIGN_OR_RETURN(const MmapFile file, MmapFile::Open(JoinPath(dir, name)));
    bytes += file.size_bytes();
  }
  return bytes;
}

absl::Status WriteFiles(const JobIdentity& identity, const TrainingSnapshot& snapshot,
                        AtomicDirectory& dir) {
  RETURN_IF_ERROR(WritePeftAdapter(snapshot.adapter, JoinPath(dir.path(), kAdapterDir)));
  if (snapshot.best)
    RETURN_IF_ERROR(WritePeftAdapter(*snapshot.best, JoinPath(dir.path(), kBestDir)));
  RETURN_IF_ERROR(WriteMoments(snapshot.moments, JoinPath(dir.path(), kMoments)));
  const Json state = {
      {"format", kFormat}, {"progress", ToJson(snapshot.progress)}, {"identity", identity}};
  RETURN_IF_ERROR(dir.WriteFile(kState, state.dump(2) + "\n"));
  ASSIGN_OR_RETURN(const std::string sums, Sums(dir.path(), FileNames(snapshot.best.has_value())));
  return dir.WriteFile(kSums, sums);
}

absl::Status RemoveOld(const std::string& dir) {
  const std::vector<std::string> names = ListCheckpoints(dir);
  for (size_t i = kKept; i < names.size(); ++i)
    RETURN_IF_ERROR(RemoveDirectory(JoinPath(dir, names[i])));
  return absl::OkStatus();
}

// kDataLoss unless every file is there and has its recorded digest.
absl::StatusOr<bool> CheckSums(const std::string& dir) {
  ASSIGN_OR_RETURN(const std::string recorded, ReadFile(JoinPath(dir, kSums)));
  const bool with_best = PathExists(JoinPath(dir, kBestDir));
  ASSIGN_OR_RETURN(const std::string found, Sums(dir, FileNames(with_best)));
  if (recorded != found)
    return absl::DataLossError("a file is missing or its checksum is not the one in SHA256SUMS");
  return with_best;
}

struct Loaded {
  TrainingSnapshot snapshot;
  JobIdentity identity;
};

absl::Status LoadState(const std::string& path, Loaded& loaded) {
  ASSIGN_OR_RETURN(const Json state, ReadJsonFile(path));
  try {
    if (state.at("format") != kFormat)
      return absl::FailedPreconditionError(
          absl::StrCat(path, ": the format is ", state.at("format").dump(), ", this lorad reads \"",
                       kFormat, "\"; finish the job with the version that began it"));
    loaded.snapshot.progress = ProgressFromJson(state.at("progress"));
    state.at("identity").get_to(loaded.identity);
  } catch (const Json::exception& error) {
    return absl::DataLossError(absl::StrCat(path, ": ", error.what()));
  }
  return absl::OkStatus();
}

absl::StatusOr<Loaded> Load(const std::string& dir, const ModelConfig& config) {
  ASSIGN_OR_RETURN(const bool with_best, CheckSums(dir));
  Loaded loaded;
  RETURN_IF_ERROR(LoadState(JoinPath(dir, kState), loaded));
  ASSIGN_OR_RETURN(loaded.snapshot.adapter, ReadPeftAdapter(JoinPath(dir, kAdapterDir), config));
  if (with_best) {
    ASSIGN_OR_RETURN(loaded.snapshot.best, ReadPeftAdapter(JoinPath(dir, kBestDir), config));
  }
  ASSIGN_OR_RETURN(loaded.snapshot.moments, ReadMoments(JoinPath(dir, kMoments)));
  return loaded;
}

// What wrong content looks like; anything else (no memory, no file handles) may pass.
bool IsDamage(const absl::Status& status) {
  return absl::IsDataLoss(status) || absl::IsInvalidArgument(status) || absl::IsNotFound(status) ||
         absl::IsUnimplemented(status);
}

absl::Status CheckIdentity(const JobIdentity& job, const JobIdentity& found,
                           const std::string& dir) {
  std::vector<std::string> differences;
  const auto value = [](const JobIdentity& identity, const std::string& key) {
    const auto entry = identity.find(key);
    return entry == identity.end() ? std::string("unset") : entry->second;
  };
  JobIdentity keys = job;
  keys.insert(found.begin(), found.end());
  for (const auto& [key, unused] : keys)
    if (value(job, key) != value(found, key))
      differences.push_back(
          absl::StrCat(key, " was ", value(found, key), " and is now ", value(job, key)));
  if (differences.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "the checkpoint ", dir, " belongs to another job: ", absl::StrJoin(differences, "; "),
      "; restore these, or use an empty checkpoint_dir to start anew"));
}

}  // namespace

absl::StatusOr<CheckpointReport> WriteCheckpoint(const std::string& dir,
                                                 const JobIdentity& identity,
                                                 const TrainingSnapshot& snapshot) {
  const absl::Time begin = absl::Now();
  RETURN_IF_ERROR(CreateDirectories(dir));
  CheckpointReport report;
  report.step = snapshot.progress.step;
  report.dir = JoinPath(dir, StepName(report.step));
  report.adapter_id = AdapterDigest(snapshot.adapter);
  if (!PathExists(report.dir)) {
    ASSIGN_OR_RETURN(const std::unique_ptr<AtomicDirectory> files,
                     AtomicDirectory::Create(report.dir));
    RETURN_IF_ERROR(WriteFiles(identity, snapshot, *files));
    RETURN_IF_ERROR(files->Publish());
  }
  ASSIGN_OR_RETURN(report.bytes, TotalBytes(report.dir, FileNames(snapshot.best.has_value())));
  RETURN_IF_ERROR(RemoveOld(dir));
  report.seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  return report;
}

absl::StatusOr<NewestCheckpoint> ReadNewestCheckpoint(const std::string& dir,
                                                      const JobIdentity& identity,
                                                      const ModelConfig& config) {
  NewestCheckpoint newest;
  for (const std::string& name : ListCheckpoints(dir)) {
    const std::string path = JoinPath(dir, name);
    absl::StatusOr<Loaded> loaded = Load(path, config);
    if (loaded.ok()) {
      RETURN_IF_ERROR(CheckIdentity(identity, loaded->identity, path));
      newest.snapshot = std::move(loaded->snapshot);
      break;
    }
    if (!IsDamage(loaded.status())) return loaded.status();
    newest.damaged.push_back(path);
    newest.reasons.push_back(std::string(loaded.status().message()));
  }
  return newest;
}

}  // namespace lorad
