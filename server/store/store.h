// Durable state as an ordered map of keys, with transactions and watches. The interface is the part
// of etcd's that lorad needs, so that a fleet can stand on etcd; SqliteStore is the embedded one.
#ifndef LORAD_SERVER_STORE_STORE_H_
#define LORAD_SERVER_STORE_STORE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lorad::server {

// Revisions count the transactions that changed something, from 1.
struct KeyValue {
  std::string key;
  std::string value;
  int64_t create_revision = 0;  // that put the key first, since it was last absent
  int64_t mod_revision = 0;     // that put this value
};

// A condition of a transaction: the key's mod_revision; 0 when the key must be absent.
struct Compare {
  std::string key;
  int64_t mod_revision = 0;
};

struct Op {
  enum class Kind { kPut, kDelete };
  Kind kind = Kind::kPut;
  std::string key;
  std::string value;

  static Op Put(std::string key, std::string value) {
    return {Kind::kPut, std::move(key), std::move(value)};
  }
  static Op Delete(std::string key) { return {Kind::kDelete, std::move(key), {}}; }
};

struct TxnResult {
  bool succeeded = false;  // every compare held, and every op is done and durable
  int64_t revision = 0;    // of the store afterwards
};

struct RangeOptions {
  std::string prefix{};
  // Only keys beyond this one in the direction of reading; empty: all.
  std::string start_after{};
  bool descending = false;
  int64_t limit = 0;  // 0: no limit
};

struct WatchEvent {
  Op::Kind kind = Op::Kind::kPut;
  KeyValue kv;  // of a deletion: key and mod_revision only
};

// Ends its watch when destroyed: no callback runs after that.
class Subscription {
 public:
  virtual ~Subscription() = default;
};

// Thread-safe. Calls block until done; a Txn that returns OK and succeeded survives a crash.
class Store {
 public:
  virtual ~Store() = default;

  virtual absl::StatusOr<std::optional<KeyValue>> Get(const std::string& key) = 0;
  // In key order (bytes).
  virtual absl::StatusOr<std::vector<KeyValue>> Range(const RangeOptions& options) = 0;
  // All ops or none. A failed compare is not an error.
  virtual absl::StatusOr<TxnResult> Txn(const std::vector<Compare>& compares,
                                        const std::vector<Op>& ops) = 0;

  // Calls back for each change to keys with this prefix: first for the present keys whose
  // mod_revision is greater than `from_revision`, in that order, then for every later change. A
  // change is seen after it is durable. Callbacks run one at a time on the store's thread: they
  // must return at once and not call the store.
  virtual absl::StatusOr<std::unique_ptr<Subscription>> Watch(
      const std::string& prefix, int64_t from_revision,
      std::function<void(const WatchEvent&)> callback) = 0;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_STORE_STORE_H_
