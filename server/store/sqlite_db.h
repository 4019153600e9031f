// The statements of SqliteStore, without its threads.
#ifndef LORAD_SERVER_STORE_SQLITE_DB_H_
#define LORAD_SERVER_STORE_SQLITE_DB_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/store/store.h"

struct sqlite3;
struct sqlite3_stmt;

namespace lorad::server {

// One connection. Thread-compatible. Errors: kDataLoss (damaged), kResourceExhausted (disk full),
// kFailedPrecondition (locked by another process, newer schema), kInternal (anything else).
class SqliteDb {
 public:
  // Opens or creates, sets durability, checks integrity and the schema version.
  static absl::StatusOr<SqliteDb> Open(const std::string& path);
  SqliteDb(SqliteDb&&) noexcept = default;
  SqliteDb& operator=(SqliteDb&&) noexcept = default;

  absl::Status Begin() { return Execute("BEGIN IMMEDIATE"); }
  absl::Status Commit() { return Execute("COMMIT"); }
  void Rollback();  // no error if there is nothing to roll back

  absl::StatusOr<std::optional<KeyValue>> Get(const std::string& key);
  absl::StatusOr<std::vector<KeyValue>> Range(const RangeOptions& options);
  // Keys with this prefix and mod_revision > from_revision, by mod_revision.
  absl::StatusOr<std::vector<KeyValue>> ChangedSince(const std::string& prefix,
                                                     int64_t from_revision);
  // `kv.create_revision` is kept when the key exists.
  absl::Status Put(const KeyValue& kv);
  // True when the key was there.
  absl::StatusOr<bool> Delete(const std::string& key);
  absl::StatusOr<int64_t> Revision();
  absl::Status SetRevision(int64_t revision);

 private:
  struct CloseDb {
    void operator()(sqlite3* db) const;
  };
  struct FinalizeStatement {
    void operator()(sqlite3_stmt* statement) const;
  };
  using Statement = std::unique_ptr<sqlite3_stmt, FinalizeStatement>;

  absl::Status Execute(const char* sql);
  absl::Status Configure();
  absl::Status CheckSchema();
  absl::StatusOr<Statement> Prepare(const std::string& sql);
  absl::StatusOr<int64_t> ReadInt(const char* sql);
  absl::StatusOr<std::vector<KeyValue>> ReadRows(sqlite3_stmt* statement);
  absl::Status Error(const std::string& doing) const;

  std::string path_;
  std::unique_ptr<sqlite3, CloseDb> db_;

  SqliteDb() = default;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_STORE_SQLITE_DB_H_
