// LoRA adapters: PEFT directories in and out, versions, aliases, residency.
#ifndef LORAD_CLIENT_ADAPTERS_H_
#define LORAD_CLIENT_ADAPTERS_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/connection.h"
#include "lorad/v1/adapter_service.pb.h"

namespace lorad::client {

// Thread-safe. `adapter` is a name, name@version or alias. Errors are the server's
// (client/status.h has their details) unless said otherwise.
class AdapterClient {
 public:
  explicit AdapterClient(std::shared_ptr<Connection> connection)
      : connection_(std::move(connection)) {}

  // Sends adapter_config.json and adapter_model.safetensors of a PEFT directory. NotFound: one of
  // them is missing.
  absl::StatusOr<v1::ImportAdapterResponse> Import(const std::string& name,
                                                   const std::string& peft_dir);
  // Writes a PEFT directory: all of it or nothing. `dir` may exist only as an empty directory
  // (AlreadyExists); missing parents are made.
  absl::StatusOr<v1::Adapter> Export(const std::string& adapter, const std::string& dir);

  absl::StatusOr<v1::Adapter> Get(const std::string& adapter);
  // By name, then newest version first; only versions of `name` unless it is empty.
  absl::StatusOr<std::vector<v1::Adapter>> List(const std::string& name);
  // "name@version".
  absl::Status Delete(const std::string& adapter);

  // An empty `adapter` removes the alias. `expected`: "name@version" it must point at now, or "":
  // it must not exist; nullopt: whatever it points at. Aborted when it does not.
  absl::StatusOr<v1::Alias> SetAlias(const std::string& alias, const std::string& adapter,
                                     const std::optional<std::string>& expected);
  absl::StatusOr<std::vector<v1::Alias>> ListAliases();

  absl::StatusOr<v1::Adapter> Load(const std::string& adapter);
  absl::StatusOr<v1::Adapter> Unload(const std::string& adapter);

 private:
  std::shared_ptr<Connection> connection_;
};

}  // namespace lorad::client

#endif  // LORAD_CLIENT_ADAPTERS_H_
