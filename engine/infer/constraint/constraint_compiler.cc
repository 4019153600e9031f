#include "engine/infer/constraint/constraint_compiler.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/infer/constraint/expression.h"
#include "engine/infer/constraint/json_schema.h"
#include "engine/infer/constraint/regex.h"

namespace lorad {
namespace {

const char* NameOf(ConstraintSpec::Kind kind) {
  switch (kind) {
    case ConstraintSpec::Kind::kRegex:
      return "regex";
    case ConstraintSpec::Kind::kJsonSchema:
      return "json_schema";
    case ConstraintSpec::Kind::kJsonObject:
      return "json_object";
    case ConstraintSpec::Kind::kNone:
      break;
  }
  return "constraint";
}

absl::StatusOr<std::vector<GrammarRule>> RulesOf(const ConstraintSpec& spec) {
  if (spec.kind == ConstraintSpec::Kind::kJsonObject) return JsonObjectRules();
  if (spec.kind == ConstraintSpec::Kind::kJsonSchema) return JsonSchemaRules(spec.text);
  ASSIGN_OR_RETURN(ExpressionPtr body, ParseRegex(spec.text, {}));
  return std::vector<GrammarRule>{{"the pattern", std::move(body)}};
}

absl::StatusOr<Grammar> GrammarOf(const ConstraintSpec& spec) {
  ASSIGN_OR_RETURN(const std::vector<GrammarRule> rules, RulesOf(spec));
  return Grammar::Create(rules);
}

}  // namespace

std::shared_ptr<const TokenTrie> ConstraintCompiler::Vocabulary() {
  absl::call_once(vocabulary_once_, [this] {
    const int64_t tokens = std::min<int64_t>(tokenizer_->vocab_size(), vocab_);
    std::vector<std::string> bytes(tokens);
    for (int32_t id = 0; id < tokens; ++id) bytes[id] = tokenizer_->TokenBytes(id);
    vocabulary_ = std::make_shared<const TokenTrie>(std::move(bytes));
  });
  return vocabulary_;
}

absl::StatusOr<std::shared_ptr<const Constraint>> ConstraintCompiler::Compile(
    const ConstraintSpec& spec) {
  if (spec.kind == ConstraintSpec::Kind::kNone) return std::shared_ptr<const Constraint>();
  const char* const name = NameOf(spec.kind);
  if (tokenizer_ == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(
        name, " needs a tokenizer and the model directory has no tokenizer.json; leave it out"));
  }
  if (tokenizer_->TrimsEnd()) {
    return absl::FailedPreconditionError(
        absl::StrCat(name,
                     " is not possible with this model: its tokenizer takes characters off "
                     "the end of a text when it decodes it; leave it out"));
  }
  const std::pair<ConstraintSpec::Kind, std::string> key = {spec.kind, spec.text};
  if (std::shared_ptr<const Constraint> found = compiled_.Find(key)) return found;
  absl::StatusOr<Grammar> grammar = GrammarOf(spec);
  if (!grammar.ok()) {
    return absl::Status(grammar.status().code(),
                        absl::StrCat(name, ": ", grammar.status().message()));
  }
  auto constraint = std::make_shared<const Constraint>(*std::move(grammar), Vocabulary(), vocab_);
  // The first mask is found here, not on the engine's thread.
  constraint->Allowed(constraint->Start());
  return compiled_.Insert(key, std::move(constraint));
}

}  // namespace lorad
