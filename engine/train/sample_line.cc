#include "engine/train/sample_line.h"

#include <array>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/core/status_macros.h"
#include "engine/io/json.h"
#include "engine/ops/cross_entropy.h"
#include "nlohmann/json.hpp"

namespace lorad {
namespace {

using Json = nlohmann::json;

struct KindFields {
  SampleKind kind;
  std::vector<std::string> fields;  // all of them required; the first tells the kind
};
const std::array<KindFields, 3>& AllKinds() {
  static const auto& kinds = *new std::array<KindFields, 3>{{
      {SampleKind::kPromptCompletion, {"prompt", "completion"}},
      {SampleKind::kText, {"text"}},
      {SampleKind::kTokens, {"input_ids", "labels"}},
  }};
  return kinds;
}
constexpr const char* kKnownKinds =
    "a line has \"prompt\" and \"completion\", or \"text\", or \"input_ids\" and \"labels\"";

// At most this much of a name or value from the file goes into an error.
std::string Clipped(const std::string& text) {
  constexpr size_t kMax = 60;
  return text.size() <= kMax ? text : text.substr(0, kMax) + "...";
}

// ASCII escapes: the clipped text may end within a character.
std::string Show(const Json& value) {
  return Clipped(value.dump(-1, ' ', true, Json::error_handler_t::replace));
}

absl::Status Error(const std::string& where, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
}

absl::StatusOr<const KindFields*> FindKind(const Json& object, const std::string& where) {
  for (const KindFields& kind : AllKinds()) {
    bool any = false;
    for (const std::string& field : kind.fields) any = any || object.contains(field);
    if (!any) continue;
    for (const std::string& field : kind.fields)
      if (!object.contains(field))
        return Error(where, absl::StrCat("field \"", field, "\" is missing; ", kKnownKinds));
    for (const auto& [name, value] : object.items()) {
      bool known = false;
      for (const std::string& field : kind.fields) known = known || field == name;
      if (!known)
        return Error(where, absl::StrCat("field ", Show(name), " is not known; ", kKnownKinds,
                                         ": remove what lorad would not use"));
    }
    return &kind;
  }
  if (object.empty()) return Error(where, absl::StrCat("the object is empty; ", kKnownKinds));
  return Error(where, absl::StrCat("unknown kind of sample with field ",
                                   Show(object.items().begin().key()), "; ", kKnownKinds));
}

absl::StatusOr<std::string> Text(const Json& object, const char* field, const std::string& where) {
  const Json& value = object[field];
  if (!value.is_string())
    return Error(where, absl::StrCat("field \"", field, "\" is ", Show(value), " (",
                                     value.type_name(), "); a string is needed"));
  return value.get<std::string>();
}

absl::StatusOr<std::vector<int32_t>> Ids(const Json& object, const char* field, bool labels,
                                         int64_t vocab_size, const std::string& where) {
  const Json& array = object[field];
  if (!array.is_array())
    return Error(where, absl::StrCat("field \"", field, "\" is ", Show(array), " (",
                                     array.type_name(), "); an array of token ids is needed"));
  std::vector<int32_t> ids;
  ids.reserve(array.size());
  for (const Json& item : array) {
    // A number over 63 bits reads as unsigned; it is out of range in either reading.
    const bool integer = item.is_number_integer();
    const int64_t value = !integer || item > Json(INT32_MAX) ? INT64_MAX : item.get<int64_t>();
    if (integer && ((value >= 0 && value < vocab_size) || (labels && value == kIgnoreLabel))) {
      ids.push_back(static_cast<int32_t>(value));
      continue;
    }
    return Error(where,
                 absl::StrCat(field, "[", ids.size(), "] is ", Show(item), "; a token id in [0, ",
                              vocab_size, ")", labels ? " or -100 is needed" : " is needed"));
  }
  return ids;
}

}  // namespace

const char* Name(SampleKind kind) {
  switch (kind) {
    case SampleKind::kPromptCompletion:
      return "prompt_completion";
    case SampleKind::kText:
      return "text";
    case SampleKind::kTokens:
      return "tokens";
  }
  return "?";
}

absl::StatusOr<SampleLine> ParseSampleLine(std::string_view line, int64_t vocab_size,
                                           const std::string& where) {
  absl::StatusOr<Json> parsed = ParseJson(line, where);
  if (!parsed.ok())  // the parser sees one line; the file's line is in `where`
    return absl::InvalidArgumentError(
        absl::StrReplaceAll(parsed.status().message(), {{" at line 1, column ", " at column "}}));
  const Json& object = *parsed;
  if (!object.is_object())
    return Error(where, absl::StrCat("the line is ", Show(object), " (", object.type_name(),
                                     "); an object is needed: ", kKnownKinds));
  ASSIGN_OR_RETURN(const KindFields* kind, FindKind(object, where));
  SampleLine sample;
  sample.kind = kind->kind;
  switch (sample.kind) {
    case SampleKind::kPromptCompletion: {
      ASSIGN_OR_RETURN(sample.prompt, Text(object, "prompt", where));
      ASSIGN_OR_RETURN(sample.text, Text(object, "completion", where));
      break;
    }
    case SampleKind::kText: {
      ASSIGN_OR_RETURN(sample.text, Text(object, "text", where));
      break;
    }
    case SampleKind::kTokens: {
      ASSIGN_OR_RETURN(sample.input_ids, Ids(object, "input_ids", false, vocab_size, where));
      ASSIGN_OR_RETURN(sample.labels, Ids(object, "labels", true, vocab_size, where));
      if (sample.input_ids.size() != sample.labels.size())
        return Error(where, absl::StrCat("labels has ", sample.labels.size(),
                                         " entries, input_ids has ", sample.input_ids.size(),
                                         "; labels are aligned with input_ids, one for each"));
      break;
    }
  }
  return sample;
}

}  // namespace lorad
