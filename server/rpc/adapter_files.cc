#include "server/rpc/adapter_files.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "server/base/errors.h"
#include "server/base/names.h"
#include "server/rpc/calls.h"
#include "server/store/keys.h"

namespace lorad::server {
namespace {

constexpr const char* kFiles[] = {"adapter_config.json", "adapter_model.safetensors"};
constexpr size_t kMaxChunkBytes = size_t{4} << 20;
constexpr size_t kExportChunkBytes = size_t{1} << 20;
constexpr char kMethod[] = "adapter.import";

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

std::string NewImportDir(const std::string& uploads_dir) {
  static std::atomic<int64_t> next = 0;
  return JoinPath(uploads_dir, absl::StrCat("import-", ++next));
}

// Collects the files in a directory of its own, which goes with the call.
class ImportCall : public ReadCall<v1::ImportAdapterRequest> {
 public:
  ImportCall(const Services* services, v1::ImportAdapterResponse* response)
      : ReadCall(services->pool), services_(services), response_(response) {}
  ~ImportCall() override {
    file_.reset();
    // What cannot be removed now is removed at the next start.
    if (!dir_.empty()) (void)RemoveDirectory(dir_);
  }

 private:
  absl::StatusOr<bool> OnMessage(const v1::ImportAdapterRequest& request) override {
    RETURN_IF_ERROR(dir_.empty() ? Begin(request) : Append(request));
    return true;
  }

  absl::Status Begin(const v1::ImportAdapterRequest& request) {
    if (!request.has_metadata()) return FieldError("metadata", "is required in the first message");
    RETURN_IF_ERROR(CheckNotDraining(*services_));
    metadata_ = request.metadata();
    RETURN_IF_ERROR(CheckName("metadata.name", metadata_.name()));
    RETURN_IF_ERROR(CheckRequestId("metadata.request_id", metadata_.request_id()));
    std::string dir = NewImportDir(services_->facts->uploads_dir);
    RETURN_IF_ERROR(CreateDirectories(dir));
    dir_ = std::move(dir);
    return absl::OkStatus();
  }

  absl::Status Append(const v1::ImportAdapterRequest& request) {
    const v1::AdapterFileChunk& chunk = request.chunk();
    if (!request.has_chunk())
      return FieldError("chunk", "is required in all but the first message");
    if (chunk.data().size() > kMaxChunkBytes) {
      return FieldError("chunk.data", absl::StrCat("has ", chunk.data().size(), " bytes, at most ",
                                                   kMaxChunkBytes, " are allowed"));
    }
    if (std::find(std::begin(kFiles), std::end(kFiles), chunk.path()) == std::end(kFiles)) {
      if (chunk.path().empty()) return FieldError("chunk.path", "is required");
      return absl::OkStatus();  // README.md and the like
    }
    int64_t& size = sizes_[chunk.path()];
    if (chunk.offset() != size) {
      return FieldError("chunk.offset",
                        absl::StrCat(chunk.offset(), " of ", chunk.path(), " does not follow the ",
                                     size, " bytes before it"));
    }
    const int64_t max_bytes = services_->facts->max_adapter_bytes;
    if (size + static_cast<int64_t>(chunk.data().size()) > max_bytes) {
      return FieldError("chunk.data", absl::StrCat(chunk.path(), " has more than ", max_bytes,
                                                   " bytes, the server's limit"));
    }
    RETURN_IF_ERROR(Write(chunk));
    size += static_cast<int64_t>(chunk.data().size());
    return absl::OkStatus();
  }

  absl::Status Write(const v1::AdapterFileChunk& chunk) {
    if (chunk.path() != open_path_) {
      open_path_ = chunk.path();
      file_.reset(std::fopen(JoinPath(dir_, open_path_).c_str(), "ab"));
    }
    if (file_ == nullptr || std::fwrite(chunk.data().data(), 1, chunk.data().size(), file_.get()) !=
                                chunk.data().size()) {
      return WriteError();
    }
    return absl::OkStatus();
  }

  absl::Status WriteError() const {
    return absl::Status(
        errno == ENOSPC ? absl::StatusCode::kResourceExhausted : absl::StatusCode::kInternal,
        absl::StrCat("writing ", open_path_, ": ", std::strerror(errno)));
  }

  absl::Status OnEnd() override {
    if (dir_.empty()) return FieldError("metadata", "is required; the stream was empty");
    for (const char* file : kFiles) {
      if (!sizes_.contains(file)) {
        return FieldError("chunk.path", absl::StrCat(file, " is missing; is it a PEFT directory?"));
      }
    }
    if (file_ != nullptr && std::fflush(file_.get()) != 0) return WriteError();
    file_.reset();
    ASSIGN_OR_RETURN(StagedAdapter staged, services_->adapters->Stage(metadata_.name(), dir_, ""));
    std::vector<Op> ops;
    RETURN_IF_ERROR(CheckRequest(staged, ops));
    RETURN_IF_ERROR(services_->adapters->Commit(staged, std::move(ops)));
    response_->set_created(staged.created);
    ASSIGN_OR_RETURN(*response_->mutable_adapter(), services_->adapters->Get(staged.record.ref()));
    return absl::OkStatus();
  }

  // An id that was used for another content is refused; a new one is remembered with `ops`.
  absl::Status CheckRequest(const StagedAdapter& staged, std::vector<Op>& ops) {
    if (metadata_.request_id().empty()) return absl::OkStatus();
    const std::string key = keys::Request(kMethod, metadata_.request_id());
    const std::string value = absl::StrCat(staged.record.sha256(), " ", staged.record.ref());
    ASSIGN_OR_RETURN(const std::optional<KeyValue> done, services_->store->Get(key));
    if (done.has_value() && done->value != value) {
      return AlreadyExists("request_id", metadata_.request_id(),
                           "it imported another adapter; choose a new one");
    }
    ops.push_back(Op::Put(key, value));
    return absl::OkStatus();
  }

  const Services* const services_;
  v1::ImportAdapterResponse* const response_;
  v1::ImportAdapterMetadata metadata_;
  std::string dir_;
  std::string open_path_;
  File file_;
  std::map<std::string, int64_t> sizes_;
};

class ExportCall : public PullCall<v1::ExportAdapterResponse> {
 public:
  ExportCall(const Services* services, std::string adapter)
      : PullCall(services->pool), services_(services), adapter_(std::move(adapter)) {}

 private:
  absl::StatusOr<Next> Produce(v1::ExportAdapterResponse& response) override {
    if (dir_.empty()) return Begin(response);
    while (next_file_ < std::size(kFiles) || file_ != nullptr) {
      if (file_ == nullptr) {
        path_ = kFiles[next_file_++];
        offset_ = 0;
        file_.reset(std::fopen(JoinPath(dir_, path_).c_str(), "rb"));
        if (file_ == nullptr) {
          return absl::DataLossError(absl::StrCat("reading ", path_, " of adapter ", adapter_, ": ",
                                                  std::strerror(errno)));
        }
      }
      if (ReadChunk(*response.mutable_chunk())) return Next::kMessage;
      file_.reset();
    }
    return Next::kEnd;
  }

  absl::StatusOr<Next> Begin(v1::ExportAdapterResponse& response) {
    if (adapter_.empty()) return FieldError("adapter", "is required");
    ASSIGN_OR_RETURN(*response.mutable_adapter(), services_->adapters->Get(adapter_));
    ASSIGN_OR_RETURN(dir_, services_->adapters->Directory(response.adapter().sha256()));
    return Next::kMessage;
  }

  // False at the end of the file.
  bool ReadChunk(v1::AdapterFileChunk& chunk) {
    std::string& data = *chunk.mutable_data();
    data.resize(kExportChunkBytes);
    data.resize(std::fread(data.data(), 1, data.size(), file_.get()));
    chunk.set_path(path_);
    chunk.set_offset(offset_);
    offset_ += static_cast<int64_t>(data.size());
    return !data.empty();
  }

  const Services* const services_;
  const std::string adapter_;
  std::string dir_;
  size_t next_file_ = 0;
  std::string path_;
  int64_t offset_ = 0;
  File file_;
};

}  // namespace

grpc::ServerReadReactor<v1::ImportAdapterRequest>* StartImport(
    const Services* services, v1::ImportAdapterResponse* response) {
  auto* call = new ImportCall(services, response);  // deletes itself
  call->Start();
  return call;
}

grpc::ServerWriteReactor<v1::ExportAdapterResponse>* StartExport(
    const Services* services, const v1::ExportAdapterRequest& request) {
  auto call = std::make_shared<ExportCall>(services, request.adapter());
  call->Start();
  return call.get();  // holds itself
}

}  // namespace lorad::server
