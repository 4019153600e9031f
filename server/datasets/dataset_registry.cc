#include "server/datasets/dataset_registry.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <utility>
#include <vector>

#include "absl/memory/memory.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "engine/io/sha256.h"
#include "server/base/errors.h"
#include "server/base/names.h"
#include "server/base/proto_time.h"
#include "server/datasets/dataset_upload.h"
#include "server/store/keys.h"

namespace lorad::server {
namespace {

constexpr char kDataFile[] = "data.jsonl";
constexpr char kMethod[] = "dataset.upload";
constexpr char kListHint[] = "DatasetService.List shows what there is";
// Left free for the database and checkpoints when an upload is admitted.
constexpr int64_t kDiskReserveBytes = int64_t{64} << 20;

std::string RequestKey(const std::string& name, const std::string& request_id) {
  return keys::Request(kMethod, absl::StrCat(name, "/", request_id));
}

absl::Status UnreadableRecord(const std::string& key) {
  return absl::DataLossError(absl::StrCat("the record ", key, " cannot be read"));
}

v1::DatasetKind KindFromName(const std::string& kind) {
  if (kind == "prompt_completion") return v1::DATASET_KIND_PROMPT_COMPLETION;
  if (kind == "text") return v1::DATASET_KIND_TEXT;
  if (kind == "tokens") return v1::DATASET_KIND_TOKENS;
  return v1::DATASET_KIND_UNSPECIFIED;
}

}  // namespace

v1::DatasetReport ToProto(const DatasetReport& report) {
  v1::DatasetReport proto;
  proto.set_kind(KindFromName(report.kind));
  proto.set_samples(report.samples);
  proto.set_tokens(report.tokens);
  proto.set_target_tokens(report.target_tokens);
  proto.set_truncated_samples(report.truncated_samples);
  proto.set_longest_sample_tokens(report.longest_sample_tokens);
  return proto;
}

DatasetRegistry::DatasetRegistry(Store* store, BlobStore* blobs, Engine* engine,
                                 DatasetOptions options)
    : store_(store), blobs_(blobs), engine_(engine), options_(std::move(options)) {}

absl::Status DatasetRegistry::CheckMetadata(const v1::UploadDatasetMetadata& metadata) const {
  RETURN_IF_ERROR(CheckName("metadata.name", metadata.name()));
  RETURN_IF_ERROR(CheckRequestId("metadata.request_id", metadata.request_id()));
  if (metadata.size_bytes() < 1 || metadata.size_bytes() > options_.max_bytes) {
    return FieldError("metadata.size_bytes",
                      absl::StrCat(metadata.size_bytes(), " is not in 1..", options_.max_bytes));
  }
  if (!IsSha256Hex(metadata.sha256())) {
    return FieldError(
        "metadata.sha256",
        absl::StrCat("\"", metadata.sha256(), "\" is not 64 lower-case hexadecimal digits"));
  }
  ASSIGN_OR_RETURN(const int64_t free, FreeDiskBytes(options_.uploads_dir));
  const int64_t needed = 2 * metadata.size_bytes();  // what arrives, and what is kept of it
  if (needed > free - kDiskReserveBytes) {
    return WithReason(
        absl::ResourceExhaustedError(absl::StrCat("the dataset needs ", needed, " bytes of disk, ",
                                                  std::max<int64_t>(0, free - kDiskReserveBytes),
                                                  " are free in ", options_.uploads_dir)),
        "DISK_FULL", {});
  }
  return absl::OkStatus();
}

std::string DatasetRegistry::PartName(const std::string& upload) {
  return absl::StrCat(Sha256Hex(upload), ".part");
}

std::string DatasetRegistry::PartPath(const std::string& name, const std::string& request_id) {
  if (!request_id.empty()) {
    return JoinPath(options_.uploads_dir, PartName(absl::StrCat(name, "/", request_id)));
  }
  absl::MutexLock lock(&mu_);
  return JoinPath(options_.uploads_dir,
                  absl::StrCat("anonymous-", ::getpid(), "-", ++next_anonymous_, ".part"));
}

absl::StatusOr<std::optional<v1::Dataset>> DatasetRegistry::FindFinished(
    const v1::UploadDatasetMetadata& metadata) {
  if (metadata.request_id().empty()) return std::nullopt;
  ASSIGN_OR_RETURN(const std::optional<KeyValue> done,
                   store_->Get(RequestKey(metadata.name(), metadata.request_id())));
  if (!done.has_value()) return std::nullopt;
  if (done->value != metadata.sha256()) {
    return AlreadyExists("request_id", metadata.request_id(),
                         "it was used for another content; choose a new one");
  }
  ASSIGN_OR_RETURN(v1::Dataset dataset, Get(metadata.name()));
  return dataset;
}

absl::StatusOr<std::unique_ptr<DatasetUpload>> DatasetRegistry::Begin(
    const v1::UploadDatasetMetadata& metadata) {
  RETURN_IF_ERROR(CheckMetadata(metadata));
  auto upload = absl::WrapUnique(new DatasetUpload(this, metadata));
  ASSIGN_OR_RETURN(const std::optional<v1::Dataset> finished, FindFinished(metadata));
  if (finished.has_value()) {
    upload->finished_.emplace();
    *upload->finished_->mutable_dataset() = *finished;
    return upload;
  }
  std::string path = PartPath(metadata.name(), metadata.request_id());
  {
    absl::MutexLock lock(&mu_);
    if (!writing_.insert(path).second) {
      return WithRetry(absl::UnavailableError(absl::StrCat(
                           "another call is writing upload ", metadata.request_id(), " of dataset ",
                           metadata.name(), "; try again when it has ended")),
                       absl::Seconds(1));
    }
  }
  RETURN_IF_ERROR(upload->OpenPart(std::move(path)));  // from here on it ends itself
  if (metadata.request_id().empty()) return upload;
  const std::string key = keys::Upload(metadata.name(), metadata.request_id());
  ASSIGN_OR_RETURN(const std::optional<KeyValue> begun, store_->Get(key));
  const std::string identity = metadata.SerializeAsString();
  if (!begun.has_value()) {
    RETURN_IF_ERROR(store_->Txn({}, {Op::Put(key, identity)}).status());
  } else if (begun->value != identity) {
    return AlreadyExists("request_id", metadata.request_id(),
                         "it was begun with other metadata; choose a new one");
  }
  return upload;
}

void DatasetRegistry::EndUpload(const std::string& part_path) {
  absl::MutexLock lock(&mu_);
  writing_.erase(part_path);
}

absl::Status DatasetRegistry::Forget(const v1::UploadDatasetMetadata& metadata,
                                     const std::string& part_path) {
  if (!metadata.request_id().empty()) {
    RETURN_IF_ERROR(
        store_->Txn({}, {Op::Delete(keys::Upload(metadata.name(), metadata.request_id()))})
            .status());
  }
  return RemoveFile(part_path);
}

absl::StatusOr<v1::UploadDatasetResponse> DatasetRegistry::Commit(
    const v1::UploadDatasetMetadata& metadata, const std::string& path) {
  const absl::StatusOr<DatasetReport> report =
      engine_->ValidateDataset(path, engine_->model().context_tokens);
  if (!report.ok()) {
    // Wrong for ever: there is nothing to continue. The path is ours, the user knows the name.
    if (absl::IsInvalidArgument(report.status())) RETURN_IF_ERROR(Forget(metadata, path));
    return WithReason(WithName(report.status(), path, absl::StrCat("dataset ", metadata.name())),
                      "DATASET_INVALID", {{"dataset", metadata.name()}});
  }
  v1::Dataset dataset;
  dataset.set_name(metadata.name());
  dataset.set_sha256(metadata.sha256());
  dataset.set_size_bytes(metadata.size_bytes());
  *dataset.mutable_report() = ToProto(*report);
  if (metadata.validate_only()) {
    RETURN_IF_ERROR(Forget(metadata, path));
    v1::UploadDatasetResponse response;
    *response.mutable_dataset() = std::move(dataset);
    return response;
  }
  absl::MutexLock lock(&names_mu_);
  RETURN_IF_ERROR(blobs_->Put(metadata.sha256(), {{kDataFile, path}}));
  *dataset.mutable_create_time() = ToProto(absl::Now());
  ASSIGN_OR_RETURN(v1::UploadDatasetResponse response, TakeName(metadata, std::move(dataset)));
  RETURN_IF_ERROR(RemoveFile(path));
  return response;
}

absl::StatusOr<v1::UploadDatasetResponse> DatasetRegistry::TakeName(
    const v1::UploadDatasetMetadata& metadata, v1::Dataset dataset) {
  const std::string key = keys::Dataset(dataset.name());
  ASSIGN_OR_RETURN(const std::optional<KeyValue> existing, store_->Get(key));
  v1::UploadDatasetResponse response;
  response.set_created(true);
  if (existing.has_value()) {
    v1::Dataset old;
    if (!old.ParseFromString(existing->value)) return UnreadableRecord(key);
    if (old.sha256() == dataset.sha256()) {
      response.set_created(false);
      dataset = old;
    } else if (!metadata.overwrite()) {
      RETURN_IF_ERROR(Forget(metadata, PartPath(metadata.name(), metadata.request_id())));
      return AlreadyExists("dataset", dataset.name(),
                           "with another content; choose another name, or set overwrite");
    }
  }
  std::vector<Op> ops = {Op::Put(key, dataset.SerializeAsString())};
  if (!metadata.request_id().empty()) {
    ops.push_back(Op::Delete(keys::Upload(metadata.name(), metadata.request_id())));
    ops.push_back(Op::Put(RequestKey(metadata.name(), metadata.request_id()), metadata.sha256()));
  }
  ASSIGN_OR_RETURN(const TxnResult result,
                   store_->Txn({{key, existing.has_value() ? existing->mod_revision : 0}}, ops));
  if (!result.succeeded) {
    return WithRetry(absl::AbortedError(absl::StrCat("dataset ", dataset.name(),
                                                     " was changed meanwhile; try again")),
                     absl::Seconds(1));
  }
  *response.mutable_dataset() = std::move(dataset);
  return response;
}

absl::StatusOr<v1::QueryUploadResponse> DatasetRegistry::QueryUpload(
    const std::string& name, const std::string& request_id) {
  RETURN_IF_ERROR(CheckName("name", name));
  if (request_id.empty()) return FieldError("request_id", "is required");
  v1::QueryUploadResponse response;
  ASSIGN_OR_RETURN(const std::optional<KeyValue> done, store_->Get(RequestKey(name, request_id)));
  if (done.has_value()) {
    ASSIGN_OR_RETURN(const v1::Dataset dataset, Get(name));
    response.set_committed_bytes(dataset.size_bytes());
    response.set_complete(true);
    return response;
  }
  ASSIGN_OR_RETURN(const std::optional<KeyValue> begun,
                   store_->Get(keys::Upload(name, request_id)));
  if (!begun.has_value()) return NotFound("upload", request_id, "start it with Upload");
  const std::string path = PartPath(name, request_id);
  std::error_code error;
  const uintmax_t bytes = std::filesystem::file_size(path, error);
  response.set_committed_bytes(error ? 0 : static_cast<int64_t>(bytes));
  return response;
}

absl::StatusOr<v1::Dataset> DatasetRegistry::Get(const std::string& name) {
  RETURN_IF_ERROR(CheckName("name", name));
  const std::string key = keys::Dataset(name);
  ASSIGN_OR_RETURN(const std::optional<KeyValue> kv, store_->Get(key));
  if (!kv.has_value()) return NotFound("dataset", name, kListHint);
  v1::Dataset dataset;
  if (!dataset.ParseFromString(kv->value)) return UnreadableRecord(key);
  return dataset;
}

absl::StatusOr<std::vector<v1::Dataset>> DatasetRegistry::List(int limit, std::string& position) {
  ASSIGN_OR_RETURN(const std::vector<KeyValue> rows,
                   store_->Range({.prefix = keys::kDatasets,
                                  .start_after = position.empty() ? "" : keys::Dataset(position),
                                  .limit = limit + 1}));
  std::vector<v1::Dataset> page;
  for (const KeyValue& kv : rows) {
    if (static_cast<int>(page.size()) == limit) break;
    if (!page.emplace_back().ParseFromString(kv.value)) return UnreadableRecord(kv.key);
  }
  position = static_cast<int>(rows.size()) > limit ? page.back().name() : std::string();
  return page;
}

absl::StatusOr<v1::DatasetReport> DatasetRegistry::Validate(const std::string& name,
                                                            int32_t max_seq_length) {
  ASSIGN_OR_RETURN(const v1::Dataset dataset, Get(name));
  const int32_t context = engine_->model().context_tokens;
  if (max_seq_length == 0) max_seq_length = context;
  if (max_seq_length < 2 || max_seq_length > context) {
    return FieldError("max_seq_length", absl::StrCat(max_seq_length, " is not in 2..", context));
  }
  ASSIGN_OR_RETURN(const std::string path, PathOf(dataset.sha256()));
  const absl::StatusOr<DatasetReport> report = engine_->ValidateDataset(path, max_seq_length);
  if (!report.ok()) {
    return WithReason(WithName(report.status(), path, absl::StrCat("dataset ", name)),
                      "DATASET_INVALID", {{"dataset", name}});
  }
  return ToProto(*report);
}

absl::Status DatasetRegistry::Delete(const std::string& name) {
  absl::MutexLock lock(&names_mu_);
  ASSIGN_OR_RETURN(const v1::Dataset dataset, Get(name));
  RETURN_IF_ERROR(store_->Txn({}, {Op::Delete(keys::Dataset(name))}).status());
  ASSIGN_OR_RETURN(const std::vector<KeyValue> rows, store_->Range({.prefix = keys::kDatasets}));
  for (const KeyValue& kv : rows) {
    v1::Dataset other;
    if (!other.ParseFromString(kv.value)) return UnreadableRecord(kv.key);
    if (other.sha256() == dataset.sha256()) return absl::OkStatus();
  }
  return blobs_->Delete(dataset.sha256());
}

absl::StatusOr<std::string> DatasetRegistry::PathOf(const std::string& sha256) const {
  ASSIGN_OR_RETURN(const std::string dir, blobs_->Directory(sha256));
  return JoinPath(dir, kDataFile);
}

}  // namespace lorad::server
