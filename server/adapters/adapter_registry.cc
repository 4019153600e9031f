#include "server/adapters/adapter_registry.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "server/base/errors.h"
#include "server/base/log.h"
#include "server/base/proto_time.h"
#include "server/store/keys.h"
#include "server/store/state_dir.h"

namespace lorad::server {
namespace {

constexpr const char* kFiles[] = {"adapter_config.json", "adapter_model.safetensors"};
constexpr char kListHint[] = "AdapterService.List shows what there is";

std::string VersionOf(const std::string& id) { return id.substr(0, kAdapterVersionDigits); }

v1::AdapterTier TierToProto(AdapterTier tier) {
  switch (tier) {
    case AdapterTier::kDisk:
      return v1::ADAPTER_TIER_DISK;
    case AdapterTier::kHost:
      return v1::ADAPTER_TIER_HOST;
    case AdapterTier::kDevice:
      return v1::ADAPTER_TIER_DEVICE;
  }
  return v1::ADAPTER_TIER_UNSPECIFIED;
}

v1::Adapter MakeRecord(const std::string& name, const AdapterInfo& info,
                       const std::string& base_digest, const std::string& job_id) {
  v1::Adapter record;
  record.set_name(name);
  record.set_version(VersionOf(info.id));
  record.set_ref(absl::StrCat(name, "@", record.version()));
  record.set_sha256(info.id);
  record.set_r(info.r);
  record.set_lora_alpha(info.lora_alpha);
  record.set_use_rslora(info.use_rslora);
  record.mutable_target_modules()->Assign(info.target_modules.begin(), info.target_modules.end());
  record.set_adapted_modules(info.adapted_modules);
  record.set_parameters(info.parameters);
  record.set_device_bytes(info.device_bytes);
  record.set_base_model_digest(base_digest);
  record.set_job_id(job_id);
  *record.mutable_create_time() = ToProto(absl::Now());
  return record;
}

std::string AdapterKey(const v1::Adapter& record) {
  return keys::Adapter(record.name(), record.version());
}

}  // namespace

absl::StatusOr<std::unique_ptr<AdapterRegistry>> AdapterRegistry::Open(Store* store,
                                                                       BlobStore* blobs,
                                                                       Engine* engine,
                                                                       AdapterObserver* observer) {
  auto registry =
      std::unique_ptr<AdapterRegistry>(new AdapterRegistry(store, blobs, engine, observer));
  RETURN_IF_ERROR(registry->Load());
  return registry;
}

absl::Status AdapterRegistry::Load() {
  ASSIGN_OR_RETURN(const std::vector<KeyValue> adapters,
                   store_->Range({.prefix = keys::kAdapters}));
  for (const KeyValue& kv : adapters) {
    Entry entry;
    entry.create_revision = kv.create_revision;
    if (!entry.record.ParseFromString(kv.value)) {
      return absl::DataLossError(absl::StrCat("the record ", kv.key, " cannot be read"));
    }
    if (const absl::Status status = RegisterWithEngine(entry.record); !status.ok()) {
      Log(LogLevel::kError,
          absl::StrCat("adapter ", entry.record.ref(), " is not served: ", status.ToString()));
      continue;
    }
    absl::MutexLock lock(&mu_);
    Insert(std::move(entry));
  }
  ASSIGN_OR_RETURN(const std::vector<KeyValue> aliases, store_->Range({.prefix = keys::kAliases}));
  absl::MutexLock lock(&mu_);
  for (const KeyValue& kv : aliases) {
    v1::Alias alias;
    if (!alias.ParseFromString(kv.value)) {
      return absl::DataLossError(absl::StrCat("the record ", kv.key, " cannot be read"));
    }
    aliases_[alias.alias()] = alias;
  }
  return absl::OkStatus();
}

absl::Status AdapterRegistry::RegisterWithEngine(const v1::Adapter& record) {
  ASSIGN_OR_RETURN(const std::string dir, blobs_->Directory(record.sha256()));
  ASSIGN_OR_RETURN(const AdapterInfo info, engine_->RegisterAdapter(dir));
  if (info.id != record.sha256()) {
    (void)engine_->UnregisterAdapter(info.id);
    return absl::DataLossError(absl::StrCat("the content of ", dir, " has sha256 ", info.id,
                                            ", its record says ", record.sha256()));
  }
  return absl::OkStatus();
}

void AdapterRegistry::Insert(Entry entry) {
  Versions& versions = adapters_[entry.record.name()];
  versions.push_back(std::move(entry));
  std::sort(versions.begin(), versions.end(),
            [](const Entry& a, const Entry& b) { return a.create_revision < b.create_revision; });
}

const AdapterRegistry::Entry* AdapterRegistry::FindVersion(absl::string_view name,
                                                           absl::string_view version) const {
  const auto it = adapters_.find(std::string(name));
  if (it == adapters_.end()) return nullptr;
  for (const Entry& entry : it->second) {
    if (entry.record.version() == version || entry.record.sha256() == version) return &entry;
  }
  return nullptr;
}

const AdapterRegistry::Entry* AdapterRegistry::Find(absl::string_view name) const {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(name, absl::MaxSplits('@', 1));
  if (absl::StrContains(name, '@')) return FindVersion(parts.first, parts.second);
  if (const auto alias = aliases_.find(std::string(name)); alias != aliases_.end()) {
    return Find(alias->second.adapter());
  }
  const auto it = adapters_.find(std::string(name));
  return it == adapters_.end() || it->second.empty() ? nullptr : &it->second.back();
}

absl::StatusOr<ResolvedAdapter> AdapterRegistry::Resolve(absl::string_view name) const {
  if (name.empty()) return ResolvedAdapter{};
  absl::MutexLock lock(&mu_);
  if (std::optional<ResolvedAdapter> provided = FindProvided(name)) return *std::move(provided);
  const Entry* entry = Find(name);
  if (entry == nullptr) return NotFound("adapter", name, kListHint);
  return ResolvedAdapter{entry->record.ref(), entry->record.sha256()};
}

absl::StatusOr<StagedAdapter> AdapterRegistry::Stage(const std::string& name,
                                                     const std::string& dir,
                                                     const std::string& job_id) {
  const absl::StatusOr<AdapterInfo> info = engine_->InspectAdapter(dir);
  if (observer_ != nullptr) observer_->OnAdapterCheck(info.status());
  if (!info.ok()) {
    return WithReason(WithName(info.status(), absl::StrCat(dir, "/"), ""), "ADAPTER_REJECTED",
                      {{"adapter", name}});
  }
  StagedAdapter staged;
  staged.record = MakeRecord(name, *info, engine_->model().digest, job_id);
  std::vector<BlobFile> files;
  for (const char* file : kFiles) files.push_back({file, JoinPath(dir, file)});
  RETURN_IF_ERROR(blobs_->Put(info->id, files));
  RETURN_IF_ERROR(RegisterWithEngine(staged.record));
  ASSIGN_OR_RETURN(const int64_t bytes, TotalFileBytes(dir));
  staged.record.set_size_bytes(bytes);
  return staged;
}

absl::Status AdapterRegistry::Commit(StagedAdapter& staged, std::vector<Op> ops) {
  absl::MutexLock write_lock(&write_mu_);
  // Across the transaction: a watcher that sees the job's end must find the name, too.
  absl::MutexLock lock(&mu_);
  const Entry* entry = FindVersion(staged.record.name(), staged.record.version());
  const bool exists = entry != nullptr;
  if (exists && entry->record.sha256() != staged.record.sha256()) {
    return AlreadyExists("adapter", staged.record.ref(),
                         "its content is another one; import it under another name");
  }
  if (exists) staged.record = entry->record;
  // A Delete of the same content since Stage took the files; write_mu_ keeps the next one out.
  if (!blobs_->Directory(staged.record.sha256()).ok()) {
    return WithRetry(absl::AbortedError(absl::StrCat("adapter ", staged.record.ref(),
                                                     " was deleted meanwhile; try again")),
                     absl::Seconds(1));
  }
  const std::string key = AdapterKey(staged.record);
  std::vector<Compare> compares;
  if (!exists) {
    ops.push_back(Op::Put(key, staged.record.SerializeAsString()));
    compares.push_back({key, 0});
  }
  ASSIGN_OR_RETURN(const TxnResult result, store_->Txn(compares, ops));
  if (!result.succeeded) {
    return absl::DataLossError(absl::StrCat("the stored record of ", staged.record.ref(),
                                            " could not be used; delete it and import again"));
  }
  staged.created = !exists;
  const auto provided = provided_.find(staged.record.name());
  if (provided != provided_.end() && provided->second.id == staged.record.sha256())
    provided_.erase(provided);
  if (!exists) Insert({staged.record, result.revision});
  return absl::OkStatus();
}

v1::Adapter AdapterRegistry::Describe(const Entry& entry,
                                      const std::vector<AdapterResidency>& residency) const {
  v1::Adapter adapter = entry.record;
  for (const auto& [name, alias] : aliases_) {
    if (alias.adapter() == adapter.ref()) adapter.add_aliases(name);
  }
  adapter.set_tier(v1::ADAPTER_TIER_DISK);
  for (const AdapterResidency& resident : residency) {
    if (resident.id != adapter.sha256()) continue;
    adapter.set_tier(TierToProto(resident.tier));
    adapter.set_running_requests(resident.running_requests);
    if (resident.device_bytes > 0) adapter.set_device_bytes(resident.device_bytes);
  }
  return adapter;
}

absl::StatusOr<v1::Adapter> AdapterRegistry::Get(absl::string_view name) const {
  const std::vector<AdapterResidency> residency = engine_->Adapters();
  absl::MutexLock lock(&mu_);
  const Entry* entry = Find(name);
  if (entry == nullptr) return NotFound("adapter", name, kListHint);
  return Describe(*entry, residency);
}

std::vector<v1::Adapter> AdapterRegistry::List(const std::string& name, int limit,
                                               std::string& position) const {
  const std::vector<AdapterResidency> residency = engine_->Adapters();
  // A position is "name@create_revision" of the last adapter listed.
  const std::pair<std::string, std::string> after =
      absl::StrSplit(position, absl::MaxSplits('@', 1));
  int64_t after_revision = 0;
  (void)absl::SimpleAtoi(after.second, &after_revision);
  std::vector<v1::Adapter> page;
  std::string last;
  absl::MutexLock lock(&mu_);
  for (auto it = adapters_.lower_bound(after.first); it != adapters_.end(); ++it) {
    if (!name.empty() && it->first != name) continue;
    for (auto entry = it->second.rbegin(); entry != it->second.rend(); ++entry) {
      if (it->first == after.first && entry->create_revision >= after_revision) continue;
      if (static_cast<int>(page.size()) == limit) {
        position = last;
        return page;
      }
      page.push_back(Describe(*entry, residency));
      last = absl::StrCat(it->first, "@", entry->create_revision);
    }
  }
  position.clear();
  return page;
}

bool AdapterRegistry::IsReferenced(const std::string& id) const {
  for (const auto& [name, versions] : adapters_) {
    for (const Entry& entry : versions) {
      if (entry.record.sha256() == id) return true;
    }
  }
  return false;
}

absl::Status AdapterRegistry::Delete(absl::string_view ref) {
  if (!absl::StrContains(ref, '@')) {
    return FieldError("adapter", absl::StrCat("\"", ref, "\" names no version; give name@version"));
  }
  absl::MutexLock write_lock(&write_mu_);
  v1::Adapter record;
  {
    absl::MutexLock lock(&mu_);
    const Entry* entry = Find(ref);
    if (entry == nullptr) return NotFound("adapter", ref, kListHint);
    record = entry->record;
    for (const auto& [name, alias] : aliases_) {
      if (alias.adapter() != record.ref()) continue;
      return WithReason(absl::FailedPreconditionError(
                            absl::StrCat("adapter ", record.ref(), " cannot be deleted: alias \"",
                                         name, "\" points at it; move or remove the alias first")),
                        "ADAPTER_IN_USE", {{"adapter", record.ref()}, {"alias", name}});
    }
  }
  RETURN_IF_ERROR(store_->Txn({}, {Op::Delete(AdapterKey(record))}).status());
  {
    absl::MutexLock lock(&mu_);
    Versions& versions = adapters_[record.name()];
    std::erase_if(versions, [&](const Entry& e) { return e.record.ref() == record.ref(); });
    if (versions.empty()) adapters_.erase(record.name());
    if (IsReferenced(record.sha256())) return absl::OkStatus();
  }
  (void)engine_->UnregisterAdapter(record.sha256());  // kNotFound: it is gone already
  return blobs_->Delete(record.sha256());
}

absl::StatusOr<v1::Alias> AdapterRegistry::SetAlias(const std::string& alias,
                                                    const std::string& target,
                                                    const std::optional<std::string>& expected) {
  absl::MutexLock write_lock(&write_mu_);
  absl::StatusOr<v1::Alias> moved = MoveAlias(alias, target, expected);
  if (observer_ != nullptr) observer_->OnAliasMove(moved.status());
  return moved;
}

absl::StatusOr<v1::Alias> AdapterRegistry::MoveAlias(const std::string& alias,
                                                     const std::string& target,
                                                     const std::optional<std::string>& expected) {
  v1::Alias next;
  {
    absl::MutexLock lock(&mu_);
    if (const auto it = aliases_.find(alias); it != aliases_.end()) next = it->second;
    if (expected.has_value() && *expected != next.adapter()) {
      const std::string now =
          next.adapter().empty() ? "does not exist" : absl::StrCat("points at ", next.adapter());
      return WithReason(
          absl::AbortedError(absl::StrCat(
              "alias \"", alias, "\" ", now, ", expected was ",
              expected->empty() ? "that it does not exist" : absl::string_view(*expected),
              "; read it again and decide anew")),
          "ALIAS_MOVED", {{"alias", alias}, {"adapter", next.adapter()}});
    }
    if (target.empty() && next.adapter().empty()) {
      return NotFound("alias", alias, "AdapterService.ListAliases shows what there is");
    }
    next.set_alias(alias);
    next.clear_adapter();
    next.clear_sha256();
    if (!target.empty()) {
      const Entry* entry = Find(target);
      if (entry == nullptr) return NotFound("adapter", target, kListHint);
      next.set_adapter(entry->record.ref());
      next.set_sha256(entry->record.sha256());
    }
  }
  next.set_generation(next.generation() + 1);
  *next.mutable_update_time() = ToProto(absl::Now());
  const std::string key = keys::Alias(alias);
  RETURN_IF_ERROR(
      store_->Txn({}, {target.empty() ? Op::Delete(key) : Op::Put(key, next.SerializeAsString())})
          .status());
  absl::MutexLock lock(&mu_);
  if (target.empty()) {
    aliases_.erase(alias);
  } else {
    aliases_[alias] = next;
  }
  return next;
}

std::vector<v1::Alias> AdapterRegistry::ListAliases(int limit, std::string& position) const {
  std::vector<v1::Alias> page;
  absl::MutexLock lock(&mu_);
  for (auto it = aliases_.upper_bound(position); it != aliases_.end(); ++it) {
    if (static_cast<int>(page.size()) == limit) {
      position = page.back().alias();
      return page;
    }
    page.push_back(it->second);
  }
  position.clear();
  return page;
}

int64_t AdapterRegistry::NumAdapters() const {
  absl::MutexLock lock(&mu_);
  int64_t count = 0;
  for (const auto& [name, versions] : adapters_) count += versions.size();
  return count;
}

}  // namespace lorad::server
