// Constraints of requests, compiled once for all that ask for the same.
#ifndef LORAD_ENGINE_INFER_CONSTRAINT_CONSTRAINT_COMPILER_H_
#define LORAD_ENGINE_INFER_CONSTRAINT_CONSTRAINT_COMPILER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/call_once.h"
#include "absl/status/statusor.h"
#include "engine/infer/constraint/constraint.h"
#include "engine/infer/constraint/lru_cache.h"
#include "engine/infer/request.h"
#include "engine/io/tokenizer.h"

namespace lorad {

// Of one model. Keeps the kCapacity constraints that were used last, each of at most some 16 MiB of
// automata and Constraint::kMaskCacheBytes of masks; the vocabulary is sorted when the first one is
// asked for. Thread-safe.
class ConstraintCompiler {
 public:
  static constexpr size_t kCapacity = 32;

  // `tokenizer` must outlive it; null: there is none. `vocab`: of the model's logits.
  ConstraintCompiler(const Tokenizer* tokenizer, int64_t vocab)
      : tokenizer_(tokenizer), vocab_(vocab), compiled_(kCapacity) {}

  // Null for no constraint. kInvalidArgument: "regex: ..." or "json_schema: ..." names the place in
  // it. kFailedPrecondition: there is no tokenizer, or one whose text cannot be constrained. Takes
  // up to some seconds of the caller's thread for what is new and large.
  absl::StatusOr<std::shared_ptr<const Constraint>> Compile(const ConstraintSpec& spec);

 private:
  std::shared_ptr<const TokenTrie> Vocabulary();

  const Tokenizer* const tokenizer_;
  const int64_t vocab_;
  absl::once_flag vocabulary_once_;
  std::shared_ptr<const TokenTrie> vocabulary_;
  LruCache<std::pair<ConstraintSpec::Kind, std::string>, Constraint> compiled_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_CONSTRAINT_CONSTRAINT_COMPILER_H_
