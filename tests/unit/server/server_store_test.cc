// The embedded store and the blobs: what they promise about transactions, order and crashes.
#include <sqlite3.h>

#include <memory>
#include <string>
#include <vector>

#include "engine/io/sha256.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/store/blob_store.h"
#include "server/store/keys.h"
#include "server/store/sqlite_store.h"
#include "server/store/state_dir.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace lorad::server {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> Keys(const std::vector<KeyValue>& rows) {
  std::vector<std::string> keys;
  for (const KeyValue& kv : rows) keys.push_back(kv.key);
  return keys;
}

class StoreTest : public ::testing::Test {
 protected:
  void SetUp() override { Open(); }
  void Open() {
    store_.reset();
    ASSERT_OK_AND_ASSIGN(store_, SqliteStore::Open(path()));
  }
  void Put(const std::string& key, const std::string& value) {
    ASSERT_OK_AND_ASSIGN(const TxnResult result, store_->Txn({}, {Op::Put(key, value)}));
    ASSERT_TRUE(result.succeeded);
  }
  std::string path() const { return dir_.File("state.db"); }

  TempDir dir_;
  std::unique_ptr<SqliteStore> store_;
};

TEST_F(StoreTest, PutGetDeleteAndRevisions) {
  Put("a", "1");
  Put("a", std::string("2\0x", 3));
  ASSERT_OK_AND_ASSIGN(const auto kv, store_->Get("a"));
  ASSERT_TRUE(kv.has_value());
  EXPECT_EQ(kv->value, std::string("2\0x", 3));
  EXPECT_EQ(kv->create_revision, 1);
  EXPECT_EQ(kv->mod_revision, 2);
  ASSERT_OK(store_->Txn({}, {Op::Delete("a")}));
  ASSERT_OK_AND_ASSIGN(const auto gone, store_->Get("a"));
  EXPECT_FALSE(gone.has_value());
}

TEST_F(StoreTest, AFailedCompareChangesNothing) {
  Put("a", "1");
  ASSERT_OK_AND_ASSIGN(const TxnResult absent,
                       store_->Txn({{"a", 0}}, {Op::Put("a", "2"), Op::Put("b", "2")}));
  EXPECT_FALSE(absent.succeeded);
  EXPECT_EQ(absent.revision, 1);
  ASSERT_OK_AND_ASSIGN(const auto b, store_->Get("b"));
  EXPECT_FALSE(b.has_value());
  ASSERT_OK_AND_ASSIGN(const TxnResult right,
                       store_->Txn({{"a", 1}, {"b", 0}}, {Op::Put("b", "2")}));
  EXPECT_TRUE(right.succeeded);
}

TEST_F(StoreTest, RangesAreOrderedBoundedAndPaged) {
  for (const char* key : {"event/1/3", "event/1/1", "event/1/2", "event/10/1", "event/2/1"}) {
    Put(key, "x");
  }
  ASSERT_OK_AND_ASSIGN(auto rows, store_->Range({.prefix = "event/1/"}));
  EXPECT_THAT(Keys(rows), ElementsAre("event/1/1", "event/1/2", "event/1/3"));
  ASSERT_OK_AND_ASSIGN(rows, store_->Range({.prefix = "event/1/", .start_after = "event/1/1"}));
  EXPECT_THAT(Keys(rows), ElementsAre("event/1/2", "event/1/3"));
  ASSERT_OK_AND_ASSIGN(
      rows,
      store_->Range(
          {.prefix = "event/1/", .start_after = "event/1/3", .descending = true, .limit = 1}));
  EXPECT_THAT(Keys(rows), ElementsAre("event/1/2"));
  ASSERT_OK_AND_ASSIGN(rows, store_->Range({}));
  EXPECT_EQ(rows.size(), 5u);
}

TEST_F(StoreTest, EventKeysSortByNumber) {
  EXPECT_LT(keys::Event("job-1", 9), keys::Event("job-1", 10));
  EXPECT_LT(keys::Event("job-1", 999999), keys::Event("job-1", 1000000));
}

TEST_F(StoreTest, AWatchSeesWhatIsThereThenWhatComes) {
  Put("w/a", "1");
  Put("w/b", "2");
  Put("other", "3");
  std::vector<std::string> seen;
  const auto record = [&seen](const WatchEvent& event) {
    seen.push_back((event.kind == Op::Kind::kPut ? "put " : "delete ") + event.kv.key + "=" +
                   event.kv.value);
  };
  ASSERT_OK_AND_ASSIGN(auto all, store_->Watch("w/", 0, record));
  Put("w/c", "4");
  Put("other", "5");
  ASSERT_OK(store_->Txn({}, {Op::Delete("w/a"), Op::Delete("w/none")}));
  all.reset();
  Put("w/d", "6");
  EXPECT_THAT(seen, ElementsAre("put w/a=1", "put w/b=2", "put w/c=4", "delete w/a="));
  seen.clear();
  ASSERT_OK_AND_ASSIGN(auto later, store_->Watch("w/", 2, record));
  later.reset();
  EXPECT_THAT(seen, ElementsAre("put w/c=4", "put w/d=6"));
}

TEST_F(StoreTest, AcknowledgedTransactionsAreThereAfterReopening) {
  Put("a", "1");
  ASSERT_OK(store_->Txn({}, {Op::Put("b", "2"), Op::Delete("a")}));
  Open();
  ASSERT_OK_AND_ASSIGN(const auto rows, store_->Range({}));
  EXPECT_THAT(Keys(rows), ElementsAre("b"));
  Put("c", "3");
  ASSERT_OK_AND_ASSIGN(const auto c, store_->Get("c"));
  EXPECT_EQ(c->mod_revision, 3) << "revisions go on after a restart";
}

TEST_F(StoreTest, ASecondOpenIsRefused) {
  Put("a", "1");
  EXPECT_THAT(SqliteStore::Open(path()), StatusIs(absl::StatusCode::kFailedPrecondition, "locked"));
}

TEST_F(StoreTest, ANewerSchemaIsRefusedAndLeftAlone) {
  store_.reset();
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(path().c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, "PRAGMA user_version=99", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(db);
  ASSERT_OK_AND_ASSIGN(const std::string before, Sha256HexOfFile(path()));
  EXPECT_THAT(SqliteStore::Open(path()),
              StatusIs(absl::StatusCode::kFailedPrecondition, "schema version 99"));
  ASSERT_OK_AND_ASSIGN(const std::string after, Sha256HexOfFile(path()));
  EXPECT_EQ(before, after);
}

TEST_F(StoreTest, AForeignDatabaseIsRefused) {
  sqlite3* db = nullptr;
  const std::string foreign = dir_.File("foreign.db");
  ASSERT_EQ(sqlite3_open(foreign.c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, "CREATE TABLE t (x)", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(db);
  EXPECT_THAT(SqliteStore::Open(foreign),
              StatusIs(absl::StatusCode::kFailedPrecondition, "did not make"));
}

TEST_F(StoreTest, GarbageIsDataLoss) {
  const std::string garbage = dir_.Write("garbage.db", std::string(4096, 'x'));
  EXPECT_THAT(SqliteStore::Open(garbage), StatusIs(absl::StatusCode::kDataLoss, "garbage.db"));
}

TEST(BlobStoreTest, PutsOnceAndSurvivesItsSource) {
  const TempDir dir;
  const std::string id = Sha256Hex("content");
  const std::string source = dir.Write("source", "content");
  ASSERT_OK_AND_ASSIGN(const auto blobs, LocalBlobStore::Open(dir.File("blobs")));
  ASSERT_OK(blobs->Put(id, {{"data", source}}));
  ASSERT_OK(blobs->Put(id, {{"data", dir.File("missing")}})) << "an id that is there is kept";
  std::filesystem::remove(source);
  ASSERT_OK_AND_ASSIGN(const std::string path, blobs->Directory(id));
  EXPECT_EQ(Sha256HexOfFile(path + "/data").value(), id);
  EXPECT_THAT(blobs->List().value(), ElementsAre(id));
  ASSERT_OK(blobs->Delete(id));
  ASSERT_OK(blobs->Delete(id));
  EXPECT_THAT(blobs->Directory(id), StatusIs(absl::StatusCode::kNotFound, id));
}

TEST(BlobStoreTest, AFailedPutLeavesNothing) {
  const TempDir dir;
  const std::string id = Sha256Hex("content");
  ASSERT_OK_AND_ASSIGN(const auto blobs, LocalBlobStore::Open(dir.File("blobs")));
  EXPECT_FALSE(blobs->Put(id, {{"data", dir.File("missing")}}).ok());
  EXPECT_THAT(blobs->List().value(), ElementsAre());
  EXPECT_TRUE(std::filesystem::is_empty(dir.File("blobs")));
}

TEST(BlobStoreTest, OpeningRemovesAHalfDeletedBlob) {
  const TempDir dir;
  const std::string half = dir.File("blobs/deleted-" + Sha256Hex("x"));
  std::filesystem::create_directories(half);
  ASSERT_OK(LocalBlobStore::Open(dir.File("blobs")));
  EXPECT_FALSE(std::filesystem::exists(half));
}

TEST(StateDirTest, HasOneOwnerAndSurvivesAStaleLock) {
  const TempDir dir;
  const std::string path = dir.File("state");
  ASSERT_OK_AND_ASSIGN(auto owner, StateDir::Open(path));
  EXPECT_THAT(StateDir::Open(path), StatusIs(absl::StatusCode::kFailedPrecondition,
                                             "owned by process " + std::to_string(::getpid())));
  owner.reset();  // what the kernel does for a killed process; the file with its id stays
  EXPECT_TRUE(std::filesystem::exists(path + "/lock"));
  EXPECT_OK(StateDir::Open(path));
}

}  // namespace
}  // namespace lorad::server
