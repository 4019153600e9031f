// What regular expressions and JSON schemas become before they are automata: expressions over
// characters that may call rules, as in an extended context-free grammar.
#ifndef LORAD_ENGINE_INFER_CONSTRAINT_EXPRESSION_H_
#define LORAD_ENGINE_INFER_CONSTRAINT_EXPRESSION_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/infer/constraint/code_points.h"

namespace lorad {

struct Expression;
// Expressions share parts: a graph without cycles. Rules make recursion.
using ExpressionPtr = std::shared_ptr<const Expression>;

inline constexpr int32_t kNoLimit = -1;

// Immutable once made.
struct Expression {
  enum class Kind : uint8_t {
    kCharacter,  // one of `characters`; nothing matches when there are none
    kSequence,   // all of `parts`, in order; the empty text when there are none
    kChoice,     // any of `parts`
    kRepeat,     // parts[0], `min` to `max` times
    kRule,       // what rule number `rule` matches
  };
  Kind kind = Kind::kSequence;
  CodePoints characters = {};
  std::vector<ExpressionPtr> parts = {};
  int32_t min = 0;
  int32_t max = 0;  // or kNoLimit
  int32_t rule = 0;
  std::string where = {};  // kRepeat: names it in errors about size
};

struct GrammarRule {
  std::string name;  // in errors: "at #/items"
  ExpressionPtr body;
};

ExpressionPtr OneOf(CodePoints set);
ExpressionPtr Literal(std::string_view utf8);  // REQUIRES: valid UTF-8
ExpressionPtr InOrder(std::vector<ExpressionPtr> parts);
ExpressionPtr AnyOf(std::vector<ExpressionPtr> parts);
ExpressionPtr Repeated(ExpressionPtr part, int32_t min, int32_t max, std::string where);
ExpressionPtr Maybe(ExpressionPtr part);
ExpressionPtr CallRule(int32_t rule);
// Matches nothing at all, not even the empty text.
ExpressionPtr Nothing();

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_CONSTRAINT_EXPRESSION_H_
