// Vocabularies, and texts drawn at random through the masks of a constraint.
#ifndef LORAD_TESTS_UNIT_ENGINE_INFER_CONSTRAINT_CONSTRAINT_FIXTURE_H_
#define LORAD_TESTS_UNIT_ENGINE_INFER_CONSTRAINT_CONSTRAINT_FIXTURE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/infer/constraint/constraint.h"
#include "engine/infer/constraint/expression.h"
#include "engine/infer/constraint/grammar.h"
#include "engine/infer/constraint/json_schema.h"
#include "engine/infer/constraint/regex.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace lorad {

inline absl::StatusOr<Grammar> RegexGrammar(std::string_view pattern) {
  ASSIGN_OR_RETURN(ExpressionPtr body, ParseRegex(pattern, {}));
  return Grammar::Create({{"the pattern", std::move(body)}});
}

inline absl::StatusOr<Grammar> SchemaGrammar(std::string_view schema) {
  ASSIGN_OR_RETURN(const std::vector<GrammarRule> rules, JsonSchemaRules(schema));
  return Grammar::Create(rules);
}

// All single bytes, ids 0..255, then `more`.
inline std::vector<std::string> ByteVocabulary(const std::vector<std::string>& more = {}) {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  tokens.insert(tokens.end(), more.begin(), more.end());
  return tokens;
}

inline Constraint WithVocabulary(absl::StatusOr<Grammar> grammar,
                                 std::vector<std::string> tokens = ByteVocabulary()) {
  EXPECT_OK(grammar);
  const int64_t vocab = static_cast<int64_t>(tokens.size());
  return Constraint(*std::move(grammar), std::make_shared<const TokenTrie>(std::move(tokens)),
                    vocab);
}

// The whole of `text` satisfies the constraint, byte by byte.
inline bool Matches(const Constraint& constraint, std::string_view text) {
  Constraint::State state = constraint.Start();
  return constraint.AdvanceBytes(text, &state) && state.complete;
}

inline std::vector<int32_t> Ids(const TokenMask& mask) {
  std::vector<int32_t> ids;
  mask.ForEach([&](int32_t id) { ids.push_back(id); });
  return ids;
}

// Draws tokens among those allowed, each as likely, until the text may end and a coin says so, or
// must; none when it is still incomplete after `max_tokens`.
inline std::optional<std::vector<int32_t>> DrawTokens(const Constraint& constraint, int max_tokens,
                                                      std::mt19937& random) {
  std::vector<int32_t> tokens;
  Constraint::State state = constraint.Start();
  while (!state.ends()) {
    if (state.complete && random() % 4 == 0) return tokens;
    if (static_cast<int>(tokens.size()) == max_tokens) return std::nullopt;
    const std::vector<int32_t> allowed = Ids(*constraint.Allowed(state));
    if (allowed.empty()) {
      ADD_FAILURE() << "a dead end after " << tokens.size() << " tokens";
      return std::nullopt;
    }
    tokens.push_back(allowed[random() % allowed.size()]);
    EXPECT_TRUE(constraint.Advance(tokens.back(), &state)) << "an allowed token does not go on";
  }
  return tokens;
}

}  // namespace lorad

#endif  // LORAD_TESTS_UNIT_ENGINE_INFER_CONSTRAINT_CONSTRAINT_FIXTURE_H_
