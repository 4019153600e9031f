#include "client/cli/upload.h"

#include <cctype>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/cli/format.h"
#include "client/cli/progress.h"
#include "client/status.h"
#include "engine/core/status_macros.h"
#include "engine/io/sha256.h"

namespace lorad::client::cli {
namespace {

constexpr size_t kStemCharacters = 100;  // of the 128 that a name may have
constexpr size_t kHashCharacters = 12;

bool LooksLikePath(const std::string& text) {
  return absl::StrContains(text, "/") || absl::EndsWith(text, ".jsonl") ||
         absl::EndsWith(text, ".json");
}

}  // namespace

std::string DatasetNameFor(std::string_view path, std::string_view sha256) {
  std::string stem = std::filesystem::path(path).stem().string().substr(0, kStemCharacters);
  for (char& c : stem) {
    const bool allowed = std::isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_';
    if (!allowed) c = '-';
  }
  if (stem.empty() || !std::isalnum(static_cast<unsigned char>(stem[0])))
    stem = absl::StrCat("d", stem);
  return absl::StrCat(stem, "-", std::string(sha256.substr(0, kHashCharacters)));
}

absl::StatusOr<v1::UploadDatasetResponse> UploadWithProgress(Session& session,
                                                             UploadDatasetOptions options) {
  ProgressLine line(session.out(), session.terminal(), session.width());
  options.progress = [&](int64_t sent, int64_t total) {
    line.Update(static_cast<double>(sent) / static_cast<double>(total),
                absl::StrCat(FormatBytes(sent), " of ", FormatBytes(total), "  ", options.path));
  };
  options.resume = !options.request_id.empty();
  if (!options.resume) options.request_id = NewRequestId();
  auto reply = DatasetClient(session.connection()).Upload(options);
  line.Finish();
  if (IsTransportFailure(reply.status())) {
    session.err() << "hint: to continue this upload where it broke, repeat it with --request_id="
                  << options.request_id << "\n";
  }
  return reply;
}

absl::StatusOr<std::string> ResolveDataset(Session& session, const std::string& file_or_dataset) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(file_or_dataset, error)) {
    if (!LooksLikePath(file_or_dataset)) return file_or_dataset;
    return absl::NotFoundError(absl::StrCat(
        file_or_dataset, ": no such file (a dataset's name has no \"/\" and no .jsonl ending)"));
  }
  ASSIGN_OR_RETURN(const std::string sha256, Sha256HexOfFile(file_or_dataset));
  const std::string name = DatasetNameFor(file_or_dataset, sha256);
  const auto there = DatasetClient(session.connection()).Get(name);
  if (there.ok() && there->sha256() == sha256) return name;
  if (!there.ok() && !absl::IsNotFound(there.status())) return there.status();
  ASSIGN_OR_RETURN(const auto reply,
                   UploadWithProgress(session, {.name = name, .path = file_or_dataset}));
  if (!session.json()) {
    session.out() << "uploaded " << file_or_dataset << " as dataset " << name << " ("
                  << reply.dataset().report().samples() << " samples)\n";
  }
  return name;
}

}  // namespace lorad::client::cli
