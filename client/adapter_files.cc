#include "client/adapter_files.h"

#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"

namespace lorad::client {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kChunkBytes = 1 << 20;
constexpr const char* kRequiredFiles[] = {"adapter_config.json", "adapter_model.safetensors"};

// A name that stays inside the directory, whatever the server sends.
bool IsPlainName(const std::string& name) {
  return !name.empty() && name[0] != '.' && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

}  // namespace

absl::Status ReadChunks(const std::string& dir, const std::string& name,
                        const std::function<bool(v1::AdapterFileChunk)>& send) {
  const std::string path = JoinPath(dir, name);
  if (!PathExists(path)) {
    return absl::NotFoundError(
        absl::StrCat(path, " is missing: not a directory that PEFT's save_pretrained wrote"));
  }
  std::ifstream file(path, std::ios::binary);
  int64_t offset = 0;
  while (file.good()) {
    std::string bytes(kChunkBytes, '\0');
    file.read(bytes.data(), kChunkBytes);
    bytes.resize(file.gcount());
    if (bytes.empty()) break;
    v1::AdapterFileChunk chunk;
    chunk.set_path(name);
    chunk.set_offset(offset);
    offset += static_cast<int64_t>(bytes.size());
    chunk.set_data(std::move(bytes));
    if (!send(std::move(chunk))) return absl::OkStatus();
  }
  if (offset == 0) return absl::InvalidArgumentError(absl::StrCat(path, " is empty or unreadable"));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<AdapterWriter>> AdapterWriter::Create(const std::string& dir) {
  const fs::path path = fs::absolute(dir).lexically_normal();
  const fs::path target = path.has_filename() ? path : path.parent_path();
  std::error_code error;
  if (fs::exists(target, error)) {
    if (!fs::is_directory(target, error) || !fs::is_empty(target, error)) {
      return absl::AlreadyExistsError(
          absl::StrCat(dir, " exists and is not an empty directory; choose another one"));
    }
    fs::remove(target, error);  // replaced in one step by Publish()
  }
  RETURN_IF_ERROR(CreateDirectories(target.parent_path().string()));
  ASSIGN_OR_RETURN(auto files, AtomicDirectory::Create(target.string()));
  return std::unique_ptr<AdapterWriter>(new AdapterWriter(std::move(files)));
}

absl::Status AdapterWriter::Add(const v1::AdapterFileChunk& chunk) {
  if (!IsPlainName(chunk.path())) {
    return absl::InvalidArgumentError(
        absl::StrCat("the server sent a file named \"", chunk.path(), "\""));
  }
  if (chunk.path() != name_) {
    name_ = chunk.path();
    size_ = 0;
  }
  if (chunk.offset() != size_) {
    return absl::DataLossError(
        absl::StrCat(name_, ": byte ", chunk.offset(), " came where byte ", size_, " was due"));
  }
  const std::string path = JoinPath(files_->path(), name_);
  std::ofstream file(path, std::ios::binary | (size_ == 0 ? std::ios::trunc : std::ios::app));
  file.write(chunk.data().data(), static_cast<std::streamsize>(chunk.data().size()));
  file.close();
  if (!file.good()) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, ": cannot be written; is the disk full?"));
  }
  size_ += static_cast<int64_t>(chunk.data().size());
  return absl::OkStatus();
}

absl::Status AdapterWriter::Publish() {
  for (const char* name : kRequiredFiles) {
    if (!PathExists(JoinPath(files_->path(), name))) {
      return absl::DataLossError(absl::StrCat("the server did not send ", name));
    }
  }
  return files_->Publish();
}

}  // namespace lorad::client
