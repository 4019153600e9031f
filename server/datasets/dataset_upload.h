// One upload: a file that grows by chunks until it is complete.
#ifndef LORAD_SERVER_DATASETS_DATASET_UPLOAD_H_
#define LORAD_SERVER_DATASETS_DATASET_UPLOAD_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lorad/v1/dataset_service.pb.h"
#include "server/datasets/dataset_registry.h"

namespace lorad::server {

// Thread-compatible. Destroyed uncommitted, it keeps what arrived when the upload has a request_id,
// so that it can be continued, and removes it otherwise.
class DatasetUpload {
 public:
  ~DatasetUpload();
  DatasetUpload(const DatasetUpload&) = delete;
  DatasetUpload& operator=(const DatasetUpload&) = delete;

  // Set when this request_id has made its dataset before: there is nothing to send.
  const std::optional<v1::UploadDatasetResponse>& finished() const { return finished_; }

  // kFailedPrecondition: not at the end of what is there (and not 0, which starts anew).
  absl::Status Append(const v1::DatasetChunk& chunk);
  // kDataLoss: incomplete, or another sha256. kInvalidArgument: a bad line. Blocks.
  absl::StatusOr<v1::UploadDatasetResponse> Commit();

 private:
  friend class DatasetRegistry;
  DatasetUpload(DatasetRegistry* registry, v1::UploadDatasetMetadata metadata)
      : registry_(registry), metadata_(std::move(metadata)) {}
  absl::Status OpenPart(std::string path);
  void ClosePart();

  DatasetRegistry* const registry_;
  const v1::UploadDatasetMetadata metadata_;
  std::optional<v1::UploadDatasetResponse> finished_;
  std::string path_;
  int fd_ = -1;
  int64_t size_ = 0;  // bytes in the part
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_DATASETS_DATASET_UPLOAD_H_
