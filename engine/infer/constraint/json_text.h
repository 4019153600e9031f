// How JSON values are written in a constrained answer. Internal to engine/infer/constraint.
//
// White space: after "{", "[" and "," and before "}" and "]" nothing, one space, or one line end
// and up to 32 spaces; after ":" nothing or one space; nowhere else. That has room for compact,
// spaced and indented JSON, and ends by itself.
#ifndef LORAD_ENGINE_INFER_CONSTRAINT_JSON_TEXT_H_
#define LORAD_ENGINE_INFER_CONSTRAINT_JSON_TEXT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/infer/constraint/expression.h"
#include "nlohmann/json_fwd.hpp"

namespace lorad {

ExpressionPtr JsonSpace();
ExpressionPtr JsonComma();  // and the space after it
ExpressionPtr JsonColon();

// One character of a string whose value is in `set`: as itself, or as \" \\ \b \f \n \r \t; other
// control characters as \u00HH.
ExpressionPtr JsonCharacter(const CodePoints& set);
// The same for any character, and in any way that JSON has, surrogates in pairs.
ExpressionPtr AnyJsonCharacter();

// A string of `min` to `max` characters, kNoLimit: no bound.
ExpressionPtr JsonString(int32_t min, int32_t max, const std::string& where);
// A string of which `characters`, made of JsonCharacter, is the inside.
ExpressionPtr Quoted(ExpressionPtr characters);
// The inside of a string of exactly this value, or of any but these.
ExpressionPtr JsonTextOf(std::string_view value);
ExpressionPtr JsonTextExcept(const std::vector<std::string>& values);

// Any number of these, with commas between them.
ExpressionPtr JsonList(const ExpressionPtr& item);
// `{` members `}` and `[` elements `]`, with space inside.
ExpressionPtr Braces(ExpressionPtr inside);
ExpressionPtr Brackets(ExpressionPtr inside);

// Exactly this value; numbers as nlohmann-json writes them, members in their order.
ExpressionPtr JsonConstant(const nlohmann::ordered_json& value);

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_CONSTRAINT_JSON_TEXT_H_
