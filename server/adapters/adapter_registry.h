// The adapters that there are: immutable versions of names, and aliases that point at versions.
#ifndef LORAD_SERVER_ADAPTERS_ADAPTER_REGISTRY_H_
#define LORAD_SERVER_ADAPTERS_ADAPTER_REGISTRY_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "engine/engine.h"
#include "lorad/v1/adapter_service.pb.h"
#include "server/adapters/adapter_observer.h"
#include "server/store/blob_store.h"
#include "server/store/store.h"

namespace lorad::server {

// Digits of the content hash that are a version.
inline constexpr size_t kAdapterVersionDigits = 12;

// What a request keeps of an adapter that it named. Empty for the base model.
struct ResolvedAdapter {
  std::string ref;  // "name@version"
  std::string id;   // the engine's: sha256 of the content
};

// A version whose files are durable and known to the engine, but whose name is not taken yet.
struct StagedAdapter {
  v1::Adapter record;
  bool created = false;  // set by Commit: false when the version was there already
};

// Thread-safe. Reads come from memory; writes go through the store first.
class AdapterRegistry {
 public:
  // Reads the records and registers every adapter with the engine. One whose files are damaged is
  // logged and left out: it must not keep the others from being served.
  // `observer` may be null; all outlive the registry.
  static absl::StatusOr<std::unique_ptr<AdapterRegistry>> Open(Store* store, BlobStore* blobs,
                                                               Engine* engine,
                                                               AdapterObserver* observer);

  // "name@version" (12 or 64 digits), an alias, or "name" for its newest version, in this order;
  // provided ones count. Empty: the base model. kNotFound.
  absl::StatusOr<ResolvedAdapter> Resolve(absl::string_view name) const ABSL_LOCKS_EXCLUDED(mu_);
  // The PEFT directory of a resolved adapter.
  absl::StatusOr<std::string> Directory(const std::string& id) const {
    return blobs_->Directory(id);
  }

  // Checks the PEFT directory `dir` with the engine and makes its files durable under their
  // content hash. `job_id`: empty when imported.
  absl::StatusOr<StagedAdapter> Stage(const std::string& name, const std::string& dir,
                                      const std::string& job_id);
  // Gives the staged version its name, in one transaction with `ops`.
  absl::Status Commit(StagedAdapter& staged, std::vector<Op> ops)
      ABSL_LOCKS_EXCLUDED(write_mu_, mu_);

  // Serves the engine's adapter `id` as the newest version of `name` from now on, before its files
  // are durable. Nothing is acknowledged by that: it is in no list, no alias may point at it, and a
  // restart forgets it. Commit of the same content makes it a version like others.
  // kAlreadyExists: another content has this version's digits.
  absl::Status Provide(const std::string& name, const std::string& id) ABSL_LOCKS_EXCLUDED(mu_);
  // Takes that back, and the adapter from the engine, unless it was committed meanwhile.
  void Withdraw(const std::string& name, const std::string& id) ABSL_LOCKS_EXCLUDED(write_mu_, mu_);

  // With aliases and residency as they are now.
  absl::StatusOr<v1::Adapter> Get(absl::string_view name) const;
  // Up to `limit` adapters after `position` (empty: from the beginning), which is moved on; empty
  // when there are no more. `name`: only its versions; empty: all.
  std::vector<v1::Adapter> List(const std::string& name, int limit, std::string& position) const
      ABSL_LOCKS_EXCLUDED(mu_);
  // `ref` is "name@version". kFailedPrecondition while an alias points at it.
  absl::Status Delete(absl::string_view ref) ABSL_LOCKS_EXCLUDED(write_mu_, mu_);

  // `target` empty: removes it. `expected`: "name@version" it must point at now, or empty for an
  // alias that must not exist; nullopt: anything. kAborted when that does not hold.
  absl::StatusOr<v1::Alias> SetAlias(const std::string& alias, const std::string& target,
                                     const std::optional<std::string>& expected)
      ABSL_LOCKS_EXCLUDED(write_mu_, mu_);
  std::vector<v1::Alias> ListAliases(int limit, std::string& position) const
      ABSL_LOCKS_EXCLUDED(mu_);

  int64_t NumAdapters() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Entry {
    v1::Adapter record;
    int64_t create_revision = 0;  // orders the versions of a name
  };
  // Newest version last.
  using Versions = std::vector<Entry>;

  AdapterRegistry(Store* store, BlobStore* blobs, Engine* engine, AdapterObserver* observer)
      : store_(store), blobs_(blobs), engine_(engine), observer_(observer) {}
  absl::Status Load();
  absl::StatusOr<v1::Alias> MoveAlias(const std::string& alias, const std::string& target,
                                      const std::optional<std::string>& expected)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mu_);
  absl::Status RegisterWithEngine(const v1::Adapter& record);
  void Insert(Entry entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  const Entry* Find(absl::string_view name) const ABSL_SHARED_LOCKS_REQUIRED(mu_);
  const Entry* FindVersion(absl::string_view name, absl::string_view version) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);
  v1::Adapter Describe(const Entry& entry, const std::vector<AdapterResidency>& residency) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);
  std::optional<ResolvedAdapter> FindProvided(absl::string_view name) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);
  bool IsReferenced(const std::string& id) const ABSL_SHARED_LOCKS_REQUIRED(mu_);

  Store* const store_;
  BlobStore* const blobs_;
  Engine* const engine_;
  AdapterObserver* const observer_;

  absl::Mutex write_mu_;  // held across a store transaction; before mu_
  mutable absl::Mutex mu_;
  std::map<std::string, Versions, std::less<>> adapters_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, v1::Alias, std::less<>> aliases_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, ResolvedAdapter, std::less<>> provided_ ABSL_GUARDED_BY(mu_);  // by name
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_ADAPTERS_ADAPTER_REGISTRY_H_
