// From schemas to rules. Internal to engine/infer/constraint.
#ifndef LORAD_ENGINE_INFER_CONSTRAINT_JSON_SCHEMA_COMPILER_H_
#define LORAD_ENGINE_INFER_CONSTRAINT_JSON_SCHEMA_COMPILER_H_

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/infer/constraint/expression.h"
#include "nlohmann/json.hpp"

namespace lorad {

using Json = nlohmann::ordered_json;  // the order of `properties` matters

// A schema inside the document.
struct SchemaPlace {
  const Json* schema;
  std::string path;  // "#/properties/a"

  SchemaPlace At(const std::string& key) const;  // REQUIRES: an object that has the key
  SchemaPlace At(const std::string& key, size_t index) const;
  // The value of a keyword, null when it is absent.
  const Json* Find(const char* keyword) const;
};

// kInvalidArgument "at #/...: ...".
absl::Status SchemaError(const SchemaPlace& place, std::string_view what);

// One rule for each schema; those that a schema holds become rules of their own, later, so nothing
// here recurses with the document. Thread-compatible.
class JsonSchemaCompiler {
 public:
  // `document` outlives it.
  explicit JsonSchemaCompiler(const Json& document) : document_(document) {}

  absl::StatusOr<std::vector<GrammarRule>> Compile();

 private:
  // JSON values of one kind that are the same in every schema.
  enum class AnyKind { kValue, kObject, kArray, kString, kNumber, kInteger };

  // The rule of a schema, or of any value of a kind, made when it is first asked for.
  ExpressionPtr Value(const SchemaPlace& place);
  ExpressionPtr Any(AnyKind kind);
  int32_t NewRule(std::string name);
  ExpressionPtr AnyBody(AnyKind kind);

  absl::StatusOr<ExpressionPtr> Body(const SchemaPlace& place);
  absl::Status CheckKeywords(const SchemaPlace& place) const;
  absl::Status CheckAlone(const SchemaPlace& place, const char* keyword) const;
  absl::StatusOr<ExpressionPtr> Reference(const SchemaPlace& place);
  absl::StatusOr<ExpressionPtr> OneOfSeveral(const SchemaPlace& place, const char* keyword);
  absl::StatusOr<ExpressionPtr> Constants(const SchemaPlace& place);
  absl::StatusOr<std::vector<std::string>> TypesOf(const SchemaPlace& place) const;
  absl::StatusOr<ExpressionPtr> OfType(const std::string& type, const SchemaPlace& place);

  // json_schema_types.cc
  absl::StatusOr<ExpressionPtr> Object(const SchemaPlace& place);
  ExpressionPtr Members(const SchemaPlace& place, const std::vector<std::string>& keys,
                        const std::vector<std::string>& required, const ExpressionPtr& additional);
  absl::StatusOr<ExpressionPtr> AdditionalValue(const SchemaPlace& place,
                                                const std::vector<std::string>& keys);
  absl::StatusOr<ExpressionPtr> Array(const SchemaPlace& place);
  absl::StatusOr<ExpressionPtr> String(const SchemaPlace& place);
  absl::StatusOr<ExpressionPtr> Number(const SchemaPlace& place);
  absl::StatusOr<ExpressionPtr> Integer(const SchemaPlace& place);

  const Json& document_;
  std::vector<GrammarRule> rules_;
  std::map<const Json*, int32_t> by_schema_;
  std::map<AnyKind, int32_t> any_;
  std::deque<std::pair<int32_t, SchemaPlace>> pending_;  // rules without a body yet
};

// A keyword's value as a count in [0, kMaxSchemaLength].
absl::StatusOr<std::optional<int32_t>> CountKeyword(const SchemaPlace& place, const char* keyword);

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_CONSTRAINT_JSON_SCHEMA_COMPILER_H_
