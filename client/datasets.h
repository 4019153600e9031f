// Datasets: upload that survives a broken connection, and the calls about stored ones.
#ifndef LORAD_CLIENT_DATASETS_H_
#define LORAD_CLIENT_DATASETS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/connection.h"
#include "lorad/v1/dataset_service.pb.h"

namespace lorad::client {

struct UploadDatasetOptions {
  std::string name;
  std::string path;             // a regular file of at least one byte
  std::string request_id = {};  // empty: a new one
  bool resume = false;          // an upload with this request_id broke: continue it
  bool overwrite = false;
  bool validate_only = false;
  // Called on the caller's thread after each chunk; may be empty.
  std::function<void(int64_t sent_bytes, int64_t total_bytes)> progress = {};
};

// Thread-safe. Errors are the server's (client/status.h has their details) unless said otherwise.
class DatasetClient {
 public:
  explicit DatasetClient(std::shared_ptr<Connection> connection)
      : connection_(std::move(connection)) {}

  // After a broken connection it asks how much arrived and continues there; it gives up after
  // max_attempts failures in a row that brought nothing. Errors of reading the file name the path.
  absl::StatusOr<v1::UploadDatasetResponse> Upload(UploadDatasetOptions options);
  // max_seq_length 0: the model's context.
  absl::StatusOr<v1::DatasetReport> Validate(const std::string& name, int32_t max_seq_length);
  absl::StatusOr<v1::Dataset> Get(const std::string& name);
  // All of them, page by page.
  absl::StatusOr<std::vector<v1::Dataset>> List();
  absl::Status Delete(const std::string& name);

 private:
  absl::StatusOr<v1::QueryUploadResponse> QueryUpload(const std::string& name,
                                                      const std::string& request_id);
  absl::StatusOr<v1::UploadDatasetResponse> SendFrom(int64_t offset,
                                                     const UploadDatasetOptions& options,
                                                     const v1::UploadDatasetMetadata& metadata);

  std::shared_ptr<Connection> connection_;
};

}  // namespace lorad::client

#endif  // LORAD_CLIENT_DATASETS_H_
