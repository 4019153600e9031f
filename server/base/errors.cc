#include "server/base/errors.h"

#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "google/rpc/error_details.pb.h"

namespace lorad::server {
namespace {

constexpr char kTypePrefix[] = "type.googleapis.com/";
constexpr size_t kMaxMessageBytes = 2000;

template <typename Detail>
std::string TypeUrl() {
  return absl::StrCat(kTypePrefix, Detail::descriptor()->full_name());
}

template <typename Detail>
void SetDetail(absl::Status& status, const Detail& detail) {
  status.SetPayload(TypeUrl<Detail>(), absl::Cord(detail.SerializeAsString()));
}

google::rpc::ErrorInfo MakeErrorInfo(absl::string_view reason) {
  google::rpc::ErrorInfo info;
  info.set_reason(std::string(reason));
  info.set_domain(kErrorDomain);
  return info;
}

absl::Status ResourceStatus(absl::StatusCode code, absl::string_view type, absl::string_view name,
                            absl::string_view problem, absl::string_view suffix,
                            absl::string_view hint) {
  absl::Status status(code, absl::StrCat(type, " \"", name, "\" ", problem, "; ", hint));
  google::rpc::ResourceInfo resource;
  resource.set_resource_type(std::string(type));
  resource.set_resource_name(std::string(name));
  SetDetail(status, resource);
  return WithReason(std::move(status), absl::StrCat(absl::AsciiStrToUpper(type), suffix),
                    {{type, name}});
}

std::string CutMessage(absl::string_view message) {
  if (message.size() <= kMaxMessageBytes) return std::string(message);
  size_t end = kMaxMessageBytes;
  while (end > 0 && (message[end] & 0xc0) == 0x80) --end;  // not inside a character
  return absl::StrCat(message.substr(0, end), " ...");
}

}  // namespace

absl::Status WithReason(
    absl::Status status, absl::string_view reason,
    std::initializer_list<std::pair<absl::string_view, absl::string_view>> metadata) {
  if (status.ok() || status.GetPayload(TypeUrl<google::rpc::ErrorInfo>())) return status;
  google::rpc::ErrorInfo info = MakeErrorInfo(reason);
  for (const auto& [key, value] : metadata) {
    (*info.mutable_metadata())[std::string(key)] = std::string(value);
  }
  SetDetail(status, info);
  return status;
}

absl::Status WithName(absl::Status status, absl::string_view path, absl::string_view name) {
  if (status.ok() || path.empty()) return status;
  absl::Status named(status.code(), absl::StrReplaceAll(status.message(), {{path, name}}));
  status.ForEachPayload(
      [&](absl::string_view type, const absl::Cord& payload) { named.SetPayload(type, payload); });
  return named;
}

absl::Status WithRetry(absl::Status status, absl::Duration delay) {
  if (status.ok()) return status;
  google::rpc::RetryInfo info;
  info.mutable_retry_delay()->set_seconds(absl::ToInt64Seconds(delay));
  info.mutable_retry_delay()->set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(delay % absl::Seconds(1))));
  SetDetail(status, info);
  return status;
}

absl::Status FieldError(absl::string_view field, absl::string_view what) {
  return AtField(field, absl::InvalidArgumentError(absl::StrCat(field, ": ", what)));
}

absl::Status AtField(absl::string_view field, absl::Status status) {
  if (!absl::IsInvalidArgument(status)) return status;
  google::rpc::BadRequest bad;
  google::rpc::BadRequest::FieldViolation* violation = bad.add_field_violations();
  violation->set_field(std::string(field));
  violation->set_description(CutMessage(status.message()));
  SetDetail(status, bad);
  return WithReason(std::move(status), "INVALID_FIELD", {{"field", field}});
}

absl::Status NotFound(absl::string_view type, absl::string_view name, absl::string_view hint) {
  return ResourceStatus(absl::StatusCode::kNotFound, type, name, "does not exist", "_NOT_FOUND",
                        hint);
}

absl::Status AlreadyExists(absl::string_view type, absl::string_view name, absl::string_view hint) {
  return ResourceStatus(absl::StatusCode::kAlreadyExists, type, name, "exists already",
                        "_ALREADY_EXISTS", hint);
}

google::rpc::Status ToProto(const absl::Status& status) {
  google::rpc::Status proto;
  proto.set_code(static_cast<int>(status.code()));
  proto.set_message(CutMessage(status.message()));
  if (status.ok()) return proto;
  const absl::Status complete =
      WithReason(status, absl::AsciiStrToUpper(absl::StatusCodeToString(status.code())));
  complete.ForEachPayload([&](absl::string_view type_url, const absl::Cord& payload) {
    if (!absl::StartsWith(type_url, kTypePrefix)) return;
    google::protobuf::Any* detail = proto.add_details();
    detail->set_type_url(std::string(type_url));
    detail->set_value(std::string(payload));
  });
  return proto;
}

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const google::rpc::Status proto = ToProto(status);
  return grpc::Status(static_cast<grpc::StatusCode>(proto.code()), proto.message(),
                      proto.SerializeAsString());
}

}  // namespace lorad::server
