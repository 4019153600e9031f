#include "server/store/sqlite_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "engine/core/status_macros.h"

namespace lorad::server {

class SqliteStore::Watcher : public Subscription {
 public:
  Watcher(SqliteStore* store, std::string prefix, std::function<void(const WatchEvent&)> callback)
      : store_(store), prefix_(std::move(prefix)), callback_(std::move(callback)) {}
  ~Watcher() override {
    store_->RunAndWait([this] { std::erase(store_->watchers_, this); });
  }
  void Offer(const WatchEvent& event) const {
    if (absl::StartsWith(event.kv.key, prefix_)) callback_(event);
  }

 private:
  SqliteStore* const store_;
  const std::string prefix_;
  const std::function<void(const WatchEvent&)> callback_;
};

absl::StatusOr<std::unique_ptr<SqliteStore>> SqliteStore::Open(const std::string& path,
                                                               TxnTimer timer) {
  ASSIGN_OR_RETURN(SqliteDb db, SqliteDb::Open(path));
  ASSIGN_OR_RETURN(const int64_t revision, db.Revision());
  return std::unique_ptr<SqliteStore>(new SqliteStore(std::move(db), revision, std::move(timer)));
}

SqliteStore::SqliteStore(SqliteDb db, int64_t revision, TxnTimer timer)
    : db_(std::move(db)), revision_(revision), timer_(std::move(timer)) {
  thread_ = std::thread([this] { Loop(); });
}

SqliteStore::~SqliteStore() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  thread_.join();
}

void SqliteStore::Loop() {
  while (true) {
    std::function<void()> task;
    {
      absl::MutexLock lock(&mu_);
      const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
        return stopping_ || !tasks_.empty();
      };
      mu_.Await(absl::Condition(&ready));
      if (tasks_.empty()) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

void SqliteStore::RunAndWait(const std::function<void()>& task) {
  absl::Notification done;
  {
    absl::MutexLock lock(&mu_);
    tasks_.push_back([&] {
      task();
      done.Notify();
    });
  }
  done.WaitForNotification();
}

absl::StatusOr<std::optional<KeyValue>> SqliteStore::Get(const std::string& key) {
  absl::StatusOr<std::optional<KeyValue>> result;
  RunAndWait([&] { result = db_.Get(key); });
  return result;
}

absl::StatusOr<std::vector<KeyValue>> SqliteStore::Range(const RangeOptions& options) {
  absl::StatusOr<std::vector<KeyValue>> result;
  RunAndWait([&] { result = db_.Range(options); });
  return result;
}

absl::StatusOr<TxnResult> SqliteStore::Txn(const std::vector<Compare>& compares,
                                           const std::vector<Op>& ops) {
  absl::StatusOr<TxnResult> result;
  RunAndWait([&] {
    const absl::Time start = absl::Now();
    result = DoTxn(compares, ops);
    if (timer_ != nullptr) timer_(absl::ToDoubleSeconds(absl::Now() - start));
  });
  return result;
}

absl::StatusOr<TxnResult> SqliteStore::DoTxn(const std::vector<Compare>& compares,
                                             const std::vector<Op>& ops) {
  ASSIGN_OR_RETURN(const bool holds, CheckAll(compares));
  if (!holds || ops.empty()) return TxnResult{holds, revision_};
  RETURN_IF_ERROR(db_.Begin());
  absl::StatusOr<std::vector<WatchEvent>> events = ApplyAll(ops, revision_ + 1);
  absl::Status status = events.status();
  if (status.ok()) status = db_.Commit();
  if (!status.ok()) {
    db_.Rollback();
    return status;
  }
  ++revision_;
  Notify(*events);
  return TxnResult{true, revision_};
}

absl::StatusOr<bool> SqliteStore::CheckAll(const std::vector<Compare>& compares) {
  for (const Compare& compare : compares) {
    ASSIGN_OR_RETURN(const std::optional<KeyValue> kv, db_.Get(compare.key));
    if ((kv.has_value() ? kv->mod_revision : 0) != compare.mod_revision) return false;
  }
  return true;
}

absl::StatusOr<std::vector<WatchEvent>> SqliteStore::ApplyAll(const std::vector<Op>& ops,
                                                              int64_t revision) {
  std::vector<WatchEvent> events;
  for (const Op& op : ops) {
    KeyValue kv{op.key, op.value, revision, revision};
    if (op.kind == Op::Kind::kPut) {
      RETURN_IF_ERROR(db_.Put(kv));
      events.push_back({op.kind, std::move(kv)});
      continue;
    }
    ASSIGN_OR_RETURN(const bool was_there, db_.Delete(op.key));
    if (was_there) events.push_back({op.kind, std::move(kv)});
  }
  RETURN_IF_ERROR(db_.SetRevision(revision));
  return events;
}

void SqliteStore::Notify(const std::vector<WatchEvent>& events) {
  for (const WatchEvent& event : events) {
    for (const Watcher* watcher : watchers_) watcher->Offer(event);
  }
}

absl::StatusOr<std::unique_ptr<Subscription>> SqliteStore::Watch(
    const std::string& prefix, int64_t from_revision,
    std::function<void(const WatchEvent&)> callback) {
  auto watcher = std::make_unique<Watcher>(this, prefix, std::move(callback));
  absl::Status status;
  RunAndWait([&] {
    // On the store's thread no change can come between the present keys and the later ones.
    absl::StatusOr<std::vector<KeyValue>> present = db_.ChangedSince(prefix, from_revision);
    status = present.status();
    if (!status.ok()) return;
    for (KeyValue& kv : *present) watcher->Offer({Op::Kind::kPut, std::move(kv)});
    watchers_.push_back(watcher.get());
  });
  RETURN_IF_ERROR(status);
  return watcher;
}

}  // namespace lorad::server
