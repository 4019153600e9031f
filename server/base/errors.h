// absl::Status with google.rpc error details, and its way onto the wire. Details travel as payloads
// of the status, so every layer of the server can add them and only rpc/ converts.
#ifndef LORAD_SERVER_BASE_ERRORS_H_
#define LORAD_SERVER_BASE_ERRORS_H_

#include <initializer_list>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/support/status.h"

namespace lorad::server {

// Of every ErrorInfo that lorad sends.
inline constexpr char kErrorDomain[] = "lorad";

// All functions here are thread-safe. The With... functions return OK unchanged.

// Names the cause for programs: reason is UPPER_SNAKE_CASE and part of the wire contract. The first
// one given stays.
absl::Status WithReason(
    absl::Status status, absl::string_view reason,
    std::initializer_list<std::pair<absl::string_view, absl::string_view>> metadata = {});
// Adds a RetryInfo: trying again after `delay` can help.
absl::Status WithRetry(absl::Status status, absl::Duration delay);

// The same status, with `name` where its message says `path`: a file of the server's own, which the
// caller knows under that name.
absl::Status WithName(absl::Status status, absl::string_view path, absl::string_view name);

// kInvalidArgument with a BadRequest violation: "<field>: <what is wrong>".
absl::Status FieldError(absl::string_view field, absl::string_view what);
// The same for a status of another layer whose cause is this field; other codes pass unchanged.
absl::Status AtField(absl::string_view field, absl::Status status);

// kNotFound / kAlreadyExists with a ResourceInfo and the reason "<TYPE>_NOT_FOUND" or
// "<TYPE>_ALREADY_EXISTS". `type` is lower case: "adapter". `hint`: what to do next.
absl::Status NotFound(absl::string_view type, absl::string_view name, absl::string_view hint);
absl::Status AlreadyExists(absl::string_view type, absl::string_view name, absl::string_view hint);

// With details; always exactly one ErrorInfo, whose reason defaults to the code's name. Messages
// are cut at 2000 bytes: trailers share 8 KiB.
google::rpc::Status ToProto(const absl::Status& status);
grpc::Status ToGrpc(const absl::Status& status);

}  // namespace lorad::server

#endif  // LORAD_SERVER_BASE_ERRORS_H_
