// The embedded Store: one SQLite file.
#ifndef LORAD_SERVER_STORE_SQLITE_STORE_H_
#define LORAD_SERVER_STORE_SQLITE_STORE_H_

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/store/sqlite_db.h"
#include "server/store/store.h"

namespace lorad::server {

// Called after each transaction on the store's thread.
using TxnTimer = std::function<void(double seconds)>;

// Thread-safe. One connection in exclusive locking mode and one thread that uses it: the packaged
// SQLite (3.40) can corrupt a WAL when two connections meet, so there is neither a second
// connection nor a WAL. Rollback journal, synchronous=FULL: about 1 ms per transaction on an SSD.
class SqliteStore : public Store {
 public:
  // Creates the file if missing. kFailedPrecondition: written by a newer lorad, or open in another
  // process. kDataLoss: not a database, or damaged.
  static absl::StatusOr<std::unique_ptr<SqliteStore>> Open(const std::string& path,
                                                           TxnTimer timer = nullptr);
  ~SqliteStore() override;

  absl::StatusOr<std::optional<KeyValue>> Get(const std::string& key) override;
  absl::StatusOr<std::vector<KeyValue>> Range(const RangeOptions& options) override;
  absl::StatusOr<TxnResult> Txn(const std::vector<Compare>& compares,
                                const std::vector<Op>& ops) override;
  absl::StatusOr<std::unique_ptr<Subscription>> Watch(
      const std::string& prefix, int64_t from_revision,
      std::function<void(const WatchEvent&)> callback) override;

 private:
  class Watcher;

  SqliteStore(SqliteDb db, int64_t revision, TxnTimer timer);
  void Loop();
  // Runs `task` on the store's thread and waits for it.
  void RunAndWait(const std::function<void()>& task);
  absl::StatusOr<TxnResult> DoTxn(const std::vector<Compare>& compares, const std::vector<Op>& ops);
  absl::StatusOr<bool> CheckAll(const std::vector<Compare>& compares);
  absl::StatusOr<std::vector<WatchEvent>> ApplyAll(const std::vector<Op>& ops, int64_t revision);
  void Notify(const std::vector<WatchEvent>& events);

  // Only on the store's thread.
  SqliteDb db_;
  int64_t revision_;
  const TxnTimer timer_;
  std::vector<Watcher*> watchers_;

  absl::Mutex mu_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_STORE_SQLITE_STORE_H_
