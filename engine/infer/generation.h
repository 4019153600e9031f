// One request on its way from prompt to answer: which token comes next, what text it settles, and
// when to end. Knows nothing of batches, caches or devices.
#ifndef LORAD_ENGINE_INFER_GENERATION_H_
#define LORAD_ENGINE_INFER_GENERATION_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/infer/constraint/constraint.h"
#include "engine/infer/constraint/constraint_compiler.h"
#include "engine/infer/draw.h"
#include "engine/infer/request.h"
#include "engine/infer/sampler.h"
#include "engine/infer/stop_strings.h"
#include "engine/io/tokenizer.h"

namespace lorad {

// What the model fixes for every request.
struct GenerationLimits {
  int64_t vocab = 0;
  int64_t context_tokens = 0;            // longest sequence, prompt and answer together
  std::vector<int32_t> eos_ids;          // end of sequence
  const Tokenizer* tokenizer = nullptr;  // not owned; null: ids alone, no text
  // Of the tokenizer and vocabulary above; not owned. Null: constraints are refused.
  ConstraintCompiler* constraints = nullptr;
};

// kInvalidArgument names the field, its value and its range; kFailedPrecondition when stop strings
// are asked of a model without a tokenizer.
absl::Status Validate(const GenerateRequest& request, const GenerationLimits& limits);
absl::Status Validate(const ScoreRequest& request, const GenerationLimits& limits);

// The constraint of a request, null when it has none. Errors of ConstraintCompiler::Compile.
absl::StatusOr<std::shared_ptr<const Constraint>> CompileConstraint(const ConstraintSpec& spec,
                                                                    const GenerationLimits& limits);

// Thread-compatible.
class Generation {
 public:
  // REQUIRES: Validate(request, limits) is OK; `constraint` is what CompileConstraint made of the
  // request's. `limits` must outlive it.
  Generation(GenerateRequest request, const GenerationLimits& limits,
             std::shared_ptr<const Constraint> constraint = nullptr);

  // What the pass over the last token of tokens() is to give. REQUIRES: !finish_reason().
  DrawRequest NextDraw() const;
  // Takes the logits [vocab] that it gave, and draws one more token. The delta has its id
  // (end-of-sequence and stop ids too) and the text that it settles (of those ids none). kInternal
  // when the logits are not numbers; kFailedPrecondition when no token of the model's goes on as
  // the constraint demands. REQUIRES: !finish_reason().
  absl::StatusOr<GenerateDelta> Advance(absl::Span<const float> logits);
  // The same for a token that was drawn as NextDraw() asked. kInternal when its id is -1.
  // REQUIRES: !finish_reason(), !NextDraw().logits.
  absl::StatusOr<GenerateDelta> Advance(TokenLogprob drawn);

  // Tokens are drawn from a set that changes with each of them and is known on the host alone.
  bool constrained() const { return constraint_ != nullptr; }
  // Set once the answer is complete.
  std::optional<FinishReason> finish_reason() const { return finish_reason_; }
  // The prompt, then the answer so far.
  const std::vector<int32_t>& tokens() const { return tokens_; }
  int64_t prompt_tokens() const { return prompt_tokens_; }
  int64_t generated_tokens() const { return static_cast<int64_t>(tokens_.size()) - prompt_tokens_; }

 private:
  bool EndsAnswer(int32_t id) const;
  absl::Status FindAllowed();
  absl::Status FollowConstraint(int32_t id);
  std::string TextOf(int32_t id);
  absl::StatusOr<GenerateDelta> Accept(TokenLogprob drawn);

  const GenerateRequest request_;  // less its prompt, which is in tokens_
  const GenerationLimits& limits_;
  const int64_t prompt_tokens_;
  const int64_t max_tokens_;  // of the answer
  std::vector<int32_t> tokens_;
  Sampler sampler_;
  StopStrings stop_strings_;
  std::optional<IncrementalDecoder> decoder_;  // none without a tokenizer
  const std::shared_ptr<const Constraint> constraint_;
  Constraint::State place_;  // of the answer so far
  TokenMask allowed_;        // of the next token
  std::optional<FinishReason> finish_reason_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_GENERATION_H_
