// Adapters that serve from the engine's memory before their files are durable.
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/adapters/adapter_registry.h"
#include "server/base/errors.h"

namespace lorad::server {

std::optional<ResolvedAdapter> AdapterRegistry::FindProvided(absl::string_view name) const {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(name, absl::MaxSplits('@', 1));
  const auto it = provided_.find(parts.first);
  if (it == provided_.end()) return std::nullopt;
  const ResolvedAdapter& provided = it->second;
  const bool named = absl::StrContains(name, '@')
                         ? name == provided.ref || parts.second == provided.id
                         : !aliases_.contains(name);
  return named ? std::make_optional(provided) : std::nullopt;
}

absl::Status AdapterRegistry::Provide(const std::string& name, const std::string& id) {
  const std::string version = id.substr(0, kAdapterVersionDigits);
  const std::string ref = absl::StrCat(name, "@", version);
  absl::MutexLock lock(&mu_);
  const Entry* entry = FindVersion(name, version);
  if (entry == nullptr) {
    provided_[name] = {ref, id};
    return absl::OkStatus();
  }
  if (entry->record.sha256() == id) return absl::OkStatus();  // it is there already
  return AlreadyExists("adapter", ref, "its content is another one; train under another name");
}

void AdapterRegistry::Withdraw(const std::string& name, const std::string& id) {
  absl::MutexLock write_lock(&write_mu_);
  {
    absl::MutexLock lock(&mu_);
    const auto it = provided_.find(name);
    if (it != provided_.end() && it->second.id == id) provided_.erase(it);
    if (IsReferenced(id)) return;
  }
  (void)engine_->UnregisterAdapter(id);  // kNotFound: it is gone already
}

}  // namespace lorad::server
