#include "server/store/sqlite_db.h"

#include <sqlite3.h>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"

namespace lorad::server {
namespace {

// In PRAGMA user_version. Raise it, and migrate in CheckSchema, when the tables or the meaning of
// stored values change.
constexpr int64_t kSchemaVersion = 1;

constexpr char kSchema[] =
    "CREATE TABLE kv ("
    " key BLOB PRIMARY KEY, value BLOB NOT NULL,"
    " create_revision INTEGER NOT NULL, mod_revision INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE INDEX kv_mod_revision ON kv (mod_revision);"
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
    "INSERT INTO meta VALUES ('revision', 0);";

constexpr char kColumns[] = "SELECT key, value, create_revision, mod_revision FROM kv ";

absl::StatusCode CodeOf(int sqlite_code) {
  switch (sqlite_code & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::StatusCode::kDataLoss;
    case SQLITE_FULL:
      return absl::StatusCode::kResourceExhausted;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return absl::StatusCode::kFailedPrecondition;
    default:
      return absl::StatusCode::kInternal;
  }
}

void BindBlob(sqlite3_stmt* statement, int index, const std::string& bytes) {
  // The callers keep `bytes` alive until the statement is done.
  sqlite3_bind_blob64(statement, index, bytes.data(), bytes.size(), SQLITE_STATIC);
}

std::string ColumnBlob(sqlite3_stmt* statement, int column) {
  const void* data = sqlite3_column_blob(statement, column);
  const int size = sqlite3_column_bytes(statement, column);
  return data == nullptr ? std::string() : std::string(static_cast<const char*>(data), size);
}

// The least string that is greater than every string with this prefix; empty: there is none.
std::string PrefixEnd(std::string prefix) {
  while (!prefix.empty() && static_cast<unsigned char>(prefix.back()) == 0xff) prefix.pop_back();
  if (!prefix.empty()) prefix.back() = static_cast<char>(prefix.back() + 1);
  return prefix;
}

}  // namespace

void SqliteDb::CloseDb::operator()(sqlite3* db) const { sqlite3_close_v2(db); }
void SqliteDb::FinalizeStatement::operator()(sqlite3_stmt* statement) const {
  sqlite3_finalize(statement);
}

absl::StatusOr<SqliteDb> SqliteDb::Open(const std::string& path) {
  SqliteDb db;
  db.path_ = path;
  sqlite3* handle = nullptr;
  const int code =
      sqlite3_open_v2(path.c_str(), &handle,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  db.db_.reset(handle);
  if (code != SQLITE_OK) return db.Error("opening it");
  RETURN_IF_ERROR(db.Configure());
  RETURN_IF_ERROR(db.CheckSchema());
  return db;
}

absl::Status SqliteDb::Configure() {
  for (const char* pragma : {"PRAGMA locking_mode=EXCLUSIVE", "PRAGMA journal_mode=TRUNCATE",
                             "PRAGMA synchronous=FULL", "PRAGMA trusted_schema=OFF"}) {
    RETURN_IF_ERROR(Execute(pragma));
  }
  // Takes the exclusive lock now rather than at the first write.
  RETURN_IF_ERROR(Execute("BEGIN EXCLUSIVE"));
  RETURN_IF_ERROR(Execute("COMMIT"));
  ASSIGN_OR_RETURN(Statement check, Prepare("PRAGMA quick_check(1)"));
  if (sqlite3_step(check.get()) != SQLITE_ROW) return Error("checking it");
  const std::string verdict = ColumnBlob(check.get(), 0);
  if (verdict != "ok") {
    return absl::DataLossError(absl::StrCat(
        path_, " is damaged: ", verdict, "; restore it from a backup, or start with an empty one"));
  }
  return absl::OkStatus();
}

absl::Status SqliteDb::CheckSchema() {
  ASSIGN_OR_RETURN(const int64_t version, ReadInt("PRAGMA user_version"));
  if (version == kSchemaVersion) return absl::OkStatus();
  if (version != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, " has schema version ", version, ", this lorad knows ", kSchemaVersion,
                     "; it is left unchanged: run the version that wrote it, or a newer one"));
  }
  ASSIGN_OR_RETURN(const int64_t tables, ReadInt("SELECT count(*) FROM sqlite_schema"));
  if (tables != 0) {
    return absl::FailedPreconditionError(absl::StrCat(path_, " holds ", tables,
                                                      " tables that lorad did not make; it is left "
                                                      "unchanged: choose another state directory"));
  }
  RETURN_IF_ERROR(Begin());
  RETURN_IF_ERROR(Execute(kSchema));
  RETURN_IF_ERROR(Execute(absl::StrCat("PRAGMA user_version=", kSchemaVersion).c_str()));
  return Commit();
}

void SqliteDb::Rollback() { sqlite3_exec(db_.get(), "ROLLBACK", nullptr, nullptr, nullptr); }

absl::StatusOr<std::optional<KeyValue>> SqliteDb::Get(const std::string& key) {
  ASSIGN_OR_RETURN(Statement statement, Prepare(absl::StrCat(kColumns, "WHERE key = ?1")));
  BindBlob(statement.get(), 1, key);
  ASSIGN_OR_RETURN(std::vector<KeyValue> rows, ReadRows(statement.get()));
  if (rows.empty()) return std::nullopt;
  return std::move(rows[0]);
}

absl::StatusOr<std::vector<KeyValue>> SqliteDb::Range(const RangeOptions& options) {
  const std::string end = PrefixEnd(options.prefix);
  const char* beyond = options.descending ? "key < ?3 " : "key > ?3 ";
  ASSIGN_OR_RETURN(
      Statement statement,
      Prepare(absl::StrCat(kColumns, "WHERE key >= ?1 AND ", end.empty() ? "?2 = ?2" : "key < ?2",
                           " AND ", options.start_after.empty() ? "?3 = ?3 " : beyond,
                           "ORDER BY key ", options.descending ? "DESC" : "ASC", " LIMIT ?4")));
  BindBlob(statement.get(), 1, options.prefix);
  BindBlob(statement.get(), 2, end);
  BindBlob(statement.get(), 3, options.start_after);
  sqlite3_bind_int64(statement.get(), 4, options.limit > 0 ? options.limit : -1);
  return ReadRows(statement.get());
}

absl::StatusOr<std::vector<KeyValue>> SqliteDb::ChangedSince(const std::string& prefix,
                                                             int64_t from_revision) {
  const std::string end = PrefixEnd(prefix);
  ASSIGN_OR_RETURN(
      Statement statement,
      Prepare(absl::StrCat(kColumns, "WHERE mod_revision > ?3 AND key >= ?1 AND ",
                           end.empty() ? "?2 = ?2" : "key < ?2", " ORDER BY mod_revision, key")));
  BindBlob(statement.get(), 1, prefix);
  BindBlob(statement.get(), 2, end);
  sqlite3_bind_int64(statement.get(), 3, from_revision);
  return ReadRows(statement.get());
}

absl::Status SqliteDb::Put(const KeyValue& kv) {
  ASSIGN_OR_RETURN(Statement statement,
                   Prepare("INSERT INTO kv VALUES (?1, ?2, ?3, ?4) ON CONFLICT (key) DO UPDATE SET "
                           "value = ?2, mod_revision = ?4"));
  BindBlob(statement.get(), 1, kv.key);
  BindBlob(statement.get(), 2, kv.value);
  sqlite3_bind_int64(statement.get(), 3, kv.create_revision);
  sqlite3_bind_int64(statement.get(), 4, kv.mod_revision);
  return sqlite3_step(statement.get()) == SQLITE_DONE ? absl::OkStatus() : Error("writing a key");
}

absl::StatusOr<bool> SqliteDb::Delete(const std::string& key) {
  ASSIGN_OR_RETURN(Statement statement, Prepare("DELETE FROM kv WHERE key = ?1"));
  BindBlob(statement.get(), 1, key);
  if (sqlite3_step(statement.get()) != SQLITE_DONE) return Error("deleting a key");
  return sqlite3_changes(db_.get()) > 0;
}

absl::StatusOr<int64_t> SqliteDb::Revision() {
  return ReadInt("SELECT value FROM meta WHERE name = 'revision'");
}

absl::Status SqliteDb::SetRevision(int64_t revision) {
  return Execute(
      absl::StrCat("UPDATE meta SET value = ", revision, " WHERE name = 'revision'").c_str());
}

absl::Status SqliteDb::Execute(const char* sql) {
  return sqlite3_exec(db_.get(), sql, nullptr, nullptr, nullptr) == SQLITE_OK ? absl::OkStatus()
                                                                              : Error(sql);
}

absl::StatusOr<SqliteDb::Statement> SqliteDb::Prepare(const std::string& sql) {
  sqlite3_stmt* statement = nullptr;
  if (sqlite3_prepare_v2(db_.get(), sql.data(), static_cast<int>(sql.size()), &statement,
                         nullptr) != SQLITE_OK) {
    return Error(sql);
  }
  return Statement(statement);
}

absl::StatusOr<int64_t> SqliteDb::ReadInt(const char* sql) {
  ASSIGN_OR_RETURN(Statement statement, Prepare(sql));
  if (sqlite3_step(statement.get()) != SQLITE_ROW) return Error(sql);
  return sqlite3_column_int64(statement.get(), 0);
}

absl::StatusOr<std::vector<KeyValue>> SqliteDb::ReadRows(sqlite3_stmt* statement) {
  std::vector<KeyValue> rows;
  int code;
  while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
    rows.push_back({ColumnBlob(statement, 0), ColumnBlob(statement, 1),
                    sqlite3_column_int64(statement, 2), sqlite3_column_int64(statement, 3)});
  }
  if (code != SQLITE_DONE) return Error("reading keys");
  return rows;
}

absl::Status SqliteDb::Error(const std::string& doing) const {
  if (db_ == nullptr) return absl::ResourceExhaustedError("no memory for SQLite");
  const int code = sqlite3_extended_errcode(db_.get());
  return absl::Status(CodeOf(code), absl::StrCat(path_, ": ", sqlite3_errmsg(db_.get()),
                                                 " (SQLite ", code, ", ", doing, ")"));
}

}  // namespace lorad::server
