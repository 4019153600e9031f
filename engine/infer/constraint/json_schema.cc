#include "engine/infer/constraint/json_schema.h"

#include <algorithm>
#include <initializer_list>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/infer/constraint/json_number.h"
#include "engine/infer/constraint/json_schema_compiler.h"
#include "engine/infer/constraint/json_text.h"
#include "engine/io/json.h"
#include "engine/io/json_check.h"
#include "engine/io/text.h"

namespace lorad {
namespace {

constexpr std::string_view kAnnotations[] = {
    "title",     "description", "default", "examples", "deprecated", "readOnly",
    "writeOnly", "$schema",     "$id",     "$comment", "$defs",      "definitions"};

// Keywords that say something about values of one type, and nothing about others.
struct TypeKeywords {
  const char* type;
  std::vector<std::string_view> keywords;
};
const std::vector<TypeKeywords>& KeywordsByType() {
  static const auto* const all = new std::vector<TypeKeywords>{
      {"object", {"properties", "required", "additionalProperties"}},
      {"array", {"items", "prefixItems", "minItems", "maxItems"}},
      {"string", {"minLength", "maxLength", "pattern", "format"}},
      {"number", {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}},
      {"integer", {}},
      {"boolean", {}},
      {"null", {}}};
  return *all;
}

bool IsAnnotation(std::string_view keyword) {
  return keyword.substr(0, 2) == "x-" || std::find(std::begin(kAnnotations), std::end(kAnnotations),
                                                   keyword) != std::end(kAnnotations);
}

bool IsOfType(const Json& value, const std::string& type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "number") return value.is_number();
  if (type == "integer") return value.is_number_integer();
  if (type == "boolean") return value.is_boolean();
  return value.is_null();
}

std::string EscapedKey(std::string key) {  // RFC 6901
  for (const auto& [from, to] : {std::pair("~", "~0"), std::pair("/", "~1")}) {
    for (size_t at = key.find(from); at != std::string::npos; at = key.find(from, at + 2))
      key.replace(at, 1, to);
  }
  return ClippedText(key);
}

}  // namespace

SchemaPlace SchemaPlace::At(const std::string& key) const {
  return {&schema->at(key), absl::StrCat(path, "/", EscapedKey(key))};
}

SchemaPlace SchemaPlace::At(const std::string& key, size_t index) const {
  return {&schema->at(key)[index], absl::StrCat(path, "/", EscapedKey(key), "/", index)};
}

const Json* SchemaPlace::Find(const char* keyword) const {
  const auto found = schema->find(keyword);
  return found == schema->end() ? nullptr : &*found;
}

absl::Status SchemaError(const SchemaPlace& place, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("at ", place.path, ": ", AbslView(what)));
}

absl::StatusOr<std::optional<int32_t>> CountKeyword(const SchemaPlace& place, const char* keyword) {
  const Json* value = place.Find(keyword);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number_integer() || value->get<int64_t>() < 0 ||
      (value->is_number_unsigned() && value->get<uint64_t>() > kMaxSchemaLength)) {
    return SchemaError(place, absl::StrCat(keyword, " is ", ClippedText(value->dump()),
                                           "; it must be a whole number in 0..", kMaxSchemaLength));
  }
  return static_cast<int32_t>(value->get<int64_t>());
}

absl::StatusOr<std::vector<GrammarRule>> JsonSchemaCompiler::Compile() {
  Value({&document_, "#"});
  while (!pending_.empty()) {
    const auto [rule, place] = pending_.front();
    pending_.pop_front();
    ASSIGN_OR_RETURN(rules_[rule].body, Body(place));
  }
  return std::move(rules_);
}

int32_t JsonSchemaCompiler::NewRule(std::string name) {
  rules_.push_back({std::move(name), nullptr});
  return static_cast<int32_t>(rules_.size()) - 1;
}

ExpressionPtr JsonSchemaCompiler::Value(const SchemaPlace& place) {
  const auto [found, added] = by_schema_.try_emplace(place.schema, 0);
  if (added) {
    found->second = NewRule(absl::StrCat("at ", place.path));
    pending_.emplace_back(found->second, place);
  }
  return CallRule(found->second);
}

ExpressionPtr JsonSchemaCompiler::Any(AnyKind kind) {
  const auto [found, added] = any_.try_emplace(kind, 0);
  if (!added) return CallRule(found->second);
  const int32_t rule = found->second = NewRule("any JSON");
  ExpressionPtr body = AnyBody(kind);  // may add rules
  rules_[rule].body = std::move(body);
  return CallRule(rule);
}

ExpressionPtr JsonSchemaCompiler::AnyBody(AnyKind kind) {
  switch (kind) {
    case AnyKind::kString:
      return JsonString(0, kNoLimit, "a string");
    case AnyKind::kNumber:
      return JsonNumber();
    case AnyKind::kInteger:
      return JsonInteger(-kLargestInteger, kLargestInteger);
    case AnyKind::kObject:
      return Braces(JsonList(InOrder({Any(AnyKind::kString), JsonColon(), Any(AnyKind::kValue)})));
    case AnyKind::kArray:
      return Brackets(JsonList(Any(AnyKind::kValue)));
    case AnyKind::kValue:
      break;
  }
  return AnyOf({Any(AnyKind::kObject), Any(AnyKind::kArray), Any(AnyKind::kString),
                Any(AnyKind::kNumber), Literal("true"), Literal("false"), Literal("null")});
}

absl::Status JsonSchemaCompiler::CheckKeywords(const SchemaPlace& place) const {
  static constexpr std::string_view kOthers[] = {"type",  "enum",  "const", "anyOf",
                                                 "oneOf", "allOf", "$ref"};
  for (const auto& [keyword, value] : place.schema->items()) {
    if (IsAnnotation(keyword)) continue;
    bool known = std::find(std::begin(kOthers), std::end(kOthers), keyword) != std::end(kOthers);
    for (const TypeKeywords& type : KeywordsByType()) {
      known = known ||
              std::find(type.keywords.begin(), type.keywords.end(), keyword) != type.keywords.end();
    }
    if (!known) {
      return SchemaError(place, absl::StrCat("the keyword \"", ClippedText(keyword),
                                             "\" is not supported; leave it out, or check the "
                                             "answer for it yourself"));
    }
  }
  return absl::OkStatus();
}

// Of a keyword whose value decides alone: a second one beside it would have to be met as well.
absl::Status JsonSchemaCompiler::CheckAlone(const SchemaPlace& place, const char* keyword) const {
  for (const auto& [other, value] : place.schema->items()) {
    if (other == keyword || IsAnnotation(other)) continue;
    return SchemaError(place, absl::StrCat("\"", ClippedText(other), "\" beside \"", keyword,
                                           "\" is not supported; move it into the schemas that \"",
                                           keyword, "\" names"));
  }
  return absl::OkStatus();
}

absl::StatusOr<ExpressionPtr> JsonSchemaCompiler::Body(const SchemaPlace& place) {
  if (place.schema->is_boolean())
    return place.schema->get<bool>() ? Any(AnyKind::kValue) : Nothing();
  if (!place.schema->is_object())
    return SchemaError(place, "a schema must be an object, true or false");
  RETURN_IF_ERROR(CheckKeywords(place));
  if (place.Find("$ref") != nullptr) return Reference(place);
  for (const char* keyword : {"anyOf", "oneOf", "allOf"}) {
    if (place.Find(keyword) != nullptr) return OneOfSeveral(place, keyword);
  }
  if (place.Find("enum") != nullptr || place.Find("const") != nullptr) return Constants(place);
  ASSIGN_OR_RETURN(const std::vector<std::string> types, TypesOf(place));
  if (types.empty()) return Any(AnyKind::kValue);
  std::vector<ExpressionPtr> ways;
  for (const std::string& type : types) {
    ASSIGN_OR_RETURN(ExpressionPtr way, OfType(type, place));
    ways.push_back(std::move(way));
  }
  return AnyOf(std::move(ways));
}

absl::StatusOr<ExpressionPtr> JsonSchemaCompiler::Reference(const SchemaPlace& place) {
  RETURN_IF_ERROR(CheckAlone(place, "$ref"));
  const Json& value = *place.Find("$ref");
  if (!value.is_string()) return SchemaError(place, "$ref must be text");
  const std::string& target = value.get_ref<const std::string&>();
  if (target != "#" && !absl::StartsWith(target, "#/")) {
    return SchemaError(place, absl::StrCat("$ref \"", ClippedText(target),
                                           "\" is not supported; only #/... within the same "
                                           "schema is, such as #/$defs/NAME"));
  }
  SchemaPlace found = {&document_, "#"};
  for (size_t at = 1; at < target.size();) {
    const size_t end = std::min(target.find('/', at + 1), target.size());
    std::string key = target.substr(at + 1, end - at - 1);
    for (const auto& [from, to] : {std::pair("~1", "/"), std::pair("~0", "~")}) {
      for (size_t i = key.find(from); i != std::string::npos; i = key.find(from, i + 1))
        key.replace(i, 2, to);
    }
    size_t index = 0;
    if (found.schema->is_object() && found.schema->contains(key)) {
      found = found.At(key);
    } else if (found.schema->is_array() && absl::SimpleAtoi(key, &index) &&
               index < found.schema->size()) {
      found = {&(*found.schema)[index], absl::StrCat(found.path, "/", index)};
    } else {
      return SchemaError(place, absl::StrCat("$ref \"", ClippedText(target), "\": there is no \"",
                                             ClippedText(key), "\" at ", found.path));
    }
    at = end;
  }
  return Value(found);
}

absl::StatusOr<ExpressionPtr> JsonSchemaCompiler::OneOfSeveral(const SchemaPlace& place,
                                                               const char* keyword) {
  RETURN_IF_ERROR(CheckAlone(place, keyword));
  const Json& schemas = *place.Find(keyword);
  if (!schemas.is_array() || schemas.empty())
    return SchemaError(place, absl::StrCat(keyword, " must be a list of at least one schema"));
  if (schemas.size() > kMaxSchemaWays) {
    return SchemaError(place, absl::StrCat(keyword, " has ", schemas.size(), " schemas, at most ",
                                           kMaxSchemaWays, " are supported"));
  }
  if (std::string_view(keyword) == "allOf" && schemas.size() > 1) {
    return SchemaError(place,
                       "allOf of more than one schema is not supported; write one schema "
                       "that says all of it");
  }
  std::vector<ExpressionPtr> ways;
  for (size_t i = 0; i < schemas.size(); ++i) ways.push_back(Value(place.At(keyword, i)));
  return AnyOf(std::move(ways));
}

absl::StatusOr<ExpressionPtr> JsonSchemaCompiler::Constants(const SchemaPlace& place) {
  const char* const keyword = place.Find("enum") != nullptr ? "enum" : "const";
  ASSIGN_OR_RETURN(const std::vector<std::string> types, TypesOf(place));
  for (const auto& [other, value] : place.schema->items()) {
    if (other != "type" && other != keyword && !IsAnnotation(other)) {
      return SchemaError(place, absl::StrCat("\"", ClippedText(other), "\" beside \"", keyword,
                                             "\" is not supported; list only what it allows"));
    }
  }
  const Json& given = *place.Find(keyword);
  const Json values = std::string_view(keyword) == "const" ? Json::array({given}) : given;
  if (!values.is_array() || values.empty())
    return SchemaError(place, "enum must be a list of at least one value");
  std::vector<ExpressionPtr> ways;
  for (const Json& value : values) {
    const bool allowed =
        types.empty() || std::any_of(types.begin(), types.end(), [&](const std::string& type) {
          return IsOfType(value, type);
        });
    if (allowed) ways.push_back(JsonConstant(value));
  }
  if (ways.empty())
    return SchemaError(place, absl::StrCat("no value of ", keyword, " has the type that is asked"));
  return AnyOf(std::move(ways));
}

absl::StatusOr<std::vector<std::string>> JsonSchemaCompiler::TypesOf(
    const SchemaPlace& place) const {
  std::vector<std::string> types;
  const Json* given = place.Find("type");
  if (given == nullptr) {
    for (const TypeKeywords& type : KeywordsByType()) {
      const auto& keywords = type.keywords;
      if (std::any_of(keywords.begin(), keywords.end(), [&](std::string_view keyword) {
            return place.Find(std::string(keyword).c_str()) != nullptr;
          }))
        types.emplace_back(type.type);
    }
    return types;
  }
  const Json list = given->is_array() ? *given : Json::array({*given});
  for (const Json& type : list) {
    const auto& known = KeywordsByType();
    if (!type.is_string() || std::none_of(known.begin(), known.end(), [&](const auto& item) {
          return type.get_ref<const std::string&>() == item.type;
        })) {
      return SchemaError(place, absl::StrCat("type is ", ClippedText(type.dump()),
                                             "; it must be object, array, string, number, integer, "
                                             "boolean or null"));
    }
    types.push_back(type.get<std::string>());
  }
  if (types.empty()) return SchemaError(place, "type is an empty list");
  return types;
}

absl::StatusOr<ExpressionPtr> JsonSchemaCompiler::OfType(const std::string& type,
                                                         const SchemaPlace& place) {
  if (type == "object") return Object(place);
  if (type == "array") return Array(place);
  if (type == "string") return String(place);
  if (type == "number") return Number(place);
  if (type == "integer") return Integer(place);
  if (type == "boolean") return AnyOf({Literal("true"), Literal("false")});
  return Literal("null");
}

absl::StatusOr<std::vector<GrammarRule>> JsonSchemaRules(std::string_view schema) {
  if (schema.size() > kMaxSchemaBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the schema has ", schema.size(), " bytes, at most ", kMaxSchemaBytes, " are allowed"));
  }
  // Strictly first: it refuses keys given twice, of which the second parser would keep one.
  RETURN_IF_ERROR(ParseJson(schema, "the schema").status());
  const Json document = Json::parse(schema, nullptr, /*allow_exceptions=*/false);
  if (document.is_discarded()) return absl::InvalidArgumentError("the schema is not JSON");
  return JsonSchemaCompiler(document).Compile();
}

std::vector<GrammarRule> JsonObjectRules() {
  return JsonSchemaRules(R"({"type": "object"})").value();
}

}  // namespace lorad
