#include "client/cli/json.h"

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "google/protobuf/util/json_util.h"

namespace lorad::client::cli {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using nlohmann::ordered_json;

void FixNumbers(ordered_json& json, const Descriptor& descriptor);

void FixValue(ordered_json& value, const FieldDescriptor& field) {
  int64_t integer;
  uint64_t natural;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      if (value.is_string() && absl::SimpleAtoi(value.get<std::string>(), &integer))
        value = integer;
      return;
    case FieldDescriptor::CPPTYPE_UINT64:
      if (value.is_string() && absl::SimpleAtoi(value.get<std::string>(), &natural))
        value = natural;
      return;
    case FieldDescriptor::CPPTYPE_MESSAGE:
      FixNumbers(value, *field.message_type());
      return;
    default:
      return;
  }
}

void FixNumbers(ordered_json& json, const Descriptor& descriptor) {
  // Well-known types (Timestamp, Any, ...) have a JSON form of their own.
  if (!json.is_object() || absl::StartsWith(descriptor.full_name(), "google.protobuf.")) return;
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor& field = *descriptor.field(i);
    const auto it = json.find(field.name());
    if (it == json.end() || field.is_map()) continue;
    if (!field.is_repeated()) {
      FixValue(*it, field);
    } else if (it->is_array()) {
      for (ordered_json& element : *it) FixValue(element, field);
    }
  }
}

}  // namespace

ordered_json ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string text;
  // Fails only for an Any of a type that is not linked in; then the rest is lost as well, so the
  // message is shown in the text form instead.
  if (!google::protobuf::util::MessageToJsonString(message, &text, options).ok()) {
    return {{"text_format", message.ShortDebugString()}};
  }
  ordered_json json = ordered_json::parse(text);
  FixNumbers(json, *message.GetDescriptor());
  return json;
}

std::string JsonLine(const ordered_json& json) {
  return json.dump(-1, ' ', /*ensure_ascii=*/false, ordered_json::error_handler_t::replace);
}

}  // namespace lorad::client::cli
