// JSON schemas (draft 2020-12, and the older "definitions") as grammars.
//
// Every answer satisfies its schema, and is JSON that any reader takes (json_text.h, json_number.h
// say how it is written). Not every value that satisfies a schema can be an answer; what is left
// out:
//  - members come in the order of `properties`, then additional ones. Without
//  `additionalProperties`
//    there are none beside `properties`; likewise no elements after `prefixItems` without `items`;
//  - without `type`, keywords such as `properties` say which type is meant;
//  - strings under `pattern`, `format`, `enum` and `const`, and the keys, have only the escapes
//  that
//    they need; numbers with bounds have no exponent.
// Keys that are not in `properties` may repeat: readers take the last one.
//
// Supported, else refused by name:
//   type (one or a list), enum, const, anyOf, oneOf (as anyOf), allOf of one, $ref to # or #/...,
//     also recursive, $defs, definitions, true, false
//   properties, required, additionalProperties
//   items, prefixItems, minItems, maxItems
//   minLength, maxLength, or pattern (regex.h), or format: date, time, date-time, uuid
//   minimum, maximum, exclusiveMinimum, exclusiveMaximum; of "number" whole ones
//   without effect: title, description, default, examples, deprecated, readOnly, writeOnly,
//   $schema,
//     $id, $comment, and keywords that begin with "x-"
#ifndef LORAD_ENGINE_INFER_CONSTRAINT_JSON_SCHEMA_H_
#define LORAD_ENGINE_INFER_CONSTRAINT_JSON_SCHEMA_H_

#include <cstddef>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/infer/constraint/expression.h"

namespace lorad {

inline constexpr size_t kMaxSchemaBytes = 256 << 10;
inline constexpr size_t kMaxSchemaProperties = 500;  // of one object; prefixItems of one array
inline constexpr size_t kMaxSchemaWays = 100;        // of one anyOf
inline constexpr int32_t kMaxSchemaLength = 10000;   // minLength, maxItems; automata hold 4,000

// The rules of a grammar, the first for the whole text. kInvalidArgument "at #/properties/a: ...".
absl::StatusOr<std::vector<GrammarRule>> JsonSchemaRules(std::string_view schema);

// Any JSON object.
std::vector<GrammarRule> JsonObjectRules();

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_CONSTRAINT_JSON_SCHEMA_H_
