// Keys of the store. Values are serialised lorad.v1 messages unless said otherwise.
#ifndef LORAD_SERVER_STORE_KEYS_H_
#define LORAD_SERVER_STORE_KEYS_H_

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace lorad::keys {

inline constexpr char kAdapters[] = "adapter/";
inline constexpr char kAliases[] = "alias/";
inline constexpr char kDatasets[] = "dataset/";
inline constexpr char kUploads[] = "upload/";
inline constexpr char kJobs[] = "job/";
// Decimal text: the number of the newest job.
inline constexpr char kLastJob[] = "last_job";

inline std::string Adapter(absl::string_view name, absl::string_view version) {
  return absl::StrCat(kAdapters, name, "/", version);
}
inline std::string Alias(absl::string_view alias) { return absl::StrCat(kAliases, alias); }
inline std::string Dataset(absl::string_view name) { return absl::StrCat(kDatasets, name); }
// UploadDatasetMetadata of an unfinished upload.
inline std::string Upload(absl::string_view name, absl::string_view request_id) {
  return absl::StrCat(kUploads, name, "/", request_id);
}
inline std::string Job(absl::string_view job_id) { return absl::StrCat(kJobs, job_id); }
inline std::string EventPrefix(absl::string_view job_id) {
  return absl::StrCat("event/", job_id, "/");
}
// Numbers have a fixed width, so that key order is their order.
inline std::string Event(absl::string_view job_id, int64_t seq) {
  return absl::StrCat(EventPrefix(job_id), absl::Dec(seq, absl::kZeroPad12));
}
inline std::string CheckpointPrefix(absl::string_view job_id) {
  return absl::StrCat("checkpoint/", job_id, "/");
}
inline std::string Checkpoint(absl::string_view job_id, int64_t step) {
  return absl::StrCat(CheckpointPrefix(job_id), absl::Dec(step, absl::kZeroPad12));
}
// What a request_id did: text "<sha256 of the request> <name of the result>".
inline std::string Request(absl::string_view method, absl::string_view request_id) {
  return absl::StrCat("request/", method, "/", request_id);
}

}  // namespace lorad::keys

#endif  // LORAD_SERVER_STORE_KEYS_H_
