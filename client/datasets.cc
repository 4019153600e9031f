#include "client/datasets.h"

#include <algorithm>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "client/list_all.h"
#include "client/status.h"
#include "engine/core/status_macros.h"
#include "engine/io/sha256.h"
#include "grpcpp/grpcpp.h"
#include "lorad/v1/dataset_service.grpc.pb.h"

namespace lorad::client {
namespace {

constexpr int64_t kChunkBytes = 1 << 20;

// A file that is uploaded. Read in pieces: a mapped file that shrinks meanwhile would end the
// process with SIGBUS; here the server's checksum catches it.
class Source {
 public:
  static absl::StatusOr<Source> Open(const std::string& path, int64_t offset) {
    Source source(path);
    source.file_.seekg(offset);
    if (!source.file_.good()) {
      return absl::InternalError(absl::StrCat(path, ": cannot be read at byte ", offset));
    }
    return source;
  }

  // At most kChunkBytes; empty at the end.
  std::string Next() {
    std::string bytes(kChunkBytes, '\0');
    file_.read(bytes.data(), kChunkBytes);
    bytes.resize(file_.gcount());
    return bytes;
  }

 private:
  explicit Source(const std::string& path) : file_(path, std::ios::binary) {}

  std::ifstream file_;
};

absl::StatusOr<v1::UploadDatasetMetadata> Metadata(const UploadDatasetOptions& options) {
  v1::UploadDatasetMetadata metadata;
  ASSIGN_OR_RETURN(*metadata.mutable_sha256(), Sha256HexOfFile(options.path));
  std::ifstream file(options.path, std::ios::binary | std::ios::ate);
  metadata.set_size_bytes(file.tellg());
  if (metadata.size_bytes() <= 0) {
    return absl::InvalidArgumentError(absl::StrCat(options.path, ": the file is empty"));
  }
  metadata.set_name(options.name);
  metadata.set_request_id(options.request_id);
  metadata.set_overwrite(options.overwrite);
  metadata.set_validate_only(options.validate_only);
  return metadata;
}

}  // namespace

absl::StatusOr<v1::QueryUploadResponse> DatasetClient::QueryUpload(const std::string& name,
                                                                   const std::string& request_id) {
  v1::QueryUploadRequest request;
  request.set_name(name);
  request.set_request_id(request_id);
  const auto stub = v1::DatasetService::NewStub(connection_->channel());
  auto reply = connection_->Unary<v1::QueryUploadResponse>(
      {.idempotent = true},
      [&](auto* context, auto* out) { return stub->QueryUpload(context, request, out); });
  if (absl::IsNotFound(reply.status())) return v1::QueryUploadResponse();  // nothing arrived
  return reply;
}

absl::StatusOr<v1::UploadDatasetResponse> DatasetClient::SendFrom(
    int64_t offset, const UploadDatasetOptions& options,
    const v1::UploadDatasetMetadata& metadata) {
  ASSIGN_OR_RETURN(Source source, Source::Open(options.path, offset));
  const auto stub = v1::DatasetService::NewStub(connection_->channel());
  return connection_->Unary<v1::UploadDatasetResponse>(
      {.work = true}, [&](auto* context, auto* reply) {
        const auto writer = stub->Upload(context, reply);
        v1::UploadDatasetRequest request;
        *request.mutable_metadata() = metadata;
        bool open = writer->Write(request);
        int64_t sent = offset;
        while (open) {
          std::string bytes = source.Next();
          if (bytes.empty()) break;
          v1::DatasetChunk* chunk = request.mutable_chunk();
          chunk->set_offset(sent);
          sent += static_cast<int64_t>(bytes.size());
          chunk->set_data(std::move(bytes));
          open = writer->Write(request);
          if (open && options.progress) options.progress(sent, metadata.size_bytes());
        }
        writer->WritesDone();
        return writer->Finish();
      });
}

absl::StatusOr<v1::UploadDatasetResponse> DatasetClient::Upload(UploadDatasetOptions options) {
  int64_t offset = 0;
  if (options.request_id.empty()) options.request_id = NewRequestId();
  ASSIGN_OR_RETURN(const v1::UploadDatasetMetadata metadata, Metadata(options));
  if (options.resume) {
    ASSIGN_OR_RETURN(const auto held, QueryUpload(options.name, options.request_id));
    if (!held.complete()) offset = held.committed_bytes();
  }
  for (int failures = 1;; ++failures) {
    auto reply = SendFrom(offset, options, metadata);
    if (reply.ok() || !IsTransportFailure(reply.status())) return reply;
    if (failures >= connection_->options().max_attempts || connection_->cancelled()) return reply;
    if (!connection_->Sleep(connection_->options().max_backoff)) return reply.status();
    const auto held = QueryUpload(options.name, options.request_id);
    if (!held.ok()) continue;  // still away: counts as a failure
    if (held->committed_bytes() > offset) failures = 0;
    // A finished upload is sent again from the start: its request_id makes that harmless.
    offset = held->complete() ? 0 : held->committed_bytes();
  }
}

absl::StatusOr<v1::DatasetReport> DatasetClient::Validate(const std::string& name,
                                                          int32_t max_seq_length) {
  v1::ValidateDatasetRequest request;
  request.set_name(name);
  request.set_max_seq_length(max_seq_length);
  const auto stub = v1::DatasetService::NewStub(connection_->channel());
  ASSIGN_OR_RETURN(const auto reply,
                   connection_->Unary<v1::ValidateDatasetResponse>(
                       {.idempotent = true, .work = true}, [&](auto* context, auto* out) {
                         return stub->Validate(context, request, out);
                       }));
  return reply.report();
}

absl::StatusOr<v1::Dataset> DatasetClient::Get(const std::string& name) {
  v1::GetDatasetRequest request;
  request.set_name(name);
  const auto stub = v1::DatasetService::NewStub(connection_->channel());
  return connection_->Unary<v1::Dataset>({.idempotent = true}, [&](auto* context, auto* out) {
    return stub->Get(context, request, out);
  });
}

absl::StatusOr<std::vector<v1::Dataset>> DatasetClient::List() {
  const auto stub = v1::DatasetService::NewStub(connection_->channel());
  return ListAll<v1::Dataset, v1::ListDatasetsResponse>(
      *connection_, v1::ListDatasetsRequest(),
      [&](auto* context, const auto& request, auto* out) {
        return stub->List(context, request, out);
      },
      [](auto& reply) { return reply.mutable_datasets(); });
}

absl::Status DatasetClient::Delete(const std::string& name) {
  v1::DeleteDatasetRequest request;
  request.set_name(name);
  const auto stub = v1::DatasetService::NewStub(connection_->channel());
  return connection_
      ->Unary<v1::DeleteDatasetResponse>(
          {}, [&](auto* context, auto* out) { return stub->Delete(context, request, out); })
      .status();
}

}  // namespace lorad::client
