// The datasets that there are, and the way new ones come in.
#ifndef LORAD_SERVER_DATASETS_DATASET_REGISTRY_H_
#define LORAD_SERVER_DATASETS_DATASET_REGISTRY_H_

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "engine/engine.h"
#include "lorad/v1/dataset_service.pb.h"
#include "server/store/blob_store.h"
#include "server/store/store.h"

namespace lorad::server {

class DatasetUpload;

struct DatasetOptions {
  std::string uploads_dir;  // for unfinished uploads; must exist
  int64_t max_bytes = int64_t{16} << 30;
};

// Thread-safe. Calls block on the store, the disk, and the engine's reading of a dataset.
class DatasetRegistry {
 public:
  // `store`, `blobs` and `engine` outlive it.
  DatasetRegistry(Store* store, BlobStore* blobs, Engine* engine, DatasetOptions options);

  // Begins or continues an upload; see UploadDatasetMetadata. The upload must not outlive the
  // registry. kUnavailable while another call writes the same upload.
  absl::StatusOr<std::unique_ptr<DatasetUpload>> Begin(const v1::UploadDatasetMetadata& metadata);
  absl::StatusOr<v1::QueryUploadResponse> QueryUpload(const std::string& name,
                                                      const std::string& request_id);

  absl::StatusOr<v1::Dataset> Get(const std::string& name);
  // Up to `limit` datasets after `position` (empty: from the beginning), which is moved on; empty
  // when there are no more.
  absl::StatusOr<std::vector<v1::Dataset>> List(int limit, std::string& position);
  absl::StatusOr<v1::DatasetReport> Validate(const std::string& name, int32_t max_seq_length);
  // The caller has made sure that no unfinished job uses its content.
  absl::Status Delete(const std::string& name) ABSL_LOCKS_EXCLUDED(names_mu_);

  // Path of the JSONL file with this content. kNotFound.
  absl::StatusOr<std::string> PathOf(const std::string& sha256) const;

  int64_t max_bytes() const { return options_.max_bytes; }

  // File name of the unfinished upload "<name>/<request_id>".
  static std::string PartName(const std::string& upload);

 private:
  friend class DatasetUpload;

  // Checks the complete file at `path`, stores it and takes the name.
  absl::StatusOr<v1::UploadDatasetResponse> Commit(const v1::UploadDatasetMetadata& metadata,
                                                   const std::string& path)
      ABSL_LOCKS_EXCLUDED(names_mu_);
  absl::StatusOr<v1::UploadDatasetResponse> TakeName(const v1::UploadDatasetMetadata& metadata,
                                                     v1::Dataset dataset)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(names_mu_);
  // The dataset that this request_id made, or nullopt.
  absl::StatusOr<std::optional<v1::Dataset>> FindFinished(
      const v1::UploadDatasetMetadata& metadata);
  absl::Status CheckMetadata(const v1::UploadDatasetMetadata& metadata) const;
  std::string PartPath(const std::string& name, const std::string& request_id);
  void EndUpload(const std::string& part_path) ABSL_LOCKS_EXCLUDED(mu_);
  // Removes a part and the record that let it be continued.
  absl::Status Forget(const v1::UploadDatasetMetadata& metadata, const std::string& part_path);

  Store* const store_;
  BlobStore* const blobs_;
  Engine* const engine_;
  const DatasetOptions options_;

  // Held from putting or counting a blob until its name is taken or gone; before mu_.
  absl::Mutex names_mu_;
  absl::Mutex mu_;
  std::set<std::string> writing_ ABSL_GUARDED_BY(mu_);  // parts that a DatasetUpload has open
  int64_t next_anonymous_ ABSL_GUARDED_BY(mu_) = 0;
};

// What the engine found, as messages.
v1::DatasetReport ToProto(const DatasetReport& report);

}  // namespace lorad::server

#endif  // LORAD_SERVER_DATASETS_DATASET_REGISTRY_H_
