#include "engine/infer/constraint/expression.h"

#include <utility>

#include "engine/io/utf8.h"

namespace lorad {
namespace {

ExpressionPtr Make(Expression expression) {
  return std::make_shared<const Expression>(std::move(expression));
}

}  // namespace

ExpressionPtr OneOf(CodePoints set) {
  return Make({.kind = Expression::Kind::kCharacter, .characters = Normalized(std::move(set))});
}

ExpressionPtr Literal(std::string_view utf8) {
  std::vector<ExpressionPtr> parts;
  while (!utf8.empty()) {
    const Utf8Step step = NextUtf8(utf8);
    parts.push_back(OneOf({{step.code_point, step.code_point}}));
    utf8.remove_prefix(step.length);
  }
  return InOrder(std::move(parts));
}

ExpressionPtr InOrder(std::vector<ExpressionPtr> parts) {
  if (parts.size() == 1) return parts[0];
  return Make({.kind = Expression::Kind::kSequence, .parts = std::move(parts)});
}

ExpressionPtr AnyOf(std::vector<ExpressionPtr> parts) {
  if (parts.empty()) return Nothing();
  if (parts.size() == 1) return parts[0];
  return Make({.kind = Expression::Kind::kChoice, .parts = std::move(parts)});
}

ExpressionPtr Repeated(ExpressionPtr part, int32_t min, int32_t max, std::string where) {
  return Make({.kind = Expression::Kind::kRepeat,
               .parts = {std::move(part)},
               .min = min,
               .max = max,
               .where = std::move(where)});
}

ExpressionPtr Maybe(ExpressionPtr part) { return AnyOf({std::move(part), InOrder({})}); }

ExpressionPtr CallRule(int32_t rule) {
  return Make({.kind = Expression::Kind::kRule, .rule = rule});
}

ExpressionPtr Nothing() { return OneOf({}); }

}  // namespace lorad
