// What each type's keywords say.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/core/status_macros.h"
#include "engine/infer/constraint/json_number.h"
#include "engine/infer/constraint/json_schema.h"
#include "engine/infer/constraint/json_schema_compiler.h"
#include "engine/infer/constraint/json_text.h"
#include "engine/infer/constraint/regex.h"
#include "engine/io/json_check.h"
#include "engine/io/text.h"

namespace lorad {
namespace {

// RFC 3339; seconds are 00 to 59, and the 29th of February is only in leap years.
constexpr char kDate[] =
    R"((\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|)"
    R"(02-(0[1-9]|1\d|2[0-8]))|(\d\d(0[48]|[2468][048]|[13579][26])|)"
    R"(([02468][048]|[13579][26])00)-02-29))";
constexpr char kTime[] =
    R"((([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+\-]([01]\d|2[0-3]):[0-5]\d)))";
constexpr char kUuid[] =
    R"([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12})";

// Telling other keys from these takes an expression as deep as the longest is long, and as large as
// all of them together.
constexpr size_t kMaxKeyBytes = 256;
constexpr size_t kMaxAllKeyBytes = 16 << 10;

absl::StatusOr<std::string> PatternOfFormat(const SchemaPlace& place, const std::string& format) {
  if (format == "date") return std::string(kDate);
  if (format == "time") return std::string(kTime);
  if (format == "date-time") return absl::StrCat(kDate, "T", kTime);
  if (format == "uuid") return std::string(kUuid);
  return SchemaError(place, absl::StrCat("the format \"", ClippedText(format),
                                         "\" is not supported; date, time, date-time and uuid are, "
                                         "or write a pattern"));
}

absl::StatusOr<std::vector<std::string>> RequiredKeys(const SchemaPlace& place) {
  std::vector<std::string> keys;
  const Json* required = place.Find("required");
  if (required == nullptr) return keys;
  const Json* properties = place.Find("properties");
  if (!required->is_array()) return SchemaError(place, "required must be a list of keys");
  for (const Json& key : *required) {
    if (!key.is_string()) return SchemaError(place, "required must be a list of keys");
    keys.push_back(key.get<std::string>());
    if (properties == nullptr || !properties->is_object() || !properties->contains(keys.back())) {
      return SchemaError(place, absl::StrCat("required names \"", ClippedText(keys.back()),
                                             "\", which properties does not have; add it there"));
    }
  }
  return keys;
}

// Bounds of an integer or number, as given.
struct GivenBound {
  double value;
  bool open;
};

absl::StatusOr<std::optional<GivenBound>> Bound(const SchemaPlace& place, const char* closed_name,
                                                const char* open_name, bool lower) {
  std::optional<GivenBound> bound;
  for (const auto& [name, open] : {std::pair(closed_name, false), std::pair(open_name, true)}) {
    const Json* value = place.Find(name);
    if (value == nullptr) continue;
    if (!value->is_number()) {
      return SchemaError(
          place, absl::StrCat(name, " is ", ClippedText(value->dump()), "; it must be a number"));
    }
    const double number = value->get<double>();
    const bool exact =
        !value->is_number_integer() || std::abs(number) < static_cast<double>(int64_t{1} << 53);
    if (!exact) {
      return SchemaError(
          place, absl::StrCat(name, " is ", value->dump(), "; bounds are supported below 2^53"));
    }
    const bool tighter =
        !bound.has_value() || (lower ? number > bound->value : number < bound->value);
    if (tighter || (number == bound->value && open)) bound = GivenBound{number, open};
  }
  return bound;
}

// A bound of "number" must be whole; near zero if it is open.
absl::StatusOr<int64_t> WholeBound(const SchemaPlace& place, const GivenBound& bound) {
  const double limit = static_cast<double>(bound.open ? kLargestOpenBound : int64_t{1} << 53);
  if (bound.value == std::floor(bound.value) && std::abs(bound.value) <= limit)
    return static_cast<int64_t>(bound.value);
  return SchemaError(place,
                     absl::StrCat("the ", bound.open ? "exclusive " : "", "bound ", bound.value,
                                  " of a number is not supported; whole ones are, up to ",
                                  static_cast<int64_t>(limit), " from zero"));
}

}  // namespace

// The value of members that `properties` does not have; null: there are none.
absl::StatusOr<ExpressionPtr> JsonSchemaCompiler::AdditionalValue(
    const SchemaPlace& place, const std::vector<std::string>& keys) {
  const Json* additional = place.Find("additionalProperties");
  // Unless it is asked for, nothing but `properties`; without those, anything.
  if (additional == nullptr)
    return place.Find("properties") != nullptr ? nullptr : Any(AnyKind::kValue);
  if (*additional == Json(false)) return ExpressionPtr(nullptr);
  size_t bytes = 0;
  for (const std::string& key : keys) {
    bytes += key.size();
    if (key.size() <= kMaxKeyBytes && bytes <= kMaxAllKeyBytes) continue;
    return SchemaError(
        place,
        absl::StrCat("the keys of properties up to \"", ClippedText(key), "\", which has ",
                     key.size(), " bytes, have ", bytes, "; beside additionalProperties ",
                     kMaxKeyBytes, " for each and ", kMaxAllKeyBytes, " for all are supported"));
  }
  return Value(place.At("additionalProperties"));
}

absl::StatusOr<ExpressionPtr> JsonSchemaCompiler::Object(const SchemaPlace& place) {
  std::vector<std::string> keys;
  if (const Json* properties = place.Find("properties"); properties != nullptr) {
    if (!properties->is_object())
      return SchemaError(place, "properties must be an object of schemas");
    for (const auto& [key, schema] : properties->items()) keys.push_back(key);
  }
  if (keys.size() > kMaxSchemaProperties) {
    return SchemaError(place, absl::StrCat("there are ", keys.size(), " properties, at most ",
                                           kMaxSchemaProperties, " are supported"));
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> required, RequiredKeys(place));
  ASSIGN_OR_RETURN(const ExpressionPtr additional, AdditionalValue(place, keys));
  if (!keys.empty()) return Braces(Members(place, keys, required, additional));
  if (additional == nullptr) return Braces(InOrder({}));
  return Braces(JsonList(InOrder({Any(AnyKind::kString), JsonColon(), additional})));
}

// Members in their order, built from the last to the first. What can follow a member begins with
// the same comma, space and quote whichever comes next, and the rest after each is shared by all
// that can stand before it: so the automaton does not grow with the number of subsets.
ExpressionPtr JsonSchemaCompiler::Members(const SchemaPlace& place,
                                          const std::vector<std::string>& keys,
                                          const std::vector<std::string>& required,
                                          const ExpressionPtr& additional) {
  const SchemaPlace properties = place.At("properties");
  const auto after_comma = [](const ExpressionPtr& members) {
    return InOrder({JsonComma(), Literal("\""), members});
  };
  // After a key's quote: one of the members from here on, and all that follows it.
  ExpressionPtr members = nullptr;
  ExpressionPtr later = InOrder({});  // after a member
  if (additional != nullptr) {
    const ExpressionPtr any =
        InOrder({JsonTextExcept(keys), Literal("\""), JsonColon(), additional});
    later = Repeated(after_comma(any), 0, kNoLimit, "additional members");
    members = InOrder({any, later});
  }
  bool one_must_follow = false;
  for (size_t i = keys.size(); i-- > 0;) {
    const ExpressionPtr own = InOrder(
        {JsonTextOf(keys[i]), Literal("\""), JsonColon(), Value(properties.At(keys[i])), later});
    const bool must = std::find(required.begin(), required.end(), keys[i]) != required.end();
    members = must || members == nullptr ? own : AnyOf({own, members});
    one_must_follow = one_must_follow || must;
    later = one_must_follow ? after_comma(members) : Maybe(after_comma(members));
  }
  const ExpressionPtr all = InOrder({Literal("\""), members});
  return one_must_follow ? all : Maybe(all);
}

absl::StatusOr<ExpressionPtr> JsonSchemaCompiler::Array(const SchemaPlace& place) {
  ASSIGN_OR_RETURN(const std::optional<int32_t> min_items, CountKeyword(place, "minItems"));
  ASSIGN_OR_RETURN(const std::optional<int32_t> max_items, CountKeyword(place, "maxItems"));
  const Json* prefix = place.Find("prefixItems");
  if (prefix != nullptr && !prefix->is_array())
    return SchemaError(place, "prefixItems must be a list of schemas");
  if (prefix != nullptr && prefix->size() > kMaxSchemaProperties) {
    return SchemaError(place, absl::StrCat("prefixItems has ", prefix->size(), " schemas, at most ",
                                           kMaxSchemaProperties, " are supported"));
  }
  const int32_t min = min_items.value_or(0);
  const int32_t count = prefix == nullptr ? 0 : static_cast<int32_t>(prefix->size());
  const Json* items = place.Find("items");
  if (items != nullptr && items->is_array())
    return SchemaError(place, "items is a list; the keyword for that is prefixItems");
  const bool more = items != nullptr ? *items != Json(false) : prefix == nullptr;
  const int32_t max = max_items.value_or(more ? kNoLimit : count);
  if ((max != kNoLimit && max < min) || (!more && count < min)) {
    return SchemaError(place, absl::StrCat("at least ", min, " elements are asked, and at most ",
                                           more ? max : std::min(max, count), " allowed"));
  }
  // From the last element to the first, as in Object.
  ExpressionPtr first = InOrder({}), later = InOrder({});
  if (more && (max == kNoLimit || max > count)) {
    const ExpressionPtr item = items != nullptr ? Value(place.At("items")) : Any(AnyKind::kValue);
    const auto elements = [&](int32_t already) {
      return Repeated(InOrder({JsonComma(), item}), std::max(0, min - already),
                      max == kNoLimit ? kNoLimit : max - already,
                      absl::StrCat("the elements at ", place.path));
    };
    later = elements(count);
    first = InOrder({item, elements(count + 1)});
    if (count > 0)
      first = later;  // it is never the first
    else if (min == 0)
      first = Maybe(first);
  }
  for (int32_t i = std::min(count, max == kNoLimit ? count : max); i-- > 0;) {
    const ExpressionPtr item = Value(place.At("prefixItems", i));
    first = InOrder({item, later});
    later = InOrder({JsonComma(), first});
    if (i >= min) {
      first = Maybe(first);
      later = Maybe(later);
    }
  }
  return Brackets(std::move(first));
}

absl::StatusOr<ExpressionPtr> JsonSchemaCompiler::String(const SchemaPlace& place) {
  ASSIGN_OR_RETURN(const std::optional<int32_t> min, CountKeyword(place, "minLength"));
  ASSIGN_OR_RETURN(const std::optional<int32_t> max, CountKeyword(place, "maxLength"));
  const Json* pattern = place.Find("pattern");
  const Json* format = place.Find("format");
  const int kinds =
      (min.has_value() || max.has_value()) + (pattern != nullptr) + (format != nullptr);
  if (kinds == 0) return Any(AnyKind::kString);
  if (kinds > 1) {
    return SchemaError(place,
                       "only one of pattern, format and minLength with maxLength is "
                       "supported; put the length into the pattern, as in ^[a-z]{2,8}$");
  }
  if (pattern == nullptr && format == nullptr) {
    if (max.has_value() && *max < min.value_or(0)) {
      return SchemaError(place, absl::StrCat("minLength ", *min, " is above maxLength ", *max));
    }
    return JsonString(min.value_or(0), max.value_or(kNoLimit),
                      absl::StrCat("the string at ", place.path));
  }
  const Json& text = pattern != nullptr ? *pattern : *format;
  if (!text.is_string())
    return SchemaError(place, pattern != nullptr ? "pattern must be text" : "format must be text");
  std::string regex = text.get<std::string>();
  if (format != nullptr) {
    ASSIGN_OR_RETURN(regex, PatternOfFormat(place, regex));
  }
  absl::StatusOr<ExpressionPtr> inside =
      ParseRegex(regex, {.anywhere = pattern != nullptr, .spell = JsonCharacter});
  if (!inside.ok()) {
    return SchemaError(place, absl::StrCat("pattern: ", inside.status().message()));
  }
  return Quoted(*std::move(inside));
}

absl::StatusOr<ExpressionPtr> JsonSchemaCompiler::Integer(const SchemaPlace& place) {
  ASSIGN_OR_RETURN(const auto low, Bound(place, "minimum", "exclusiveMinimum", true));
  ASSIGN_OR_RETURN(const auto high, Bound(place, "maximum", "exclusiveMaximum", false));
  if (!low.has_value() && !high.has_value()) return Any(AnyKind::kInteger);
  // In doubles first: what is beyond the largest integers that are written bounds nothing. What is
  // not is whole in an int64 after rounding.
  const double largest = static_cast<double>(kLargestInteger);
  int64_t first = -kLargestInteger, last = kLargestInteger;
  if (low.has_value() && low->value > -largest) {
    if (low->value >= largest) return Nothing();
    first = static_cast<int64_t>(low->open ? std::floor(low->value) + 1 : std::ceil(low->value));
  }
  if (high.has_value() && high->value < largest) {
    if (high->value <= -largest) return Nothing();
    last = static_cast<int64_t>(high->open ? std::ceil(high->value) - 1 : std::floor(high->value));
  }
  return JsonInteger(first, last);
}

absl::StatusOr<ExpressionPtr> JsonSchemaCompiler::Number(const SchemaPlace& place) {
  ASSIGN_OR_RETURN(const auto low, Bound(place, "minimum", "exclusiveMinimum", true));
  ASSIGN_OR_RETURN(const auto high, Bound(place, "maximum", "exclusiveMaximum", false));
  if (!low.has_value() && !high.has_value()) return Any(AnyKind::kNumber);
  NumberBounds bounds;
  if (low.has_value()) {
    ASSIGN_OR_RETURN(bounds.low, WholeBound(place, *low));
    bounds.low_open = low->open;
  }
  if (high.has_value()) {
    ASSIGN_OR_RETURN(bounds.high, WholeBound(place, *high));
    bounds.high_open = high->open;
  }
  return JsonNumberWithin(bounds);
}

}  // namespace lorad
