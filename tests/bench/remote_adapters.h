#ifndef LORAD_TESTS_BENCH_REMOTE_ADAPTERS_H_
#define LORAD_TESTS_BENCH_REMOTE_ADAPTERS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/adapters.h"
#include "client/connection.h"
#include "engine/model/config.h"

namespace lorad::bench {

// Random adapters that a daemon holds for as long as this object lives. Thread-compatible.
class RemoteAdapters {
 public:
  // Makes `count` adapters of `rank` for `model` and imports them under names of their own. Errors
  // of the daemon; what it has by then is deleted.
  static absl::StatusOr<std::unique_ptr<RemoteAdapters>> Import(
      std::shared_ptr<client::Connection> connection, const ModelConfig& model, int64_t count,
      int32_t rank, uint64_t seed);
  ~RemoteAdapters();

  const std::vector<std::string>& refs() const { return refs_; }  // name@version

 private:
  explicit RemoteAdapters(std::shared_ptr<client::Connection> connection)
      : client_(std::move(connection)) {}

  client::AdapterClient client_;
  std::vector<std::string> refs_;
};

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_REMOTE_ADAPTERS_H_
